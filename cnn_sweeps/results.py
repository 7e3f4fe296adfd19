"""How a finished run did: its final metrics, and the files that a person looks at."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from cnn_sweeps.checkpoint import TrainingProgress
from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.data.split import Indices, Split
from cnn_sweeps.evaluation.figures import draw_confusion_matrix, draw_learning_curves
from cnn_sweeps.evaluation.metrics import per_class_report, roc_auc, summarize
from cnn_sweeps.passwords import hide_passwords
from cnn_sweeps.schema import RunConfig, TrainingConfig
from cnn_sweeps.training import stopped_early

log = logging.getLogger(__name__)

Predict = Callable[[Indices], NDArray[np.float64]]
"""Gives the probabilities, (n, C), of the images at n positions."""


def final_validation(model: keras.Model, progress: TrainingProgress, config: TrainingConfig) -> dict[str, float]:
    """Give how the training went, and the validation metrics of the final weights, those of the best or last epoch."""
    final_epoch = progress.best_epoch if config.restore_best_weights else progress.epochs_done
    measured = progress.history[final_epoch - 1]
    final = {"best_epoch": float(progress.best_epoch), "epochs": float(progress.epochs_done)}
    final["num_parameters"] = model.count_params()
    final |= {f"final_{name}": measured[name] for name in ("val_log_loss", "val_accuracy")}
    log.info(
        "best epoch %d of %d; final weights on validation images: log loss %.4f, accuracy %.3f",
        *(progress.best_epoch, progress.epochs_done, final["final_val_log_loss"], final["final_val_accuracy"]),
    )
    return final


def evaluate_on_train(
    predict: Predict, dataset: ImageDataset, split: Split, final: dict[str, float]
) -> dict[str, float]:
    """Measure the final weights on the training images; give metrics, and the gap to the validation metrics in `final`.

    In inference mode, as validation is, so that the gap is that of generalization alone.
    """
    measured = summarize(predict(split.train), dataset.labels[split.train])
    metrics = {f"final_train_{name}": value for name, value in measured.items()}
    return metrics | {"final_generalization_gap": final["final_val_log_loss"] - metrics["final_train_log_loss"]}


def evaluate_on_test(
    predict: Predict, dataset: ImageDataset, split: Split
) -> tuple[dict[str, float], NDArray[np.float64]]:
    """Measure the final weights on the test images; give metrics and probabilities (N, C)."""
    probabilities, labels = predict(split.test), dataset.labels[split.test]
    measured = {f"test_{metric}": value for metric, value in summarize(probabilities, labels).items()}
    measured["test_auc"] = roc_auc(probabilities, labels)
    log.info("on test images: log loss %.4f, accuracy %.3f", measured["test_log_loss"], measured["test_accuracy"])
    return measured, probabilities


def write_settings(
    folder: Path, config: RunConfig, overrides: Sequence[str], dataset: ImageDataset, split: Split
) -> None:
    """Write the composed configuration, the overrides, and the lists of images that are left out or in doubt."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "config.yaml": OmegaConf.to_yaml(OmegaConf.create(config.resolved)),
        "overrides.yaml": OmegaConf.to_yaml(OmegaConf.create(list(overrides))),
        "skipped_files.txt": "\n".join(dataset.skipped_files),
        "left_out_images.txt": "\n".join(split.left_out),
        "equal_images_of_different_classes.txt": "\n".join(split.conflicts),
    }
    for name, text in texts.items():
        if text:
            (folder / name).write_text(hide_passwords(text), encoding="utf-8", errors="backslashreplace")


def write_pictures(
    folder: Path,
    config: RunConfig,
    dataset: ImageDataset,
    split: Split,
    progress: TrainingProgress,
    test_probabilities: NDArray[np.float64] | None,
) -> None:
    """Write the learning curves and, of measured test images, the confusion matrix and a report of each class."""
    folder.mkdir(parents=True, exist_ok=True)
    curves = draw_learning_curves(progress.history, progress.best_epoch, stopped_early(progress, config.training))
    curves.savefig(folder / "learning_curves.png")
    if test_probabilities is not None:
        report, confusion = per_class_report(test_probabilities, dataset.labels[split.test], dataset.class_names)
        (folder / "test_report.txt").write_text(report, encoding="utf-8", errors="backslashreplace")
        draw_confusion_matrix(confusion, dataset.class_names, "Test images").savefig(folder / "confusion_matrix.png")
