"""How a trained network did: its metrics on validation and test images, and the texts that a person reads."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import keras
import numpy as np
from omegaconf import OmegaConf

from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.data.split import Indices, Split
from cnn_sweeps.evaluation import metrics
from cnn_sweeps.evaluation.metrics import Estimate, Floats, Labels, accuracy_of_commonest_class, choose_classes
from cnn_sweeps.settings.schema import RunConfig
from cnn_sweeps.text.names import for_terminal
from cnn_sweeps.text.passwords import hide_passwords
from cnn_sweeps.training.progress import TrainingProgress

log = logging.getLogger(__name__)

Predict = Callable[[Indices], Floats]
"""Gives the probabilities, (n, C), of the images at n positions."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What a network makes of the validation images, or of the test images.

    Attributes:
        title: what the images are.
        prefix: of the metrics' names, `final_val` or `test`.
        dataset: that holds the images, with their classes.
        indices: (n,), their positions.
        probabilities: (n, C), what the network predicts.
        threshold: of two classes the second is predicted from this probability on; None with more classes.
    """

    title: str
    prefix: str
    dataset: ImageDataset
    indices: Indices
    probabilities: Floats
    threshold: float | None

    @cached_property
    def labels(self) -> Labels:
        """(n,), the true classes."""
        return self.dataset.labels[self.indices]

    @cached_property
    def predicted(self) -> Labels:
        """(n,), the classes that the network gives."""
        return choose_classes(self.probabilities, self.threshold)

    @cached_property
    def confidence(self) -> Floats:
        """(n,), the probabilities of the predicted classes."""
        return self.probabilities[np.arange(len(self.predicted)), self.predicted]

    @cached_property
    def values(self) -> dict[str, float]:
        """Each metric at the threshold; of two classes also at 0.5; and the accuracy of naming the commonest class."""
        values = metrics.measure(self.probabilities, self.labels, self.threshold)
        values["accuracy_of_commonest_class"] = accuracy_of_commonest_class(self.labels)
        if self.threshold is None:
            return values
        at_half = metrics.measure(self.probabilities, self.labels)
        return values | {f"{name}_at_half": at_half[name] for name in metrics.DECISIONS}

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        """Those of `measure` with their intervals, which cost more than all else here: for what a person is shown."""
        return metrics.estimate(self.probabilities, self.labels, self.threshold)

    @property
    def metrics(self) -> dict[str, float]:
        """All of them by their full names, e.g. `test_accuracy`, `test_accuracy_at_half`."""
        return {f"{self.prefix}_{name}": value for name, value in self.values.items()}

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
        shown = self.estimates if with_intervals else self.values
        parts = [f"log loss {shown['log_loss']:.4f}", f"accuracy {shown['accuracy']:.3f}"]
        parts += [f"{self.values['accuracy_at_half']:.3f} at 0.5"] if self.threshold is not None else []
        return f"{', '.join(parts)}, {self.values['accuracy_of_commonest_class']:.3f} by naming the commonest class"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The final weights on validation images and, if these were measured, on test images."""

    validation: Measured
    test: Measured | None

    @property
    def held_out(self) -> Measured:
        """The images that say most of how the network does on new ones."""
        return self.test or self.validation

    @property
    def threshold(self) -> float | None:
        """Of two classes, the probability from which on the second is predicted: the best on validation images."""
        return self.validation.threshold

    @property
    def metrics(self) -> dict[str, float]:
        """All of them by name, `decision_threshold` included."""
        threshold = {} if self.threshold is None else {"decision_threshold": self.threshold}
        return self.validation.metrics | (self.test.metrics if self.test else {}) | threshold

    @property
    def intervals(self) -> dict[str, float]:
        """The bounds of all metrics' intervals."""
        return self.validation.intervals | (self.test.intervals if self.test else {})


def evaluate(predict: Predict, dataset: ImageDataset, split: Split, config: RunConfig, *, on_test: bool) -> Evaluation:
    """Measure the final weights on validation images and, if asked and there are any, on test images.

    Of two classes the decision threshold is chosen first, on validation images, and everything is measured at it. What
    is said of the validation images has intervals only if test images are asked for: nobody waits to read a trial's.
    """
    probabilities, threshold = predict(split.val), None
    if len(dataset.class_names) == 2:
        metric = config.evaluation.threshold_metric
        threshold, _ = metrics.best_threshold(probabilities[:, 1], dataset.labels[split.val], metric)
        log.info(
            "%s from a probability of %g on, best by %s on validation images",
            *(for_terminal(dataset.class_names[1]), threshold, metric.replace("_", " ")),
        )
    validation = Measured("Validation images", "final_val", dataset, split.val, probabilities, threshold)
    log.info("validation images: %s", validation.describe(with_intervals=on_test))
    test = measure_test(predict, dataset, split, threshold) if on_test and len(split.test) else None
    return Evaluation(validation, test)


def measure_test(predict: Predict, dataset: ImageDataset, split: Split, threshold: float | None) -> Measured:
    """Measure the final weights on the test images, at a threshold of theirs."""
    test = Measured("Test images", "test", dataset, split.test, predict(split.test), threshold)
    log.info("test images: %s", test.describe())
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
    measured = metrics.summarize(probabilities, labels, threshold)
    measured["accuracy_of_commonest_class"] = accuracy_of_commonest_class(labels)
    if threshold is not None:
        measured["accuracy_at_half"] = metrics.summarize(probabilities, labels)["accuracy"]
    named = {f"final_train_{name}": value for name, value in measured.items()}
    return named | {"final_generalization_gap": val_log_loss - measured["log_loss"]}


def write_settings(
    folder: Path, config: RunConfig, overrides: Sequence[str], dataset: ImageDataset, split: Split
) -> None:
    """Write the composed configuration, the overrides, and the lists of images that are left out or in doubt."""
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


def write_report(folder: Path, measured: Measured) -> None:
    """Write what was measured as texts: each metric with its interval, and precision and recall of each class.

    Both at the decision threshold, where there is one.
    """
    estimates, values = measured.estimates, measured.values
    if measured.threshold is not None:
        values = values | {"decision_threshold": measured.threshold}
    lines = ["metric,value,low,high", *(f"{name},{','.join(map(repr, each))}" for name, each in estimates.items())]
    lines += [f"{name},{value!r},," for name, value in values.items() if name not in estimates]
    _write(folder / f"{measured.prefix}_metrics.csv", "\n".join(lines))
    report = per_class_report(measured)
    report += f"\naccuracy of naming the commonest class: {measured.values['accuracy_of_commonest_class']:.3f}\n"
    if measured.threshold is not None:
        second = for_terminal(measured.dataset.class_names[1])
        report = f"{second} from a probability of {measured.threshold:g} on\n\n{report}"
    _write(folder / f"{measured.prefix}_report.txt", report)


def per_class_report(measured: Measured) -> str:
    """Give precision, recall, F1 and number of images a class as a text."""
    from sklearn.metrics import classification_report  # noqa: PLC0415  takes 1.4 s, needed at the end

    names = [for_terminal(name) for name in measured.dataset.class_names]
    known = {"labels": np.arange(len(names)), "target_names": names}
    report: str = classification_report(measured.labels, measured.predicted, **known, digits=3, zero_division=0)
    return report


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8", errors="backslashreplace")
