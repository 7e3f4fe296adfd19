"""Draws curves and tables of a training as figures; needs no display."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from cnn_sweeps.evaluation.lettering import label
from cnn_sweeps.evaluation.metrics import NUM_BINS, Floats, confidence_bins
from cnn_sweeps.evaluation.results import Confusion, Measured
from cnn_sweeps.text.numbers import counted, probability_text

# The palette of Okabe & Ito, which colour-blind readers can tell apart, also in print
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
TRAIN_COLOUR, VAL_COLOUR = COLOURS[:2]
DPI = 110
_MOST_NAMED = 30  # classes of a confusion matrix with readable numbers and names
_MOST_CONFUSIONS = 25  # listed by name beside a larger matrix
_LONGEST_LEVEL = 10  # letters of a name that fits under a column


def draw_learning_curves(
    history: Sequence[dict[str, float]], best_epoch: int, stopped_early: bool, validation: Measured
) -> Figure:
    """Draw log loss, accuracy and learning rate over the epochs; mark the best epoch and an early stop.

    Args:
        history: a dict for each epoch: `log_loss` and `accuracy` with the prefixes `train_` and `val_`, and
            `learning_rate`.
        best_epoch: counted from 1.
        stopped_early: whether early stopping ended the training.
        validation: gives the accuracy of naming the commonest class, drawn for comparison.
    """
    figure = Figure(figsize=(11, 3.6), dpi=DPI, layout="constrained")
    at_half = " (threshold 0.5)" if validation.threshold is not None else ""
    titles = {
        "log_loss": "Log loss (without penalty)",
        "accuracy": f"Accuracy{at_half}",
        "learning_rate": "Learning rate",
    }
    lines = {"train_": (TRAIN_COLOUR, "train (while training)"), "val_": (VAL_COLOUR, "validation"), "": ("0.3", None)}
    for axes, (metric, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        for prefix, (colour, series) in lines.items():
            if values := [row[prefix + metric] for row in history if prefix + metric in row]:
                axes.plot(range(1, len(values) + 1), values, ".-", color=colour, label=series)
        if metric == "accuracy":
            commonest = validation.values["accuracy_of_commonest_class"]
            axes.axhline(commonest, color="0.5", linestyle="-.", linewidth=1, label="commonest class")
        axes.axvline(best_epoch, color="0.5", linestyle="--", linewidth=1)
        if stopped_early:
            axes.axvline(len(history), color="0.5", linestyle=":", linewidth=1.5)
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if metric == "learning_rate":
            axes.set_ylim(bottom=0)
        else:
            axes.legend(frameon=False)
    stopped = f"stopped early after epoch {len(history)} (dotted)"
    ending = stopped if stopped_early else f"ended after {counted(len(history), 'epoch')}"
    figure.suptitle(f"{ending}; best epoch {best_epoch} (dashed)", fontsize=10)
    return figure


def draw_confusion_matrix(measured: Measured) -> Figure:
    """Draw how many images of each true class (row) get each class (column), coloured by the share of the row.

    With more than 30 classes, numbers and names would be unreadable; the commonest confusions are listed instead.
    """
    names = [label(name) for name in measured.dataset.class_names]
    is_named = len(names) <= _MOST_NAMED
    counts = measured.confusion_matrix
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(3.2 + 0.45 * len(names), 14) if is_named else 7.0
    figure = Figure(figsize=(side + (0.8 if is_named else 6.0), side), dpi=DPI, layout="constrained")
    axes, *beside = figure.subplots(1, 1 if is_named else 2, squeeze=False, width_ratios=[1] if is_named else [5, 3])[0]
    by = "" if is_named else ": number of the class, by name from 0 on"
    axes.set(xlabel=f"predicted{by}", ylabel=f"true{by}")
    at = "" if measured.threshold is None else f" at the threshold {probability_text(measured.threshold)}"
    axes.set_title(f"{measured.title}{at}", fontsize=10)
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if is_named:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)
        is_level = len(names) == 2 and max(map(len, names)) <= _LONGEST_LEVEL
        turned: dict[str, Any] = {} if is_level else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(len(names)), names, **turned)
        axes.set_yticks(range(len(names)), names)
    figure.colorbar(picture, ax=axes, label="share of the true class", shrink=0.8)
    for each in beside:
        _draw_confusions(each, measured.confusions[:_MOST_CONFUSIONS], names)
    return figure


def _draw_confusions(axes: Axes, confusions: Sequence[Confusion], names: Sequence[str]) -> None:
    """Draw how many images of one class are taken for another one, the commonest confusion at the top."""
    pairs = [f"{names[true]} as {names[predicted]}" for true, predicted, *_ in confusions]
    axes.barh(range(len(pairs)), [each.num_images for each in confusions], color=VAL_COLOUR)
    axes.set_yticks(range(len(pairs)), pairs, fontsize=8)
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("images")
    axes.set_title("commonest confusions: true as predicted" if pairs else "no confusions", fontsize=10)


def draw_roc_curve(measured: Measured) -> Figure:
    """Draw the ROC curve of the positive class, with the decision threshold marked; with more classes, one each."""
    title = f"{measured.title}: area {measured.estimates['roc_auc']:.3f}"
    figure, axes = _begin_curves(title, "false positive rate", "true positive rate")
    axes.plot([0, 1], [0, 1], color="0.6", linestyle=":", linewidth=1)
    for is_class, scores, style in _one_against_the_rest(measured):
        false_positive_rate, true_positive_rate, _ = roc_curve(is_class, scores)
        axes.plot(false_positive_rate, true_positive_rate, **style)
    is_false_positive = measured.predicted[measured.labels == 0] == 1
    _end_curves(axes, measured, float(is_false_positive.mean()), measured.values["recall"])
    return figure


def draw_pr_curve(measured: Measured) -> Figure:
    """Draw precision over recall of the positive class, with the decision threshold; with more classes, one each."""
    title = f"{measured.title}: average precision {measured.estimates['pr_auc']:.3f}"
    names = measured.dataset.class_names
    of_positive = f" of {label(names[1])}" if len(names) == 2 else ""
    figure, axes = _begin_curves(title, f"recall{of_positive}", f"precision{of_positive}")
    for is_class, scores, style in _one_against_the_rest(measured):
        precision, recall, _ = precision_recall_curve(is_class, scores)
        axes.step(recall, precision, where="pre", **style)
    _end_curves(axes, measured, measured.values["recall"], measured.values["precision"])
    return figure


def draw_reliability(measured: Measured) -> Figure:
    """Draw accuracy over the probability of the most probable class, and the number of images in each bin."""
    confidence = measured.probabilities.max(axis=1)
    is_correct = measured.probabilities.argmax(axis=1) == measured.labels
    bins = confidence_bins(confidence)
    counts = np.bincount(bins, minlength=NUM_BINS)
    means = [np.bincount(bins, each, NUM_BINS)[counts > 0] / counts[counts > 0] for each in (confidence, is_correct)]
    figure = Figure(figsize=(6, 5.6), dpi=DPI, layout="constrained")
    accuracy, images = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    lowest = 1 / measured.probabilities.shape[1]
    error = f"calibration error {measured.estimates['expected_calibration_error']:.3f}"
    accuracy.plot([lowest, 1], [lowest, 1], color="0.6", linestyle=":", label="as confident as right")
    accuracy.plot(*means, "o-", color=TRAIN_COLOUR, label=error)
    accuracy.set(title=measured.title, ylabel="accuracy", ylim=(-0.03, 1.03))
    accuracy.legend(frameon=False, loc="best")
    accuracy.grid(alpha=0.3)
    images.bar((np.arange(NUM_BINS) + 0.5) / NUM_BINS, counts, 0.9 / NUM_BINS, color=TRAIN_COLOUR)
    images.set(xlabel="probability of the most probable class", ylabel="images", xlim=(lowest - 0.03, 1.03))
    return figure


def draw_scores(measured: Measured) -> Figure:
    """Draw two histograms of predicted probabilities.

    With two classes: the probability of the positive class, for images of each class, with the decision threshold
    marked. With more classes: the probability of the predicted class, for right and for wrong predictions.
    """
    names = [label(name) for name in measured.dataset.class_names]
    if len(names) == 2:
        scores, is_second, x_label = measured.probabilities[:, 1], measured.labels == 1, f"probability of {names[1]}"
    else:
        scores, is_second, names = measured.confidence, measured.predicted == measured.labels, ["wrong", "right"]
        x_label = "probability of the predicted class"
    figure, axes = _begin((6, 4.2), measured.title, xlabel=x_label, ylabel="images")
    edges = np.linspace(0, 1, 26).tolist()
    for is_one, name, colour in ((~is_second, names[0], TRAIN_COLOUR), (is_second, names[1], VAL_COLOUR)):
        style: dict[str, Any] = {
            "histtype": "stepfilled",
            "facecolor": (colour, 0.3),
            "edgecolor": colour,
            "linewidth": 1.5,
        }
        axes.hist(scores[is_one], edges, **style, label=f"{name} ({is_one.sum()})")
    if (threshold := measured.threshold) is not None:
        told = f"threshold {probability_text(threshold)}"
        axes.axvline(threshold, color="black", linestyle="--", linewidth=1, label=told)
    axes.set_yscale("symlog", linthresh=1)
    axes.yaxis.set_major_formatter("{x:.0f}")
    axes.legend(frameon=False, loc="upper center")
    return figure


def _begin(size: tuple[float, float], title: str, **settings: Any) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.set(**settings)
    axes.set_title(title, fontsize=10)
    return figure, axes


def _begin_curves(title: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure, axes = _begin((5.6, 5.2), title, xlabel=x_label, ylabel=y_label, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.grid(alpha=0.3)
    return figure, axes


def _one_against_the_rest(measured: Measured) -> Iterator[tuple[NDArray[np.bool_], Floats, dict[str, Any]]]:
    """Yield for each class that has a curve: which images belong to it, their scores, and the style of the line."""
    names = measured.dataset.class_names
    for i in [1] if len(names) == 2 else range(len(names)):
        named = {"color": COLOURS[i], "label": label(names[i])} if _can_be_named(names) else {"color": "0.3"}
        yield measured.labels == i, measured.probabilities[:, i], {"linewidth": 1.5, **named}


def _end_curves(axes: Axes, measured: Measured, x: float, y: float) -> None:
    """Mark the decision threshold of two classes, and add a legend."""
    if measured.threshold is not None:
        axes.plot([x], [y], "o", color="black", label=f"threshold {probability_text(measured.threshold)}")
    if _can_be_named(measured.dataset.class_names):
        axes.legend(frameon=False, loc="best")


def _can_be_named(class_names: Sequence[str]) -> bool:
    return len(class_names) <= len(COLOURS)  # there are no more distinct colours
