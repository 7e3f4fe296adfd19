"""How a trained network did: its metrics on validation and test images, and the files that a person reads."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from cnn_sweeps.checkpoint import TrainingProgress
from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.data.split import Indices, Split
from cnn_sweeps.evaluation.estimates import Estimate, best_threshold, estimate, metric_at_threshold
from cnn_sweeps.evaluation.metrics import per_class_report, summarize
from cnn_sweeps.passwords import hide_passwords
from cnn_sweeps.schema import RunConfig

log = logging.getLogger(__name__)

Predict = Callable[[Indices], NDArray[np.float64]]
"""Gives the probabilities, (n, C), of the images at n positions."""

VALIDATION = ("Validation images", "final_val")
TEST = ("Test images", "test")
"""What the images are called, and how the names of their metrics begin."""


@dataclass(frozen=True)
class Measured:
    """What a network makes of the validation images, or of the test images.

    Attributes:
        title: what the images are.
        prefix: of the metrics' names, `final_val` or `test`.
        indices: (n,), positions of the images.
        labels: (n,), their classes.
        probabilities: (n, C), what the network predicts.
    """

    title: str
    prefix: str
    indices: Indices
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        """Each metric with its interval."""
        return estimate(self.probabilities, self.labels)

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics by their full names, e.g. `test_accuracy`."""
        return {f"{self.prefix}_{name}": each.value for name, each in self.estimates.items()}

    @property
    def intervals(self) -> dict[str, float]:
        """The bounds of the 95 % intervals, e.g. `interval/test_accuracy_low`."""
        bounds = {
            f"interval/{self.prefix}_{name}_{bound}": getattr(each, bound)
            for name, each in self.estimates.items()
            for bound in ("low", "high")
        }
        return {name: value for name, value in bounds.items() if math.isfinite(value)}

    def at_threshold(self, metric: str, threshold: float) -> dict[str, float]:
        """Give a metric of two classes if the second one is predicted from this probability on."""
        value = metric_at_threshold(self.probabilities[:, 1], self.labels, metric, threshold)
        return {f"{self.prefix}_{metric}_at_threshold": value}

    def describe(self) -> str:
        """Give the most important metrics with their intervals."""
        told = (("log loss", "log_loss", 4), ("accuracy", "accuracy", 3))
        return ", ".join(
            "{} {:.{d}f} ({:.{d}f} to {:.{d}f})".format(name, *self.estimates[key], d=digits)
            for name, key, digits in told
        )


@dataclass(frozen=True)
class Evaluation:
    """The final weights on validation images and, if they were measured, on test images.

    Attributes:
        validation: always there.
        test: None if the test images were not measured.
        threshold: of two classes, the probability from which on the second one is best predicted, judged on validation
            images; None with more classes.
        metrics: all of them by name, threshold included.
    """

    validation: Measured
    test: Measured | None
    threshold: float | None
    metrics: dict[str, float]

    @property
    def held_out(self) -> Measured:
        """The images that say most of how the network does on new ones."""
        return self.test or self.validation

    @property
    def intervals(self) -> dict[str, float]:
        """The bounds of all metrics' intervals."""
        return self.validation.intervals | (self.test.intervals if self.test else {})


def evaluate(predict: Predict, dataset: ImageDataset, split: Split, config: RunConfig, *, on_test: bool) -> Evaluation:
    """Measure the final weights on validation images and, if asked and there are any, on test images."""
    validation = measure(predict, dataset, split.val, *VALIDATION)
    test = measure(predict, dataset, split.test, *TEST) if on_test and len(split.test) else None
    metrics = validation.metrics | (test.metrics if test else {})
    threshold = None
    if len(dataset.class_names) == 2:
        metric = config.evaluation.threshold_metric
        threshold, _ = best_threshold(validation.probabilities[:, 1], validation.labels, metric)
        metrics["decision_threshold"] = threshold
        for measured in (validation, test):
            metrics |= measured.at_threshold(metric, threshold) if measured else {}
    return Evaluation(validation, test, threshold, metrics)


def measure(predict: Predict, dataset: ImageDataset, indices: Indices, title: str, prefix: str) -> Measured:
    """Measure the final weights on the images at `indices`; title and prefix are those of VALIDATION or TEST."""
    measured = Measured(title, prefix, indices, dataset.labels[indices], predict(indices))
    log.info("%s: %s", title.lower(), measured.describe())
    return measured


def describe_training(model: keras.Model, progress: TrainingProgress) -> dict[str, float]:
    """Give how long the training went, and how large the network is."""
    log.info("best epoch %d of %d; final weights:", progress.best_epoch, progress.epochs_done)
    return {
        "best_epoch": float(progress.best_epoch),
        "epochs": float(progress.epochs_done),
        "num_parameters": float(model.count_params()),
    }


def evaluate_on_train(predict: Predict, dataset: ImageDataset, split: Split, val_log_loss: float) -> dict[str, float]:
    """Measure the final weights on the training images; give metrics, and the gap to the log loss on validation images.

    In inference mode, as validation is, so that the gap is that of generalization alone.
    """
    measured = summarize(predict(split.train), dataset.labels[split.train])
    metrics = {f"final_train_{name}": value for name, value in measured.items()}
    return metrics | {"final_generalization_gap": val_log_loss - metrics["final_train_log_loss"]}


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
            _write(folder / name, hide_passwords(text))


def write_report(folder: Path, dataset: ImageDataset, measured: Measured) -> None:
    """Write what was measured as texts: each metric with its interval, and precision and recall of each class."""
    lines = ["metric,value,low,high", *(f"{name},{','.join(map(repr, e))}" for name, e in measured.estimates.items())]
    _write(folder / f"{measured.prefix}_metrics.csv", "\n".join(lines))
    report = per_class_report(measured.probabilities, measured.labels, dataset.class_names)
    _write(folder / f"{measured.prefix}_report.txt", report)


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8", errors="backslashreplace")
