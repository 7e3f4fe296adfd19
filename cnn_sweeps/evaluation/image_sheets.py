"""Sheets of images: what a network mistakes, what it looks at, what its first layer has learned."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cnn_sweeps.evaluation.figures import DPI, describe_threshold
from cnn_sweeps.evaluation.metrics import Floats, Labels
from cnn_sweeps.evaluation.results import Measured
from cnn_sweeps.text.names import for_picture

NUM_MISTAKES = 12
NUM_EXPLAINED = 4  # right ones, and as many wrong ones
_COLUMNS = 4
_FILTERS_A_ROW = 16
_LONGEST_NAME = 24


def most_confident_mistakes(measured: Measured) -> Labels:
    """Give which of the measured images are up to 12 wrong predictions, those of the highest probability first."""
    return _most_confident(measured, measured.predicted != measured.labels, NUM_MISTAKES)


def images_to_explain(measured: Measured) -> Labels:
    """Give which are up to 4 right predictions, of all classes in turn, and 4 wrong ones; the most confident."""
    is_right, classes = measured.predicted == measured.labels, np.unique(measured.labels)
    best = [_most_confident(measured, is_right & (measured.labels == i), NUM_EXPLAINED) for i in classes]
    in_turn = [of_class[rank] for rank in range(NUM_EXPLAINED) for of_class in best if rank < len(of_class)]
    wrong = _most_confident(measured, ~is_right, NUM_EXPLAINED)
    return np.array([*in_turn[:NUM_EXPLAINED], *wrong], np.int64)


def _most_confident(measured: Measured, is_wanted: NDArray[np.bool_], number: int) -> Labels:
    wanted = np.flatnonzero(is_wanted)
    return wanted[np.argsort(-measured.confidence[wanted], kind="stable")][:number]


def draw_predictions(measured: Measured, chosen: Labels, title: str, heat: Floats | None = None) -> Figure:
    """Draw images under their file names, what they were taken for and, where that is wrong, what they are.

    Args:
        measured: the images.
        chosen: which of them, at least one.
        title: of the sheet.
        heat: (n, rows, columns), 0 to 1, laid over the chosen images; None: nothing.
    """
    num_rows = -(-len(chosen) // _COLUMNS)
    figure = Figure(figsize=(8.4, 2.45 * num_rows + 0.4), dpi=DPI, layout="constrained")
    figure.suptitle(f"{measured.title}{describe_threshold(measured)}: {title}", fontsize=10)
    all_axes = figure.subplots(num_rows, _COLUMNS, squeeze=False).ravel().tolist()
    for axes in all_axes:
        axes.axis("off")
    for number, (axes, i) in enumerate(zip(all_axes, chosen.tolist(), strict=False)):
        image = measured.dataset.images[measured.indices[i]]
        is_grey, (height, width) = image.shape[2] == 1, image.shape[:2]
        axes.imshow(image[:, :, 0] if is_grey else image, cmap="gray" if is_grey else None, vmin=0, vmax=255)
        if heat is not None:
            extent = (-0.5, width - 0.5, height - 0.5, -0.5)
            axes.imshow(
                heat[number], cmap="inferno", alpha=0.5, extent=extent, interpolation="bilinear", vmin=0, vmax=1
            )
        axes.set_title(_caption(measured, i), fontsize=8)
    return figure


def _caption(measured: Measured, i: int) -> str:
    label, predicted, names = measured.labels[i], measured.predicted[i], measured.dataset.class_names
    name = _shortened(measured.dataset.image_name(int(measured.indices[i])))
    is_what = "" if predicted == label else f", is {_shortened(names[label])}"
    return f"{name}\n{_shortened(names[predicted])} {measured.confidence[i]:.3f}{is_what}"


def _shortened(name: str) -> str:
    """Give the end of a long name, which tells files apart."""
    return for_picture(name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}")


def draw_filters(kernels: NDArray[np.floating[Any]], title: str) -> Figure:
    """Draw the kernels of a convolution, (height, width, channels, filters), each from its lowest to its highest value.

    In colour with 3 input channels, else the mean over them in grey; in rows, a white pixel between two.
    """
    filters = np.moveaxis(kernels, 3, 0)
    pictures = filters if filters.shape[3] == 3 else filters.mean(axis=3, keepdims=True)
    low, high = (extreme(pictures, axis=(1, 2, 3), keepdims=True) for extreme in (np.min, np.max))
    number, height, width, channels = pictures.shape
    rows = -(-number // _FILTERS_A_ROW)
    framed = np.ones((rows * _FILTERS_A_ROW, height + 1, width + 1, channels))
    framed[:number, :height, :width] = (pictures - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
    grid = np.moveaxis(framed.reshape(rows, _FILTERS_A_ROW, height + 1, width + 1, channels), 1, 2)
    figure = Figure(figsize=(7.5, 0.5 * rows + 0.5), dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots()
    axes.imshow(grid.reshape(rows * (height + 1), -1, channels), cmap="gray", vmin=0, vmax=1)
    axes.axis("off")
    return figure
