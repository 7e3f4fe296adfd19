"""Metrics of predicted probabilities, the same for training, validation and test images, and what is said of them."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

_SMALLEST_PROBABILITY = 1e-7  # as in Keras, so that one certain mistake does not make the mean infinite

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def log_losses(probabilities: Floats, labels: Labels) -> Floats:
    """Each image's -log(probability of the true class), (N,), in nats, 0 to 16.1; no penalty is in it."""
    true_class = probabilities[np.arange(len(labels)), labels]
    return -np.log(np.maximum(true_class, _SMALLEST_PROBABILITY))


def choose_classes(probabilities: Floats, threshold: float | None = None) -> Labels:
    """Give the class of each row of (N, C), (N,): the one rule by which everything here decides.

    Of two classes the second is chosen from the threshold on, 0 to 1, None: from 0.5; of more the most probable one,
    whatever the threshold.
    """
    if probabilities.shape[1] > 2:
        most_probable: Labels = probabilities.argmax(axis=1)
        return most_probable
    return (probabilities[:, 1] >= (0.5 if threshold is None else threshold)).astype(np.int64)


def accuracy_of_commonest_class(labels: Labels) -> float:
    """Share of images that are right if all are given the class that most of them have, 0 to 1."""
    return float(np.bincount(labels).max() / len(labels))


def summarize(probabilities: Floats, labels: Labels, threshold: float | None = None) -> dict[str, float]:
    """Mean `log_loss`, and `accuracy`: the share of images whose class, by `choose_classes`, is the true one."""
    is_right = choose_classes(probabilities, threshold) == labels
    return {"log_loss": float(log_losses(probabilities, labels).mean()), "accuracy": float(is_right.mean())}


def describe_no_better(metrics: Mapping[str, float]) -> str | None:
    """Say that a network is no better than naming the commonest class; None if it is better, or that is not known.

    Of the final metrics those of the test images count if they are there.
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


def describe_test(metrics: Mapping[str, float]) -> str:
    """Say what was measured on test images, at which threshold, and what naming the commonest class would give."""
    texts = {
        "test_log_loss": "log loss {:.4f}",
        "test_accuracy": "accuracy {:.4f}",
        "test_roc_auc": "roc auc {:.4f}",
        "test_accuracy_at_half": "{:.4f} at 0.5",
        "test_accuracy_of_commonest_class": "{:.4f} by naming the commonest class",
        "decision_threshold": "decision threshold {:g}",
    }
    return ", ".join(text.format(metrics[name]) for name, text in texts.items() if name in metrics)
