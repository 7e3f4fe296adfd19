"""Metrics of predicted probabilities, their bootstrap intervals, and texts about them.

The definitions are scikit-learn's, and the tests compare each with it. But this module measures all resamples at once,
as weights of the images; scikit-learn measures one after the other and takes many times as long.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnn_sweeps.text.numbers import probability_text

_NUM_RESAMPLES = 1000
NUM_BINS = 15  # bins of confidence of equal width: Guo et al., On Calibration of Modern Neural Networks, 2017
DECISIONS = ("accuracy", "balanced_accuracy", "precision", "recall", "f1")
"""The metrics that depend on the predicted classes, and so on the decision threshold."""
_WEIGHTS_AT_ONCE = 2**22  # 32 MB
_SMALLEST_PROBABILITY = 1e-7  # as in Keras; without it, one certain mistake would make the mean infinite

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


class Estimate(NamedTuple):
    """A metric of some images, and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """Format all three numbers with one format."""
        return f"{self.value:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def log_losses(probabilities: Floats, labels: Labels) -> Floats:
    """Return each image's -log(probability of the true class), (N,), in nats, 0 to 16.1; without L2 penalty."""
    true_class = probabilities[np.arange(len(labels)), labels]
    return -np.log(np.maximum(true_class, _SMALLEST_PROBABILITY))


def choose_classes(probabilities: Floats, threshold: float | None = None) -> Labels:
    """Choose the class of each row; all of the package decides by this rule.

    With two classes, the second one is chosen if its probability is at least the threshold. With more classes, the most
    probable one is chosen, and the threshold has no effect.

    Args:
        probabilities: (N, C).
        threshold: 0 to 1; None: 0.5.

    Returns:
        The classes, (N,).
    """
    if probabilities.shape[1] > 2:
        most_probable: Labels = probabilities.argmax(axis=1)
        return most_probable
    return (probabilities[:, 1] >= (0.5 if threshold is None else threshold)).astype(np.int64)


def accuracy_of_commonest_class(labels: Labels) -> float:
    """Return the accuracy of predicting the commonest class for all images, 0 to 1."""
    return float(np.bincount(labels).max() / len(labels))


def summarize(probabilities: Floats, labels: Labels, threshold: float | None = None) -> dict[str, float]:
    """Return the mean `log_loss`, and the `accuracy` of the classes from `choose_classes`."""
    is_right = choose_classes(probabilities, threshold) == labels
    return {"log_loss": float(log_losses(probabilities, labels).mean()), "accuracy": float(is_right.mean())}


def measure(probabilities: Floats, labels: Labels, threshold: float | None = None) -> dict[str, float]:
    """Measure predictions.

    Args:
        probabilities: (N, C), rows sum to 1; of two classes, the second is the positive one.
        labels: (N,), the true classes.
        threshold: the lowest probability for which the second of two classes is predicted; None: 0.5. Only the
            `DECISIONS` depend on it.

    Returns:
        Values by name: `log_loss`; `accuracy`; `balanced_accuracy` (mean recall of the classes); `precision`, `recall`,
        `f1`, `roc_auc` and `pr_auc` (average precision) of the positive class or, with more than two classes, the means
        over the classes, each against the rest; `brier_score`, the mean squared error of the positive class's
        probability or, with more classes, the sum over them; `expected_calibration_error` of the most probable class.
        All are 0 to 1 except `log_loss` and `brier_score` of more than two classes (0 to 2). NaN if a metric needs two
        classes and the images have only one.
    """
    values = _measure(probabilities, labels, threshold, np.ones((1, len(labels))))
    return {name: float(value[0]) for name, value in values.items()} | summarize(probabilities, labels, threshold)


def estimate(probabilities: Floats, labels: Labels, threshold: float | None = None) -> dict[str, Estimate]:
    """Measure predictions as `measure` does, and add 95 % intervals; takes seconds for many images and classes.

    The intervals are percentiles over 1,000 bootstrap resamples of the images (Efron and Tibshirani, An Introduction to
    the Bootstrap, 1993, chapter 13), always the same ones. They show how much another draw of as many images would
    change the metric, but not what another training would change. Without any mistake they show nothing.
    """
    parts = [_measure(probabilities, labels, threshold, weights) for weights in resamples(len(labels))]
    estimates = {}
    for name, value in measure(probabilities, labels, threshold).items():
        resampled = np.concatenate([part[name] for part in parts])
        defined = resampled[np.isfinite(resampled)]
        low, high = np.quantile(defined, (0.025, 0.975)) if len(defined) else (np.nan, np.nan)
        estimates[name] = Estimate(value, float(low), float(high))
    return estimates


def resamples(num_images: int) -> Iterator[Floats]:
    """Yield the weights of images, (R, N), in 1,000 bootstrap resamples, always the same ones, in parts of 32 MB."""
    random, shares = np.random.default_rng(0), np.full(num_images, 1 / num_images)
    rows = max(1, _WEIGHTS_AT_ONCE // num_images)
    for start in range(0, _NUM_RESAMPLES, rows):
        yield random.multinomial(num_images, shares, size=min(rows, _NUM_RESAMPLES - start)).astype(np.float64)


def best_threshold(scores: Floats, labels: Labels, metric: str) -> tuple[float, float]:
    """Find the decision threshold that maximises a metric; of equally good ones, the nearest to 0.5.

    Args:
        scores: (N,), probabilities of the positive class.
        labels: (N,), 0 or 1.
        metric: `accuracy`, `balanced_accuracy` or `f1`.

    Returns:
        The threshold, 0 to 1, and the metric there.
    """
    distinct, which = np.unique(scores, return_inverse=True)
    edges = np.concatenate([[0.0], distinct, [1.0]])
    low, high = edges[:-1], edges[1:]
    thresholds = np.where((low < 0.5) & (high >= 0.5), 0.5, (low + high) / 2)
    of_score = np.array([np.bincount(which[labels == each], minlength=len(distinct)) for each in (0, 1)])
    from_score_on = np.pad(of_score[:, ::-1].cumsum(axis=1)[:, ::-1], ((0, 0), (0, 1))).astype(np.float64)
    false_positives, true_positives = from_score_on  # at each threshold; 0 at the last
    true, positive = from_score_on[:, 0], from_score_on.sum(axis=0)
    hits = np.stack([true[0] - false_positives, true_positives], axis=1)
    predicted = np.stack([len(labels) - positive, positive], axis=1)
    values = _by_counts(np.broadcast_to(true, hits.shape), predicted, hits)[metric]
    values[1:][thresholds[1:] <= low[1:]] = -1  # no float lies between these two scores
    best = np.flatnonzero(values == values.max())
    chosen = best[np.abs(thresholds[best] - 0.5).argmin()]
    return float(thresholds[chosen]), float(values[chosen])


def confidence_bins(confidence: Floats) -> Labels:
    """Return the bin, 0 to NUM_BINS - 1, of each image's highest probability."""
    return np.minimum((confidence * NUM_BINS).astype(np.int64), NUM_BINS - 1)


def describe_no_better(metrics: Mapping[str, float]) -> str | None:
    """Return a warning if a network is no better than predicting the commonest class; None if it is, or unknown.

    Args:
        metrics: the final metrics; those of test images count, or else those of validation images.
    """
    prefix, images = ("test", "test") if "test_accuracy" in metrics else ("final_val", "validation")
    commonest = metrics.get(f"{prefix}_accuracy_of_commonest_class")
    if commonest is None or (reached := metrics[f"{prefix}_accuracy"]) > commonest:
        return None
    return (
        f"the network is no better than naming the commonest class: on the {images} images its accuracy is "
        f"{reached:.3f}, and always naming the commonest class gives {commonest:.3f} (the network's balanced accuracy: "
        f"{metrics[f'{prefix}_balanced_accuracy']:.3f})"
    )


def describe_test(metrics: Mapping[str, float]) -> str:
    """Describe the metrics on test images, with the threshold and the accuracy of naming the commonest class."""
    texts = {
        "test_log_loss": "log loss {:.4f}",
        "test_accuracy": "accuracy {:.4f}",
        "test_accuracy_at_half": "{:.4f} at a threshold of 0.5",
        "test_accuracy_of_commonest_class": "{:.4f} by naming the commonest class",
        "test_roc_auc": "ROC AUC {:.4f}",
    }
    told = [text.format(metrics[name]) for name, text in texts.items() if name in metrics]
    if "decision_threshold" in metrics:
        told.append(f"decision threshold {probability_text(metrics['decision_threshold'])}")
    return ", ".join(told)


def _measure(probabilities: Floats, labels: Labels, threshold: float | None, weights: Floats) -> dict[str, Floats]:
    """Measure for each row of weights, (R, N), which says how often each image counts; each metric is (R,)."""
    num_classes = probabilities.shape[1]
    is_true = np.eye(num_classes)[labels]
    squared_errors = ((probabilities - is_true) ** 2).sum(axis=1) / (2 if num_classes == 2 else 1)
    per_image = np.stack([log_losses(probabilities, labels), squared_errors], axis=1)
    means = (weights @ per_image / weights.sum(axis=1, keepdims=True)).T
    metrics = dict(zip(("log_loss", "brier_score"), means, strict=True))
    is_most_probable = probabilities.argmax(axis=1) == labels
    metrics["expected_calibration_error"] = _calibration_error(probabilities.max(axis=1), is_most_probable, weights)
    is_predicted = np.eye(num_classes)[choose_classes(probabilities, threshold)]
    metrics |= _by_counts(weights @ is_true, weights @ is_predicted, weights @ (is_true * is_predicted))
    classes = [1] if num_classes == 2 else range(num_classes)
    areas = [_areas(probabilities[:, each], is_true[:, each], weights) for each in classes]
    metrics["roc_auc"], metrics["pr_auc"] = (
        _mean_of_defined(np.stack(each, axis=1)) for each in zip(*areas, strict=True)
    )
    return metrics


def _by_counts(true: Floats, predicted: Floats, hits: Floats) -> dict[str, Floats]:
    """Compute metrics from the numbers of images of each class, predicted as it, and right: (R, C) each."""
    metrics = {"accuracy": hits.sum(axis=1) / true.sum(axis=1)}
    by_class = {"precision": _share(hits, predicted), "recall": _share(hits, true)}
    by_class["f1"] = _share(hits, (true + predicted) / 2)
    metrics["balanced_accuracy"] = _mean_of_defined(np.where(true > 0, by_class["recall"], np.nan))
    for name, values in by_class.items():
        occurring = np.where((true > 0) | (predicted > 0), values, np.nan)
        metrics[name] = values[:, 1] if true.shape[1] == 2 else _mean_of_defined(occurring)
    return metrics


def _calibration_error(confidence: Floats, is_correct: NDArray[np.bool_], weights: Floats) -> Floats:
    bins = np.eye(NUM_BINS)[confidence_bins(confidence)]
    excess = weights @ (bins * (is_correct - confidence)[:, np.newaxis])
    errors: Floats = np.abs(excess).sum(axis=1) / weights.sum(axis=1)
    return errors


def _areas(scores: Floats, is_positive: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return the areas under the ROC and the precision-recall curves; equal scores are one point of the curve."""
    order = np.argsort(-scores, kind="stable")
    first_of_score = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    by_score = np.add.reduceat(weights[:, order], first_of_score, axis=1)
    positives = np.add.reduceat(weights[:, order] * is_positive[order], first_of_score, axis=1)
    negatives = by_score - positives
    true_positives, false_positives = positives.cumsum(axis=1), negatives.cumsum(axis=1)
    num_positives, num_negatives = true_positives[:, -1:], false_positives[:, -1:]
    is_defined = (num_positives > 0) & (num_negatives > 0)
    below = num_negatives - false_positives + negatives / 2
    roc = _share((positives * below).sum(axis=1, keepdims=True), num_positives * num_negatives)
    pr = (_share(positives, num_positives) * _share(true_positives, true_positives + false_positives)).sum(axis=1)
    return np.where(is_defined, roc, np.nan)[:, 0], np.where(num_positives[:, 0] > 0, pr, np.nan)


def _share(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _mean_of_defined(values: Floats) -> Floats:
    defined = np.isfinite(values)
    means: Floats = np.where(defined, values, 0).sum(axis=1) / np.maximum(defined.sum(axis=1), 1)
    return np.where(defined.any(axis=1), means, np.nan)
