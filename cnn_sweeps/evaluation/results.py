"""How a trained network did: its metrics on validation and test images."""

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
"""Gives the probabilities, (n, C), of the images at n positions."""


class Confusion(NamedTuple):
    """How many images of one class are taken for another one, and what share of the first class's images that is."""

    true: int
    predicted: int
    num_images: int
    share: float


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

    @property
    def per_image(self) -> PerImage:
        """What the network makes of each image."""
        losses = metrics.log_losses(self.probabilities, self.labels)
        return per_image(self.dataset.ids[self.indices], self.labels, losses, self.predicted == self.labels)

    @cached_property
    def confidence(self) -> Floats:
        """(n,), the probabilities of the predicted classes."""
        return self.probabilities[np.arange(len(self.predicted)), self.predicted]

    @cached_property
    def confusion_matrix(self) -> Labels:
        """(C, C), how many images of each true class, by row, are taken for each class, by column."""
        num_classes = self.probabilities.shape[1]
        pairs = self.labels * num_classes + self.predicted
        return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)

    @property
    def confusions(self) -> list[Confusion]:
        """What is confused with what, the commonest first; of equally common ones that of the higher share."""
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
        if self.threshold not in (None, 0.5):
            parts.append(f"{self.values['accuracy_at_half']:.3f} at a threshold of 0.5")
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
            "%s from a probability of %s on, best by %s on validation images",
            *(for_terminal(dataset.class_names[1]), probability_text(threshold), metric.replace("_", " ")),
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
    log.info("best epoch %d of %d, whose weights are kept:", progress.best_epoch, progress.epochs_done)
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
