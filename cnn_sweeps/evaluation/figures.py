"""Curves and tables of a run as pictures, drawn without a display."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from cnn_sweeps.evaluation.estimates import NUM_BINS, Estimate, confidence_bins
from cnn_sweeps.evaluation.metrics import Floats, Labels
from cnn_sweeps.text.names import for_picture

# Okabe & Ito: told apart by colour-blind eyes and in print
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
TRAIN_COLOUR, VAL_COLOUR = COLOURS[:2]
DPI = 110


def draw_learning_curves(
    history: Sequence[dict[str, float]],
    best_epoch: int,
    stopped_early: bool,
    *,
    commonest: float | None = None,
    is_at_half: bool = False,
) -> Figure:
    """Draw log loss, accuracy and learning rate over the epochs, with the best epoch and an early stop marked.

    Args:
        history: one dict an epoch with `train_` and `val_` `log_loss` and `accuracy`, and `learning_rate`.
        best_epoch: counted from 1.
        stopped_early: whether early stopping ended the run.
        commonest: accuracy on validation images of naming their commonest class, marked in the picture; None: is not.
        is_at_half: whether to say that the accuracy is at a threshold of 0.5, as it is while training.
    """
    figure = Figure(figsize=(11, 3.6), dpi=DPI, layout="constrained")
    epochs = range(1, len(history) + 1)
    loss, accuracy, rate = figure.subplots(1, 3)
    for axes, metric, title in (
        (loss, "log_loss", "Log loss (without penalty)"),
        (accuracy, "accuracy", "Accuracy (threshold 0.5)" if is_at_half else "Accuracy"),
    ):
        for split, colour, label in (
            ("train", TRAIN_COLOUR, "train (while training)"),
            ("val", VAL_COLOUR, "validation"),
        ):
            axes.plot(epochs, [row[f"{split}_{metric}"] for row in history], ".-", color=colour, label=label)
        axes.set_title(title)
    if commonest is not None:
        accuracy.axhline(commonest, color="0.5", linestyle="-.", linewidth=1, label="commonest class")
        accuracy.legend(frameon=False)
    rate.plot(epochs, [row["learning_rate"] for row in history], ".-", color="0.3")
    rate.set_title("Learning rate")
    rate.set_ylim(bottom=0)
    for axes in (loss, accuracy, rate):
        axes.axvline(best_epoch, color="0.5", linestyle="--", linewidth=1)
        if stopped_early:
            axes.axvline(len(history), color="0.5", linestyle=":", linewidth=1.5)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    loss.legend(frameon=False)
    stopped = f"stopped early after epoch {len(history)} (dotted)"
    ending = stopped if stopped_early else f"ended after {len(history)} epochs"
    figure.suptitle(f"{ending}; best epoch {best_epoch} (dashed)", fontsize=10)
    return figure


def draw_confusion_matrix(counts: NDArray[np.int64], class_names: Sequence[str], title: str) -> Figure:
    """Draw counts (true class, predicted class), each row coloured by its shares; with numbers up to 30 classes."""
    side = min(3.2 + 0.45 * len(class_names), 14)
    figure = Figure(figsize=(side + 0.8, side), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    readable = len(class_names) <= 30
    for (row, column), count in np.ndenumerate(counts) if readable else ():
        dark = shares[row, column] > 0.5
        axes.text(column, row, str(count), ha="center", va="center", color="white" if dark else "black")
    if readable:
        ticks = range(len(class_names))
        shown = [for_picture(name) for name in class_names]
        axes.set_xticks(ticks, shown, rotation=45 if len(class_names) > 2 else 0)
        axes.set_yticks(ticks, shown)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title)
    figure.colorbar(picture, ax=axes, label="share of the true class", shrink=0.8)
    return figure


def draw_roc_curve(
    probabilities: Floats,
    labels: Labels,
    class_names: Sequence[str],
    auc: Estimate,
    title: str,
    threshold: float | None = None,
) -> Figure:
    """Draw the ROC curve of the positive class or, of more than two classes, of each against the rest.

    A threshold, of two classes, is marked on it.
    """
    figure, axes = _square(f"{title}: area {_with_bounds(auc)}", "false positive rate", "true positive rate")
    axes.plot([0, 1], [0, 1], color="0.6", linestyle=":", linewidth=1)
    for is_class, scores, style in _one_against_the_rest(probabilities, labels, class_names):
        false_positive_rate, true_positive_rate, _ = roc_curve(is_class, scores)
        axes.plot(false_positive_rate, true_positive_rate, **style)
    if threshold is not None:
        is_predicted, is_positive = probabilities[:, 1] >= threshold, labels == 1
        rates = [float(is_predicted[of].mean()) if of.any() else np.nan for of in (~is_positive, is_positive)]
        _mark_threshold(axes, rates[0], rates[1], threshold)
    _name_classes(axes, class_names)
    return figure


def draw_pr_curve(
    probabilities: Floats,
    labels: Labels,
    class_names: Sequence[str],
    auc: Estimate,
    title: str,
    threshold: float | None = None,
) -> Figure:
    """Draw precision over recall of the positive class or, of more than two classes, of each against the rest.

    A threshold, of two classes, is marked on it.
    """
    figure, axes = _square(f"{title}: average precision {_with_bounds(auc)}", "recall", "precision")
    for is_class, scores, style in _one_against_the_rest(probabilities, labels, class_names):
        precision, recall, _ = precision_recall_curve(is_class, scores)
        axes.step(recall, precision, where="pre", **style)
    if threshold is not None:
        is_predicted, is_positive = probabilities[:, 1] >= threshold, labels == 1
        num_hits = int((is_predicted & is_positive).sum())
        recall, precision = (num_hits / max(1, int(of.sum())) for of in (is_positive, is_predicted))
        _mark_threshold(axes, recall, precision, threshold)
    _name_classes(axes, class_names)
    return figure


def draw_reliability(probabilities: Floats, labels: Labels, error: Estimate, title: str) -> Figure:
    """Draw how often the most probable class is the true one over its probability, and how many images have which."""
    confidence, is_correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = confidence_bins(confidence)
    counts = np.bincount(bins, minlength=NUM_BINS)
    means = [
        np.bincount(bins, weights, NUM_BINS)[counts > 0] / counts[counts > 0] for weights in (confidence, is_correct)
    ]
    figure = Figure(figsize=(6, 5.6), dpi=DPI, layout="constrained")
    accuracy, images = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    lowest = 1 / probabilities.shape[1]
    accuracy.plot([lowest, 1], [lowest, 1], color="0.6", linestyle=":", label="as confident as right")
    accuracy.plot(*means, "o-", color=TRAIN_COLOUR, label=f"calibration error {_with_bounds(error)}")
    accuracy.set(title=title, ylabel="accuracy", ylim=(-0.03, 1.03))
    accuracy.legend(frameon=False, loc="best")
    images.bar((np.arange(NUM_BINS) + 0.5) / NUM_BINS, counts, 0.9 / NUM_BINS, color=TRAIN_COLOUR)
    images.set(xlabel="probability of the most probable class", ylabel="images", xlim=(lowest - 0.03, 1.03))
    accuracy.grid(alpha=0.3)
    return figure


def draw_scores(
    probabilities: Floats, labels: Labels, class_names: Sequence[str], threshold: float | None, title: str
) -> Figure:
    """Draw how often each score occurs, of images that should and that should not have it.

    The score is the probability of the positive class, with the decision threshold marked, or, of more than two
    classes, of the predicted class, for right and wrong predictions.
    """
    if len(class_names) == 2:
        scores, is_second, names = probabilities[:, 1], labels == 1, tuple(map(for_picture, class_names))
        label = f"probability of {names[1]}"
    else:
        scores, is_second, names = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, ("wrong", "right")
        label = "probability of the predicted class"
    figure = Figure(figsize=(6, 4.2), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    edges = np.linspace(0, 1, 26).tolist()
    for is_one, name, colour in ((~is_second, names[0], TRAIN_COLOUR), (is_second, names[1], VAL_COLOUR)):
        axes.hist(scores[is_one], edges, color=colour, alpha=0.3)
        axes.hist(scores[is_one], edges, color=colour, histtype="step", linewidth=1.5, label=f"{name} ({is_one.sum()})")
    if threshold is not None:
        axes.axvline(threshold, color="black", linestyle="--", linewidth=1, label=f"threshold {threshold:.3g}")
    axes.set(title=title, xlabel=label, ylabel="images")
    axes.set_yscale("symlog", linthresh=1)
    axes.yaxis.set_major_formatter("{x:.0f}")
    axes.legend(frameon=False, loc="upper center")
    return figure


def _square(title: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.6, 5.2), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x_label, ylabel=y_label, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    return figure, axes


def _one_against_the_rest(
    probabilities: Floats, labels: Labels, class_names: Sequence[str]
) -> Iterator[tuple[NDArray[np.bool_], Floats, dict[str, Any]]]:
    """Give of each class that has a curve: which images are of it, their scores, and how its line is drawn."""
    classes = [1] if len(class_names) == 2 else range(len(class_names))
    for i in classes:
        if (is_class := labels == i).any():
            style = (
                {"color": COLOURS[i], "label": for_picture(class_names[i])}
                if _can_be_named(class_names)
                else {"color": "0.3"}
            )
            yield is_class, probabilities[:, i], {"linewidth": 1.5, **style}


def _mark_threshold(axes: Axes, x: float, y: float, threshold: float) -> None:
    axes.plot([x], [y], "o", color="black", label=f"threshold {threshold:.3g}")


def _name_classes(axes: Axes, class_names: Sequence[str]) -> None:
    if _can_be_named(class_names):
        axes.legend(frameon=False, loc="best")


def _can_be_named(class_names: Sequence[str]) -> bool:
    return len(class_names) <= len(COLOURS)  # more could not be told apart


def _with_bounds(each: Estimate) -> str:
    return f"{each.value:.3f} ({each.low:.3f} to {each.high:.3f})"
