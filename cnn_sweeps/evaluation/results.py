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

from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.data.split import Indices, Split
from cnn_sweeps.evaluation.estimates import Estimate, best_threshold, estimate, measure, measure_decisions
from cnn_sweeps.evaluation.metrics import (
    Labels,
    accuracy,
    accuracy_of_commonest_class,
    choose_classes,
    per_class_report,
    summarize,
)
from cnn_sweeps.settings.schema import RunConfig
from cnn_sweeps.text.names import for_terminal
from cnn_sweeps.text.passwords import hide_passwords
from cnn_sweeps.training.checkpoint import TrainingProgress

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
        threshold: of two classes the second is predicted from this probability on; None with more classes.
    """

    title: str
    prefix: str
    indices: Indices
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    threshold: float | None

    @cached_property
    def predicted(self) -> Labels:
        """(n,), the classes that the network gives."""
        return choose_classes(self.probabilities, self.threshold)

    @property
    def confidence(self) -> NDArray[np.float64]:
        """(n,), the probabilities of the predicted classes."""
        return self.probabilities[np.arange(len(self.predicted)), self.predicted]

    @cached_property
    def values(self) -> dict[str, float]:
        """Each metric at the threshold."""
        return measure(self.probabilities, self.labels, self.threshold)

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        """The same with their intervals, which cost more than all else here: only for what a person is shown."""
        return estimate(self.probabilities, self.labels, self.threshold)

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics by their full names.

        `test_accuracy` and so on; `test_accuracy_of_commonest_class`; of two classes, what depends on the threshold
        also at 0.5, as `test_accuracy_at_half`.
        """
        return {f"{self.prefix}_{name}": value for name, value in (self.values | self.beside).items()}

    @property
    def beside(self) -> dict[str, float]:
        """What has no interval: accuracy of naming the commonest class and, of two classes, metrics at 0.5."""
        commonest = {"accuracy_of_commonest_class": accuracy_of_commonest_class(self.labels)}
        if self.threshold is None:
            return commonest
        at_half = measure_decisions(choose_classes(self.probabilities), self.labels, 2)
        return commonest | {f"{name}_at_half": value for name, value in at_half.items()}

    @property
    def intervals(self) -> dict[str, float]:
        """The bounds of the 95 % intervals, e.g. `interval/test_accuracy_low`."""
        bounds = {
            f"interval/{self.prefix}_{name}_{bound}": getattr(each, bound)
            for name, each in self.estimates.items()
            for bound in ("low", "high")
        }
        return {name: value for name, value in bounds.items() if math.isfinite(value)}

    def describe(self, *, with_intervals: bool = True) -> str:
        """Give the most important metrics, and what accuracy is to be held against."""
        parts = []
        for name, key, digits in (("log loss", "log_loss", 4), ("accuracy", "accuracy", 3)):
            each = self.estimates[key] if with_intervals else None
            bounds = f" ({each.low:.{digits}f} to {each.high:.{digits}f})" if each else ""
            parts.append(f"{name} {self.values[key]:.{digits}f}{bounds}")
        parts += [f"{self.beside['accuracy_at_half']:.3f} at 0.5"] if self.threshold is not None else []
        return f"{', '.join(parts)}, {self.beside['accuracy_of_commonest_class']:.3f} by naming the commonest class"


@dataclass(frozen=True)
class Evaluation:
    """The final weights on validation images and, if they were measured, on test images.

    Attributes:
        validation: always there.
        test: None if the test images were not measured.
        threshold: of two classes, the probability from which on the second one is predicted: the one that is best on
            validation images; None with more classes.
        metrics: all of them by name, `decision_threshold` included.
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
    """Measure the final weights on validation images and, if asked and there are any, on test images.

    Of two classes the decision threshold is chosen first, on validation images, and everything is measured at it. What
    is said of the validation images has intervals only if test images are asked for: nobody waits to read a trial's.
    """
    probabilities, labels = predict(split.val), dataset.labels[split.val]
    threshold = None
    if len(dataset.class_names) == 2:
        metric = config.evaluation.threshold_metric
        threshold, _ = best_threshold(probabilities[:, 1], labels, metric)
        log.info(
            "%s from a probability of %g on, best by %s on validation images",
            *(for_terminal(dataset.class_names[1]), threshold, metric.replace("_", " ")),
        )
    validation = Measured(VALIDATION[0], VALIDATION[1], split.val, labels, probabilities, threshold)
    log.info("%s: %s", validation.title.lower(), validation.describe(with_intervals=on_test))
    test = measure_test(predict, dataset, split, threshold) if on_test and len(split.test) else None
    metrics = validation.metrics | (test.metrics if test else {})
    if threshold is not None:
        metrics["decision_threshold"] = threshold
    return Evaluation(validation, test, threshold, metrics)


def measure_test(predict: Predict, dataset: ImageDataset, split: Split, threshold: float | None) -> Measured:
    """Measure the final weights on the test images, at a threshold of theirs."""
    test = Measured(TEST[0], TEST[1], split.test, dataset.labels[split.test], predict(split.test), threshold)
    log.info("%s: %s", test.title.lower(), test.describe())
    return test


def describe_training(model: keras.Model, progress: TrainingProgress) -> dict[str, float]:
    """Give how long the training went, and how large the network is."""
    log.info("best epoch %d of %d; final weights:", progress.best_epoch, progress.epochs_done)
    return {
        "best_epoch": float(progress.best_epoch),
        "epochs": float(progress.epochs_done),
        "num_parameters": float(model.count_params()),
    }


def evaluate_on_train(
    predict: Predict, dataset: ImageDataset, split: Split, threshold: float | None, val_log_loss: float
) -> dict[str, float]:
    """Measure the final weights on the training images; give metrics, and the gap to the log loss on validation images.

    In inference mode and at the same threshold, as validation is, so that the gap is that of generalization alone.
    """
    probabilities, labels = predict(split.train), dataset.labels[split.train]
    measured = summarize(probabilities, labels, threshold)
    measured["accuracy_of_commonest_class"] = accuracy_of_commonest_class(labels)
    if threshold is not None:
        measured["accuracy_at_half"] = accuracy(probabilities, labels)
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
    """Write what was measured as texts: each metric with its interval, and precision and recall of each class.

    Both at the decision threshold, where there is one.
    """
    lines = ["metric,value,low,high", *(f"{name},{','.join(map(repr, e))}" for name, e in measured.estimates.items())]
    beside = measured.beside | ({} if measured.threshold is None else {"decision_threshold": measured.threshold})
    lines += [f"{name},{value!r},," for name, value in beside.items()]
    _write(folder / f"{measured.prefix}_metrics.csv", "\n".join(lines))
    report = per_class_report(measured.predicted, measured.labels, dataset.class_names)
    report += f"\naccuracy of naming the commonest class: {measured.beside['accuracy_of_commonest_class']:.3f}\n"
    if measured.threshold is not None:
        report = f"{for_terminal(dataset.class_names[1])} from a probability of {measured.threshold:g} on\n\n{report}"
    _write(folder / f"{measured.prefix}_report.txt", report)


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8", errors="backslashreplace")
