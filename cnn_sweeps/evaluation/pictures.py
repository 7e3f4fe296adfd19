"""The pictures that a person looks at after a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import keras
import numpy as np
from keras import layers
from matplotlib.figure import Figure

from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.data.split import Indices
from cnn_sweeps.errors import describe_error
from cnn_sweeps.evaluation import figures, image_sheets
from cnn_sweeps.evaluation.grad_cam import grad_cam
from cnn_sweeps.evaluation.metrics import Floats, accuracy_of_commonest_class, count_confusions
from cnn_sweeps.evaluation.results import Evaluation, Measured
from cnn_sweeps.settings.schema import TrainingConfig
from cnn_sweeps.system.files import is_disk_full
from cnn_sweeps.training.checkpoint import TrainingProgress
from cnn_sweeps.training.loop import stopped_early

Draw = Callable[[], Figure | None]
"""Draws a picture; None: there is nothing to draw."""


def write_pictures(
    folder: Path,
    model: keras.Model,
    dataset: ImageDataset,
    evaluation: Evaluation,
    progress: TrainingProgress,
    config: TrainingConfig,
) -> list[str]:
    """Draw how the training went, how good the network is on held-out images, and what it looks at; a PNG file each.

    A picture that cannot be drawn leaves the others as they are.

    Args:
        folder: is made if it is not there.
        model: with its final weights.
        dataset: the images.
        evaluation: what was measured of them.
        progress: of the training.
        config: of the training.

    Returns:
        What to say of each picture that cannot be drawn.

    Raises:
        OSError: if the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    failures = []
    for name, draw in _pictures(model, dataset, evaluation, progress, config):
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


def _pictures(
    model: keras.Model,
    dataset: ImageDataset,
    evaluation: Evaluation,
    progress: TrainingProgress,
    config: TrainingConfig,
) -> Iterator[tuple[str, Draw]]:
    """Give each picture's name and how it is drawn."""
    draw_learning_curves = partial(
        figures.draw_learning_curves,
        progress.history,
        progress.best_epoch,
        stopped_early(progress, config),
        commonest=accuracy_of_commonest_class(evaluation.validation.labels),
        is_at_half=evaluation.threshold is not None,
    )
    yield "learning_curves", draw_learning_curves
    yield from _quality(dataset, evaluation.held_out)
    yield "mistakes", partial(_draw_mistakes, dataset, evaluation.held_out)
    yield "grad_cam", partial(_draw_grad_cam, model, dataset, evaluation.held_out)
    yield "filters", partial(_draw_filters, model)


def _quality(dataset: ImageDataset, measured: Measured) -> Iterator[tuple[str, Draw]]:
    names, title, estimates = dataset.class_names, measured.title, measured.estimates
    probabilities, labels = measured.probabilities, measured.labels
    yield "confusion_matrix", partial(_draw_confusions, dataset, measured)
    for name, draw, area in (
        ("roc_curve", figures.draw_roc_curve, estimates["roc_auc"]),
        ("pr_curve", figures.draw_pr_curve, estimates["pr_auc"]),
    ):
        yield name, partial(draw, probabilities, labels, names, area, title, measured.threshold)
    error = estimates["expected_calibration_error"]
    yield "reliability", partial(figures.draw_reliability, probabilities, labels, error, title)
    yield "scores", partial(figures.draw_scores, probabilities, labels, names, measured.threshold, title)


def _at(measured: Measured) -> str:
    return "" if measured.threshold is None else f" at the threshold {measured.threshold:.3g}"


def _draw_confusions(dataset: ImageDataset, measured: Measured) -> Figure:
    confusions = count_confusions(measured.predicted, measured.labels, len(dataset.class_names))
    return figures.draw_confusion_matrix(confusions, dataset.class_names, f"{measured.title}{_at(measured)}")


def _draw_mistakes(dataset: ImageDataset, measured: Measured) -> Figure | None:
    mistakes = image_sheets.most_confident_mistakes(measured.confidence, measured.predicted, measured.labels)
    return _draw_sheet(dataset, measured, mistakes, "the most confident mistakes") if len(mistakes) else None


def _draw_grad_cam(model: keras.Model, dataset: ImageDataset, measured: Measured) -> Figure | None:
    chosen = np.concatenate(image_sheets.images_to_explain(measured.confidence, measured.predicted, measured.labels))
    heat = grad_cam(model, dataset.images[measured.indices[chosen]], measured.predicted[chosen])
    title = "where the network sees the class (Grad-CAM); first right ones, then wrong ones"
    return None if heat is None else _draw_sheet(dataset, measured, chosen, title, heat)


def _draw_sheet(
    dataset: ImageDataset, measured: Measured, chosen: Indices, title: str, heat: Floats | None = None
) -> Figure:
    positions = measured.indices[chosen]
    shown = image_sheets.Predictions(
        dataset.images[positions],
        [dataset.image_name(i) for i in positions.tolist()],
        measured.labels[chosen],
        measured.predicted[chosen],
        measured.confidence[chosen],
        dataset.class_names,
    )
    return image_sheets.draw_predictions(shown, f"{measured.title}{_at(measured)}: {title}", heat)


def _draw_filters(model: keras.Model) -> Figure | None:
    first = next((layer for layer in model.layers if isinstance(layer, layers.Conv2D)), None)
    if first is None:
        return None
    kernels = keras.ops.convert_to_numpy(first.kernel)
    return image_sheets.draw_filters(kernels, f"Filters of the first convolution, {first.name}")
