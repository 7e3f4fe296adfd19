"""Sheets of images: what a network mistakes, what it looks at, what its first layer has learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cnn_sweeps.evaluation.figures import DPI
from cnn_sweeps.evaluation.metrics import Floats, Labels
from cnn_sweeps.text.names import for_picture

NUM_MISTAKES = 12
NUM_EXPLAINED = 4  # right ones, and as many wrong ones
_COLUMNS = 4
_FILTERS_A_ROW = 16
_LONGEST_NAME = 24

Pixels = NDArray[np.uint8]


def most_confident_mistakes(confidence: Floats, predicted: Labels, labels: Labels) -> Labels:
    """Give the positions of up to 12 wrong predictions, those of the highest probability first; all are (n,)."""
    return _most_confident(confidence, predicted != labels, NUM_MISTAKES)


def images_to_explain(confidence: Floats, predicted: Labels, labels: Labels) -> tuple[Labels, Labels]:
    """Give the positions of up to 4 right predictions, of all classes in turn, and 4 wrong ones; the most confident."""
    is_right = predicted == labels
    best_of_class = [_most_confident(confidence, is_right & (labels == i), NUM_EXPLAINED) for i in np.unique(labels)]
    in_turn = [best[rank] for rank in range(NUM_EXPLAINED) for best in best_of_class if rank < len(best)]
    return np.array(in_turn[:NUM_EXPLAINED], np.int64), _most_confident(confidence, ~is_right, NUM_EXPLAINED)


@dataclass(frozen=True)
class Predictions:
    """What a network takes images for.

    Attributes:
        images: (n, height, width, channels), 0 to 255, n at least 1.
        names: (n,), of the files.
        labels: (n,), the true classes.
        predicted: (n,), the predicted classes.
        confidence: (n,), the probabilities of the predicted classes.
        class_names: (C,).
    """

    images: Pixels
    names: Sequence[str]
    labels: Labels
    predicted: Labels
    confidence: Floats
    class_names: Sequence[str]

    def verdict(self, i: int) -> str:
        """Say what image `i` was taken for and, where that is wrong, what it is."""
        return _verdict(self.labels[i], self.predicted[i], self.confidence[i], self.class_names)


def draw_predictions(shown: Predictions, title: str, heat: Floats | None = None) -> Figure:
    """Draw images under their file names, what they were taken for and, where that is wrong, what they are.

    Args:
        shown: the images.
        title: of the sheet.
        heat: (n, rows, columns), 0 to 1, laid over the images; None: nothing.
    """
    figure, all_axes = _sheet(len(shown.images), title)
    for i, (axes, image) in enumerate(zip(all_axes, shown.images, strict=False)):
        is_grey, (height, width) = image.shape[2] == 1, image.shape[:2]
        axes.imshow(image[:, :, 0] if is_grey else image, cmap="gray" if is_grey else None, vmin=0, vmax=255)
        if heat is not None:
            extent = (-0.5, width - 0.5, height - 0.5, -0.5)
            axes.imshow(heat[i], cmap="inferno", alpha=0.5, extent=extent, interpolation="bilinear", vmin=0, vmax=1)
        axes.set_title(f"{_shortened(shown.names[i])}\n{shown.verdict(i)}", fontsize=8)
    return figure


def draw_filters(kernels: NDArray[np.floating[Any]], title: str) -> Figure:
    """Draw the kernels of a convolution, (height, width, channels, filters), each from its lowest to its highest value.

    In colour with 3 input channels, else the mean over them in grey.
    """
    filters = np.moveaxis(kernels, 3, 0)
    pictures = filters if filters.shape[3] == 3 else filters.mean(axis=3, keepdims=True)
    low, high = (extreme(pictures, axis=(1, 2, 3), keepdims=True) for extreme in (np.min, np.max))
    scaled = (pictures - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
    rows = -(-len(scaled) // _FILTERS_A_ROW)
    figure = Figure(figsize=(7.5, 0.5 * rows + 0.5), dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots()
    axes.imshow(_side_by_side(scaled, rows), cmap="gray", vmin=0, vmax=1)
    axes.axis("off")
    return figure


def _side_by_side(pictures: Floats, rows: int) -> Floats:
    """Lay (n, height, width, channels) out in rows, a white pixel between two."""
    number, height, width, channels = pictures.shape
    framed = np.ones((rows * _FILTERS_A_ROW, height + 1, width + 1, channels))
    framed[:number, :height, :width] = pictures
    grid = framed.reshape(rows, _FILTERS_A_ROW, height + 1, width + 1, channels)
    return np.moveaxis(grid, 1, 2).reshape(rows * (height + 1), _FILTERS_A_ROW * (width + 1), channels)


def _most_confident(confidence: Floats, is_wanted: NDArray[np.bool_], number: int) -> Labels:
    wanted = np.flatnonzero(is_wanted)
    return wanted[np.argsort(-confidence[wanted], kind="stable")][:number]


def _sheet(number: int, title: str) -> tuple[Figure, Sequence[Axes]]:
    rows = -(-number // _COLUMNS)
    figure = Figure(figsize=(8.4, 2.45 * rows + 0.4), dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=10)
    all_axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel().tolist()
    for axes in all_axes:
        axes.axis("off")
    return figure, all_axes


def _verdict(label: int, predicted: int, confidence: float, class_names: Sequence[str]) -> str:
    told = f"{_shortened(class_names[predicted])} {confidence:.3f}"
    return told if predicted == label else f"{told}, is {_shortened(class_names[label])}"


def _shortened(name: str) -> str:
    """Give the end of a long name, which tells files apart."""
    return for_picture(name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}")
