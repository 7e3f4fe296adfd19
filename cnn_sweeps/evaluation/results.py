"""Evaluates a trained network on validation and test images."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import keras
import numpy as np

from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.data.split import Indices, Split
from cnn_sweeps.evaluation import metrics
from cnn_sweeps.evaluation.metrics import Estimate, Floats, Labels, accuracy_of_commonest_class, choose_classes
from cnn_sweeps.evaluation.per_image import PerImage, per_image
from cnn_sweeps.settings.schema import RunConfig
from cnn_sweeps.text.names import for_terminal
from cnn_sweeps.text.numbers import probability_text
from cnn_sweeps.training.progress import TrainingProgress

log = logging.getLogger(__name__)

Predict = Callable[[Indices], Floats]
"""Takes n positions of images in the data set, and returns their predicted probabilities, (n, C)."""


class Confusion(NamedTuple):
    """How many images of one class are taken for another one."""

    true: int
    predicted: int
    num_images: int
    share: float  # of the images of the true class


@dataclass(frozen=True, eq=False)
class Measured:
    """Predictions of a network for the validation images or the test images.

    Attributes:
        title: says which images these are.
        prefix: of the metrics' names, `final_val` or `test`.
        dataset: has the images and their classes.
        indices: (n,), the positions of these images in the data set.
        probabilities: (n, C), as predicted.
        threshold: the lowest probability for which the second of two classes is predicted; None with more classes.
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
        """(n,), the predicted classes."""
        return choose_classes(self.probabilities, self.threshold)

    @property
    def per_image(self) -> PerImage:
        """The results for each image."""
        losses = metrics.log_losses(self.probabilities, self.labels)
        return per_image(self.dataset.ids[self.indices], self.labels, losses, self.predicted == self.labels)

    @cached_property
    def confidence(self) -> Floats:
        """(n,), the probabilities of the predicted classes."""
        return self.probabilities[np.arange(len(self.predicted)), self.predicted]

    @cached_property
    def confusion_matrix(self) -> Labels:
        """(C, C), how many images of each true class (row) are predicted as each class (column)."""
        num_classes = self.probabilities.shape[1]
        pairs = self.labels * num_classes + self.predicted
        return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)

    @property
    def confusions(self) -> list[Confusion]:
        """All confusions, the commonest first; of equally common ones, the one with the higher share first."""
        counts = self.confusion_matrix
        found = [
            Confusion(
                true, predicted, int(counts[true, predicted]), float(counts[true, predicted] / counts[true].sum())
            )
            for true, predicted in np.argwhere(counts).tolist()
            if true != predicted
        ]
        return sorted(found, key=lambda each: (-each.num_images, -each.share))

    @cached_property
    def values(self) -> dict[str, float]:
        """The metrics at the threshold, with two classes also at 0.5, and the commonest class's accuracy."""
        values = metrics.measure(self.probabilities, self.labels, self.threshold)
        values["accuracy_of_commonest_class"] = accuracy_of_commonest_class(self.labels)
        if self.threshold is None:
            return values
        at_half = metrics.measure(self.probabilities, self.labels)
        return values | {f"{name}_at_half": at_half[name] for name in metrics.DECISIONS}

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        """The metrics of `measure` with intervals. They are slow to compute, so only use them for a person to read."""
        return metrics.estimate(self.probabilities, self.labels, self.threshold)

    @property
    def metrics(self) -> dict[str, float]:
        """All metrics by their full names, e.g. `test_accuracy`, `test_accuracy_at_half`."""
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
        """Describe the most important metrics, and the accuracy of naming the commonest class."""
        shown = self.estimates if with_intervals else self.values
        parts = [f"log loss {shown['log_loss']:.4f}", f"accuracy {shown['accuracy']:.3f}"]
        if self.threshold not in (None, 0.5):
            parts.append(f"{self.values['accuracy_at_half']:.3f} at a threshold of 0.5")
        return f"{', '.join(parts)}, {self.values['accuracy_of_commonest_class']:.3f} by naming the commonest class"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The results of the final weights on validation images and, if these were measured, on test images."""

    validation: Measured
    test: Measured | None

    @property
    def held_out(self) -> Measured:
        """The images that best predict how the network does on new ones: test images, or else validation images."""
        return self.test or self.validation

    @property
    def threshold(self) -> float | None:
        """The lowest probability for which the second of two classes is predicted: the best on validation images."""
        return self.validation.threshold

    @property
    def metrics(self) -> dict[str, float]:
        """All metrics by name, with `decision_threshold`."""
        threshold = {} if self.threshold is None else {"decision_threshold": self.threshold}
        return self.validation.metrics | (self.test.metrics if self.test else {}) | threshold

    @property
    def intervals(self) -> dict[str, float]:
        """The bounds of all metrics' intervals."""
        return self.validation.intervals | (self.test.intervals if self.test else {})


def evaluate(predict: Predict, dataset: ImageDataset, split: Split, config: RunConfig, *, on_test: bool) -> Evaluation:
    """Measure the final weights on validation images and, if asked and there are any, on test images.

    With two classes, the decision threshold is first chosen on validation images, and then used for all metrics. Only
    with `on_test` does the log show intervals for validation images: in a sweep's trials nobody would read them.
    """
    probabilities, threshold = predict(split.val), None
    if len(dataset.class_names) == 2:
        metric = config.evaluation.threshold_metric
        threshold, _ = metrics.best_threshold(probabilities[:, 1], dataset.labels[split.val], metric)
        log.info(
            "%s is predicted if its probability is at least %s, the best threshold by %s on validation images",
            *(for_terminal(dataset.class_names[1]), probability_text(threshold), metric.replace("_", " ")),
        )
    validation = Measured("Validation images", "final_val", dataset, split.val, probabilities, threshold)
    log.info("validation images: %s", validation.describe(with_intervals=on_test))
    test = measure_test(predict, dataset, split, threshold) if on_test and len(split.test) else None
    return Evaluation(validation, test)


def measure_test(predict: Predict, dataset: ImageDataset, split: Split, threshold: float | None) -> Measured:
    """Measure the final weights on the test images, at their decision threshold."""
    test = Measured("Test images", "test", dataset, split.test, predict(split.test), threshold)
    log.info("test images: %s", test.describe())
    return test


def describe_training(model: keras.Model, progress: TrainingProgress, kept_epoch: int) -> dict[str, float]:
    """Log which weights are kept; return the number of epochs, the best epoch, and the number of parameters."""
    kept = "its weights" if kept_epoch == progress.best_epoch else "the weights of the last epoch"
    log.info("best epoch %d of %d; %s are kept", progress.best_epoch, progress.epochs_done, kept)
    return {
        "best_epoch": float(progress.best_epoch),
        "epochs": float(progress.epochs_done),
        "num_parameters": float(model.count_params()),
    }


def evaluate_on_train(
    predict: Predict, dataset: ImageDataset, split: Split, threshold: float | None, val_log_loss: float
) -> dict[str, float]:
    """Measure the final weights on the training images, and the gap to the log loss on validation images.

    Both are measured in inference mode and at the same threshold, so that only generalization makes the gap.
    """
    probabilities, labels = predict(split.train), dataset.labels[split.train]
    measured = metrics.summarize(probabilities, labels, threshold)
    measured["accuracy_of_commonest_class"] = accuracy_of_commonest_class(labels)
    if threshold is not None:
        measured["accuracy_at_half"] = metrics.summarize(probabilities, labels)["accuracy"]
    named = {f"final_train_{name}": value for name, value in measured.items()}
    return named | {"final_generalization_gap": val_log_loss - measured["log_loss"]}
