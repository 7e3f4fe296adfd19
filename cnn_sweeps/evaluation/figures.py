"""Pictures of a run, drawn without a display."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

TRAIN_COLOUR, VAL_COLOUR = "#0072B2", "#D55E00"  # Okabe & Ito: told apart by colour-blind eyes and in print


def draw_learning_curves(history: Sequence[dict[str, float]], best_epoch: int, stopped_early: bool) -> Figure:
    """Draw log loss, accuracy and learning rate over the epochs, with the best epoch marked.

    Args:
        history: one dict an epoch with `train_` and `val_` `log_loss` and `accuracy`, and `learning_rate`.
        best_epoch: counted from 1.
        stopped_early: whether early stopping ended the run.
    """
    figure = Figure(figsize=(11, 3.6), dpi=110, layout="constrained")
    epochs = range(1, len(history) + 1)
    loss, accuracy, rate = figure.subplots(1, 3)
    for axes, metric, title in (
        (loss, "log_loss", "Log loss (without penalty)"),
        (accuracy, "accuracy", "Accuracy"),
    ):
        for split, colour, label in (
            ("train", TRAIN_COLOUR, "train (while training)"),
            ("val", VAL_COLOUR, "validation"),
        ):
            axes.plot(epochs, [row[f"{split}_{metric}"] for row in history], ".-", color=colour, label=label)
        axes.set_title(title)
    rate.plot(epochs, [row["learning_rate"] for row in history], ".-", color="0.3")
    rate.set_title("Learning rate")
    rate.set_ylim(bottom=0)
    for axes in (loss, accuracy, rate):
        _mark_best(axes, best_epoch)
    loss.legend(frameon=False)
    ending = "stopped early after" if stopped_early else "ended after"
    figure.suptitle(f"{ending} epoch {len(history)}; best epoch {best_epoch} (dashed)", fontsize=10)
    return figure


def draw_confusion_matrix(counts: NDArray[np.int64], class_names: Sequence[str], title: str) -> Figure:
    """Draw counts (true class, predicted class), each row coloured by its shares; with numbers up to 30 classes."""
    side = min(3.2 + 0.45 * len(class_names), 14)
    figure = Figure(figsize=(side + 0.8, side), dpi=110, layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    readable = len(class_names) <= 30
    for (row, column), count in np.ndenumerate(counts) if readable else ():
        dark = shares[row, column] > 0.5
        axes.text(column, row, str(count), ha="center", va="center", color="white" if dark else "black")
    if readable:
        ticks = range(len(class_names))
        axes.set_xticks(ticks, class_names, rotation=45 if len(class_names) > 2 else 0)
        axes.set_yticks(ticks, class_names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title)
    figure.colorbar(picture, ax=axes, label="share of the true class", shrink=0.8)
    return figure


def _mark_best(axes: Axes, best_epoch: int) -> None:
    axes.axvline(best_epoch, color="0.5", linestyle="--", linewidth=1)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
