"""Writes the pictures of a training, and draws explained images and filters."""

import io
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import layers
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cnn_sweeps.evaluation import figures
from cnn_sweeps.evaluation.figures import DPI
from cnn_sweeps.evaluation.lettering import label
from cnn_sweeps.evaluation.metrics import Floats
from cnn_sweeps.evaluation.results import Evaluation
from cnn_sweeps.settings.schema import TrainingConfig
from cnn_sweeps.system.files import collecting_failures, replace_whole
from cnn_sweeps.training.loop import stopped_early
from cnn_sweeps.training.progress import TrainingProgress

_FILTERS_A_ROW = 16


def write_pictures(
    folder: Path, model: keras.Model, evaluation: Evaluation, progress: TrainingProgress, config: TrainingConfig
) -> list[str]:
    """Write PNG files of the training, of the results on held-out images, and of the filters.

    Returns:
        A message for each picture that cannot be drawn; the others are drawn.

    Raises:
        OSError: if the disk is full.
    """
    measured, about = evaluation.held_out, (progress.history, progress.best_epoch, stopped_early(progress, config))
    pictures: dict[str, Callable[[], Figure | None]] = {
        "learning_curves": lambda: figures.draw_learning_curves(*about, evaluation.validation),
        "confusion_matrix": lambda: figures.draw_confusion_matrix(measured),
        "roc_curve": lambda: figures.draw_roc_curve(measured),
        "pr_curve": lambda: figures.draw_pr_curve(measured),
        "reliability": lambda: figures.draw_reliability(measured),
        "scores": lambda: figures.draw_scores(measured),
        "filters": lambda: draw_filters(model),
    }
    folder.mkdir(parents=True, exist_ok=True)
    failures = list[str]()
    for name, draw in pictures.items():
        file = folder / f"{name}.png"
        file.unlink(missing_ok=True)  # of an earlier evaluation
        with collecting_failures(failures, f"{file.name} cannot be drawn"):
            if (figure := draw()) is not None:
                figure.savefig(picture := io.BytesIO(), format="png")
                replace_whole(file, picture.getbuffer(), is_kept_at_once=False)
    return failures


def draw_explained(
    image: NDArray[np.uint8], heat: Floats, file_name: str, class_name: str, probability: float
) -> Figure:
    """Draw an image, (height, width, channels), with its Grad-CAM, (rows, columns), 0 to 1, over it."""
    figure = Figure(figsize=(3.6, 4), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.axis("off")
    is_grey, (height, width) = image.shape[2] == 1, image.shape[:2]
    axes.imshow(image[:, :, 0] if is_grey else image, cmap="gray" if is_grey else None, vmin=0, vmax=255)
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axes.imshow(heat, cmap="inferno", alpha=0.5, extent=extent, interpolation="bilinear", vmin=0, vmax=1)
    axes.set_title(f"{label(file_name)}\n{label(class_name)} {probability:.3f}", fontsize=10)
    return figure


def draw_filters(model: keras.Model) -> Figure | None:
    """Draw the kernels of the first convolution, each scaled from its lowest to its highest value.

    With 3 input channels they are in colour, else the mean over the channels is grey. None without a convolution.
    """
    first = next((layer for layer in model.layers if isinstance(layer, layers.Conv2D)), None)
    if first is None:
        return None
    filters = np.moveaxis(keras.ops.convert_to_numpy(first.kernel), 3, 0)
    pictures = filters if filters.shape[3] == 3 else filters.mean(axis=3, keepdims=True)
    low, high = (extreme(pictures, axis=(1, 2, 3), keepdims=True) for extreme in (np.min, np.max))
    number, height, width, channels = pictures.shape
    rows = -(-number // _FILTERS_A_ROW)
    framed = np.ones((rows * _FILTERS_A_ROW, height + 1, width + 1, channels))
    framed[:number, :height, :width] = (pictures - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
    grid = np.moveaxis(framed.reshape(rows, _FILTERS_A_ROW, height + 1, width + 1, channels), 1, 2)
    figure = Figure(figsize=(7.5, 0.5 * rows + 0.5), dpi=DPI, layout="constrained")
    figure.suptitle(f"Filters of the first convolution, {first.name}", fontsize=10)
    axes = figure.subplots()
    axes.imshow(grid.reshape(rows * (height + 1), -1, channels), cmap="gray", vmin=0, vmax=1)
    axes.axis("off")
    return figure
