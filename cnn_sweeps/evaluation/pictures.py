"""The pictures that a person looks at after a training."""

from collections.abc import Callable
from pathlib import Path

import keras
from keras import layers
from matplotlib.figure import Figure

from cnn_sweeps.errors import describe_error
from cnn_sweeps.evaluation import figures, image_sheets
from cnn_sweeps.evaluation.grad_cam import grad_cam
from cnn_sweeps.evaluation.results import Evaluation, Measured
from cnn_sweeps.settings.schema import TrainingConfig
from cnn_sweeps.system.files import is_disk_full
from cnn_sweeps.training.checkpoint import TrainingProgress
from cnn_sweeps.training.loop import stopped_early


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
        "filters": lambda: _draw_filters(model),
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
    mistakes = image_sheets.most_confident_mistakes(measured)
    return image_sheets.draw_predictions(measured, mistakes, "the most confident mistakes") if len(mistakes) else None


def _draw_grad_cam(model: keras.Model, measured: Measured) -> Figure | None:
    chosen = image_sheets.images_to_explain(measured)
    heat = grad_cam(model, measured.dataset.images[measured.indices[chosen]], measured.predicted[chosen])
    title = "where the network sees the class (Grad-CAM); first right ones, then wrong ones"
    return None if heat is None else image_sheets.draw_predictions(measured, chosen, title, heat)


def _draw_filters(model: keras.Model) -> Figure | None:
    first = next((layer for layer in model.layers if isinstance(layer, layers.Conv2D)), None)
    if first is None:
        return None
    kernels = keras.ops.convert_to_numpy(first.kernel)
    return image_sheets.draw_filters(kernels, f"Filters of the first convolution, {first.name}")
