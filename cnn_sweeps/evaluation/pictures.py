"""The pictures that a person looks at after a training; here, sheets of images and of filters."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import layers
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cnn_sweeps.errors import describe_error
from cnn_sweeps.evaluation import figures
from cnn_sweeps.evaluation.figures import DPI, describe_threshold
from cnn_sweeps.evaluation.grad_cam import grad_cam
from cnn_sweeps.evaluation.lettering import label
from cnn_sweeps.evaluation.metrics import Floats, Labels
from cnn_sweeps.evaluation.results import Evaluation, Measured
from cnn_sweeps.settings.schema import TrainingConfig
from cnn_sweeps.system.files import is_disk_full
from cnn_sweeps.training.loop import stopped_early
from cnn_sweeps.training.progress import TrainingProgress

NUM_MISTAKES = 12
NUM_EXPLAINED = 4  # right ones, and as many wrong ones
_COLUMNS = 4
_FILTERS_A_ROW = 16


def write_pictures(
    folder: Path, model: keras.Model, evaluation: Evaluation, progress: TrainingProgress, config: TrainingConfig
) -> list[str]:
    """Draw how the training went, how good the network is on held-out images, and what it looks at; a PNG file each.

    A picture that cannot be drawn leaves the others as they are.

    Returns:
        What to say of each picture that cannot be drawn.

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
        "mistakes": lambda: _draw_mistakes(measured),
        "grad_cam": lambda: _draw_grad_cam(model, measured),
        "filters": lambda: draw_filters(model),
    }
    folder.mkdir(parents=True, exist_ok=True)
    failures = []
    for name, draw in pictures.items():
        file = folder / f"{name}.png"
        try:
            if (figure := draw()) is not None:
                figure.savefig(file)
        except Exception as error:  # whatever matplotlib, Keras or a user's own layer makes of it: it is but a picture
            file.unlink(missing_ok=True)
            if is_disk_full(error):
                raise
            failures.append(f"{file.name} cannot be drawn ({describe_error(error)})")
    return failures


def _draw_mistakes(measured: Measured) -> Figure | None:
    mistakes = most_confident_mistakes(measured)
    return draw_predictions(measured, mistakes, "the most confident mistakes") if len(mistakes) else None


def _draw_grad_cam(model: keras.Model, measured: Measured) -> Figure | None:
    chosen = images_to_explain(measured)
    heat = grad_cam(model, measured.dataset.images[measured.indices[chosen]], measured.predicted[chosen])
    title = "where the network sees the class (Grad-CAM); first right ones, then wrong ones"
    return None if heat is None else draw_predictions(measured, chosen, title, heat)


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
    num_rows, captions = -(-len(chosen) // _COLUMNS), [_caption_of(measured, i) for i in chosen.tolist()]
    figure = Figure(figsize=(9.6, 2.8 * num_rows + 0.4), dpi=DPI, layout="constrained")
    figure.suptitle(f"{measured.title}{describe_threshold(measured)}: {title}", fontsize=10)
    all_axes = figure.subplots(num_rows, _COLUMNS, squeeze=False).ravel().tolist()
    for axes in all_axes:
        axes.axis("off")
    for number, (axes, i) in enumerate(zip(all_axes, chosen.tolist(), strict=False)):
        _draw_image(axes, measured.dataset.images[measured.indices[i]], None if heat is None else heat[number])
        axes.set_title(captions[number], fontsize=8)
    return figure


def draw_explained(
    image: NDArray[np.uint8], heat: Floats, file_name: str, class_name: str, probability: float
) -> Figure:
    """Draw an image, (height, width, channels), under its file's name and what it was taken for.

    Over it is laid where the network sees that class, (rows, columns), 0 to 1.
    """
    caption = _caption(file_name, class_name, probability)
    figure = Figure(figsize=(3.6, 4), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.axis("off")
    _draw_image(axes, image, heat)
    axes.set_title(caption, fontsize=10)
    return figure


def _draw_image(axes: Axes, image: NDArray[np.uint8], heat: Floats | None) -> None:
    is_grey, (height, width) = image.shape[2] == 1, image.shape[:2]
    axes.imshow(image[:, :, 0] if is_grey else image, cmap="gray" if is_grey else None, vmin=0, vmax=255)
    if heat is not None:
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        axes.imshow(heat, cmap="inferno", alpha=0.5, extent=extent, interpolation="bilinear", vmin=0, vmax=1)


def _caption_of(measured: Measured, i: int) -> str:
    true, predicted, names = measured.labels[i], measured.predicted[i], measured.dataset.class_names
    name = measured.dataset.image_name(int(measured.indices[i]))
    is_what = "" if predicted == true else f"\nis {label(names[true])}"
    return _caption(name, names[predicted], measured.confidence[i]) + is_what


def _caption(file_name: str, class_name: str, probability: float) -> str:
    return f"{label(file_name)}\n{label(class_name)} {probability:.3f}"


def draw_filters(model: keras.Model) -> Figure | None:
    """Draw the kernels of the first convolution, if there is one, each from its lowest to its highest value.

    In colour with 3 input channels, else the mean over them in grey; in rows, a white pixel between two.
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
