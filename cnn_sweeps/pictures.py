"""The pictures that a person looks at after a training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from keras import layers
from matplotlib.figure import Figure

from cnn_sweeps.checkpoint import TrainingProgress
from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.data.split import Indices
from cnn_sweeps.evaluation import figures, image_sheets
from cnn_sweeps.evaluation.grad_cam import grad_cam
from cnn_sweeps.evaluation.metrics import Floats, count_confusions
from cnn_sweeps.results import Evaluation
from cnn_sweeps.schema import TrainingConfig
from cnn_sweeps.training import stopped_early


def write_pictures(
    folder: Path,
    model: keras.Model,
    dataset: ImageDataset,
    evaluation: Evaluation,
    progress: TrainingProgress,
    config: TrainingConfig,
) -> None:
    """Draw how the training went, how good the network is on held-out images, and what it looks at; a PNG file each.

    Args:
        folder: is made if it is not there.
        model: with its final weights.
        dataset: the images.
        evaluation: what was measured of them.
        progress: of the training.
        config: of the training.
    """
    folder.mkdir(parents=True, exist_ok=True)
    curves = figures.draw_learning_curves(progress.history, progress.best_epoch, stopped_early(progress, config))
    curves.savefig(folder / "learning_curves.png")
    for drawn in (_quality(dataset, evaluation), _images(model, dataset, evaluation), _filters(model)):
        for name, figure in drawn:
            figure.savefig(folder / f"{name}.png")


def _quality(dataset: ImageDataset, evaluation: Evaluation) -> Iterator[tuple[str, Figure]]:
    measured, names = evaluation.held_out, dataset.class_names
    probabilities, labels, estimates = measured.probabilities, measured.labels, measured.estimates
    confusions = count_confusions(probabilities, labels)
    yield "confusion_matrix", figures.draw_confusion_matrix(confusions, names, measured.title)
    areas = estimates["roc_auc"], estimates["pr_auc"]
    yield "roc_curve", figures.draw_roc_curve(probabilities, labels, names, areas[0], measured.title)
    yield "pr_curve", figures.draw_pr_curve(probabilities, labels, names, areas[1], measured.title)
    error = estimates["expected_calibration_error"]
    yield "reliability", figures.draw_reliability(probabilities, labels, error, measured.title)
    yield "scores", figures.draw_scores(probabilities, labels, names, evaluation.threshold, measured.title)


def _images(model: keras.Model, dataset: ImageDataset, evaluation: Evaluation) -> Iterator[tuple[str, Figure]]:
    measured = evaluation.held_out
    labels, probabilities = measured.labels, measured.probabilities

    def draw(chosen: Indices, title: str, heat: Floats | None = None) -> Figure:
        positions = measured.indices[chosen]
        names = [dataset.image_name(i) for i in positions.tolist()]
        about = (labels[chosen], probabilities[chosen], dataset.class_names, f"{measured.title}: {title}")
        return image_sheets.draw_predictions(dataset.images[positions], names, *about, heat)

    mistakes = image_sheets.most_confident_mistakes(probabilities, labels)
    if len(mistakes):
        yield "mistakes", draw(mistakes, "the most confident mistakes")
    explained = np.concatenate(image_sheets.images_to_explain(probabilities, labels))
    heat = grad_cam(model, dataset.images[measured.indices[explained]])
    if heat is not None:
        title = "where the network sees the class (Grad-CAM); first right ones, then wrong ones"
        yield "grad_cam", draw(explained, title, heat)


def _filters(model: keras.Model) -> Iterator[tuple[str, Figure]]:
    first = next((layer for layer in model.layers if isinstance(layer, layers.Conv2D)), None)
    if first is not None:
        kernels = keras.ops.convert_to_numpy(first.kernel)
        yield "filters", image_sheets.draw_filters(kernels, f"Filters of the first convolution, {first.name}")
