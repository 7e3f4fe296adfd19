"""Metrics of predicted probabilities, the same for training, validation and test images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_sweeps.names import for_terminal

_SMALLEST_PROBABILITY = 1e-7  # as in Keras, so that one certain mistake does not make the mean infinite

Floats = NDArray[np.float64]


def class_probabilities(outputs: NDArray[np.floating[Any]]) -> Floats:
    """Give one column a class, float64 (N, C), rows summing to 1, from a sigmoid (N, 1) or a softmax (N, C)."""
    exact = outputs.astype(np.float64)
    return np.hstack([1 - exact, exact]) if exact.shape[1] == 1 else exact


def log_loss(probabilities: Floats, labels: NDArray[np.int64]) -> float:
    """Mean of -log(probability of the true class), in nats, 0 to 16.1; no penalty is in it."""
    return float(log_losses(probabilities, labels).mean())


def log_losses(probabilities: Floats, labels: NDArray[np.int64]) -> Floats:
    """Each image's -log(probability of the true class), (N,)."""
    true_class = probabilities[np.arange(len(labels)), labels]
    return -np.log(np.maximum(true_class, _SMALLEST_PROBABILITY))


def accuracy(probabilities: Floats, labels: NDArray[np.int64]) -> float:
    """Share of images whose most probable class is the true one, 0 to 1."""
    return float((probabilities.argmax(axis=1) == labels).mean())


def summarize(probabilities: Floats, labels: NDArray[np.int64]) -> dict[str, float]:
    """`log_loss` and `accuracy` under these names."""
    return {"log_loss": log_loss(probabilities, labels), "accuracy": accuracy(probabilities, labels)}


def per_class_report(probabilities: Floats, labels: NDArray[np.int64], class_names: Sequence[str]) -> str:
    """Give precision, recall, F1 and number of images a class as a text.

    Args:
        probabilities: (n, C), 0 to 1.
        labels: (n,), 0 to C - 1.
        class_names: of the C classes.
    """
    from sklearn.metrics import classification_report  # noqa: PLC0415  takes 1.4 s, needed at the end

    known = np.arange(len(class_names))
    report: str = classification_report(
        labels,
        probabilities.argmax(axis=1),
        labels=known,
        target_names=[for_terminal(name) for name in class_names],
        digits=3,
        zero_division=0,
    )
    return report


def count_confusions(probabilities: Floats, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count images by true and predicted class, (C, C); arguments as of `per_class_report`."""
    from sklearn.metrics import confusion_matrix  # noqa: PLC0415  as above

    counts: NDArray[np.int64] = confusion_matrix(
        labels, probabilities.argmax(axis=1), labels=np.arange(probabilities.shape[1])
    )
    return counts
