"""Metrics of predicted probabilities, the same for training, validation and test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cnn_sweeps.text.names import for_terminal

_SMALLEST_PROBABILITY = 1e-7  # as in Keras, so that one certain mistake does not make the mean infinite

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def log_loss(probabilities: Floats, labels: NDArray[np.int64]) -> float:
    """Mean of -log(probability of the true class), in nats, 0 to 16.1; no penalty is in it."""
    return float(log_losses(probabilities, labels).mean())


def log_losses(probabilities: Floats, labels: NDArray[np.int64]) -> Floats:
    """Each image's -log(probability of the true class), (N,)."""
    true_class = probabilities[np.arange(len(labels)), labels]
    return -np.log(np.maximum(true_class, _SMALLEST_PROBABILITY))


def choose_classes(probabilities: Floats, threshold: float | None = None) -> Labels:
    """Give the class of each row of (N, C), (N,): the one rule by which everything here decides.

    Args:
        probabilities: rows summing to 1.
        threshold: of two classes the second is chosen from this probability on, 0 to 1; None: from 0.5. Of more classes
            it is the most probable one, whatever the threshold.
    """
    if probabilities.shape[1] > 2:
        most_probable: Labels = probabilities.argmax(axis=1)
        return most_probable
    return (probabilities[:, 1] >= (0.5 if threshold is None else threshold)).astype(np.int64)


def accuracy(probabilities: Floats, labels: NDArray[np.int64], threshold: float | None = None) -> float:
    """Share of images whose class, as `choose_classes` gives it, is the true one, 0 to 1."""
    return float((choose_classes(probabilities, threshold) == labels).mean())


def accuracy_of_commonest_class(labels: NDArray[np.int64]) -> float:
    """Share of images that are right if all are given the class that most of them have, 0 to 1."""
    return float(np.bincount(labels).max() / len(labels))


def summarize(probabilities: Floats, labels: NDArray[np.int64], threshold: float | None = None) -> dict[str, float]:
    """`log_loss` and `accuracy` under these names."""
    return {"log_loss": log_loss(probabilities, labels), "accuracy": accuracy(probabilities, labels, threshold)}


def describe_no_better(metrics: Mapping[str, float]) -> str | None:
    """Say that a network is no better than naming the commonest class; None if it is better, or that is not known.

    Args:
        metrics: final ones by their full names; those of the test images count if they are there.
    """
    prefix, images = ("test", "test") if "test_accuracy" in metrics else ("final_val", "validation")
    commonest = metrics.get(f"{prefix}_accuracy_of_commonest_class")
    if commonest is None or (reached := metrics[f"{prefix}_accuracy"]) > commonest:
        return None
    return (
        f"the network is no better than naming the commonest class: on the {images} images its accuracy is "
        f"{reached:.3f}, that of the commonest class {commonest:.3f} (its balanced accuracy is "
        f"{metrics[f'{prefix}_balanced_accuracy']:.3f})"
    )


def per_class_report(predicted: Labels, labels: NDArray[np.int64], class_names: Sequence[str]) -> str:
    """Give precision, recall, F1 and number of images a class as a text.

    Args:
        predicted: (n,), 0 to C - 1.
        labels: (n,), 0 to C - 1, the true classes.
        class_names: of the C classes.
    """
    from sklearn.metrics import classification_report  # noqa: PLC0415  takes 1.4 s, needed at the end

    known = np.arange(len(class_names))
    report: str = classification_report(
        labels,
        predicted,
        labels=known,
        target_names=[for_terminal(name) for name in class_names],
        digits=3,
        zero_division=0,
    )
    return report


def count_confusions(predicted: Labels, labels: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Count images by true and predicted class, (C, C); arguments as of `per_class_report`."""
    from sklearn.metrics import confusion_matrix  # noqa: PLC0415  as above

    counts: NDArray[np.int64] = confusion_matrix(labels, predicted, labels=np.arange(num_classes))
    return counts


def describe_test(metrics: dict[str, float]) -> str:
    """Say what was measured on test images, at which threshold, and what naming the commonest class would give."""
    names = [name for name in ("test_log_loss", "test_accuracy", "test_roc_auc") if name in metrics]
    told = [f"{name.removeprefix('test_').replace('_', ' ')} {metrics[name]:.4f}" for name in names]
    for name, text in (
        ("test_accuracy_at_half", "{:.4f} at 0.5"),
        ("test_accuracy_of_commonest_class", "{:.4f} by naming the commonest class"),
        ("decision_threshold", "decision threshold {:g}"),
    ):
        told += [text.format(metrics[name])] if name in metrics else []
    return ", ".join(told)
