"""Metrics with their bootstrap intervals.

The definitions are scikit-learn's, and the tests hold each to it. But all resamples are measured at once, as weights of
the images: scikit-learn, one resample after the other, takes many times as long.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnn_sweeps.evaluation.metrics import Floats, Labels, choose_classes, log_losses, summarize

NUM_RESAMPLES = 1000
NUM_BINS = 15  # of confidence, of equal width: Guo et al., On Calibration of Modern Neural Networks, 2017
_WEIGHTS_AT_ONCE = 2**22  # 32 MB


class Estimate(NamedTuple):
    """A metric of some images, and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


def measure(probabilities: Floats, labels: Labels, threshold: float | None = None) -> dict[str, float]:
    """Measure predictions.

    Args:
        probabilities: (N, C), rows summing to 1; of two classes, the second is the positive one.
        labels: (N,), the true classes.
        threshold: of two classes the second is predicted from this probability on; None: from 0.5. `accuracy`,
            `balanced_accuracy`, `precision`, `recall` and `f1` depend on it, the others do not.

    Returns:
        By name: `log_loss`; `accuracy`, `balanced_accuracy` (mean recall of the classes); `precision`, `recall`, `f1`,
        `roc_auc`, `pr_auc` (average precision) of the positive class or, of more than two classes, their means over the
        classes, each against the rest; `brier_score`, the mean squared error of the positive class's probability or, of
        more classes, summed over them; `expected_calibration_error` of the most probable class. All but `log_loss` are
        0 to 1 (`brier_score` of more than two classes: to 2). NaN for what needs two classes where there is only one.
    """
    predicted = choose_classes(probabilities, threshold)
    values = _measure(probabilities, labels, predicted, np.ones((1, len(labels))))
    return {name: float(value[0]) for name, value in values.items()} | summarize(probabilities, labels, threshold)


def estimate(probabilities: Floats, labels: Labels, threshold: float | None = None) -> dict[str, Estimate]:
    """Do what `measure` does, each metric with a 95 % interval, which takes seconds where images and classes are many.

    The intervals are percentiles of the metric over 1,000 bootstrap resamples of the images (Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, chapter 13), always the same ones. They tell how much another draw of so many
    images would change the metric, not another training; where no image is a mistake they cannot tell anything.
    """
    predicted = choose_classes(probabilities, threshold)
    random = np.random.default_rng(0)
    rows = max(1, _WEIGHTS_AT_ONCE // len(labels))
    parts = []
    for start in range(0, NUM_RESAMPLES, rows):
        size = min(rows, NUM_RESAMPLES - start)
        drawn = random.multinomial(len(labels), np.full(len(labels), 1 / len(labels)), size=size)
        parts.append(_measure(probabilities, labels, predicted, drawn.astype(np.float64)))
    return {
        name: _with_interval(value, np.concatenate([part[name] for part in parts]))
        for name, value in measure(probabilities, labels, threshold).items()
    }


def _with_interval(value: float, resampled: Floats) -> Estimate:
    defined = resampled[np.isfinite(resampled)]
    if not len(defined):
        return Estimate(value, np.nan, np.nan)
    low, high = np.quantile(defined, (0.025, 0.975))
    return Estimate(value, float(low), float(high))


def measure_decisions(predicted: Labels, labels: Labels, num_classes: int) -> dict[str, float]:
    """Give what depends on the predicted classes alone: `accuracy`, `balanced_accuracy`, `precision`, `recall`, `f1`.

    Args:
        predicted: (N,), 0 to `num_classes` - 1.
        labels: (N,), the true classes.
        num_classes: at least 2.
    """
    values = _measure_decisions(predicted, labels, num_classes, np.ones((1, len(labels))))
    return {name: float(value[0]) for name, value in values.items()}


def _measure_decisions(predicted: Labels, labels: Labels, num_classes: int, weights: Floats) -> dict[str, Floats]:
    is_true, is_predicted = (np.eye(num_classes)[each] for each in (labels, predicted))
    hits = weights @ (is_true * is_predicted)
    accuracy = hits.sum(axis=1) / weights.sum(axis=1)
    return {"accuracy": accuracy} | _by_counts(weights @ is_true, weights @ is_predicted, hits)


def _measure(probabilities: Floats, labels: Labels, predicted: Labels, weights: Floats) -> dict[str, Floats]:
    """Measure under each row of weights, (R, N), how often each image counts; each metric is (R,)."""
    num_classes = probabilities.shape[1]
    is_true = np.eye(num_classes)[labels]
    squared_errors = ((probabilities - is_true) ** 2).sum(axis=1) / (2 if num_classes == 2 else 1)
    per_image = np.stack([log_losses(probabilities, labels), squared_errors], axis=1)
    means = (weights @ per_image / weights.sum(axis=1, keepdims=True)).T
    metrics = dict(zip(("log_loss", "brier_score"), means, strict=True))
    is_most_probable = probabilities.argmax(axis=1) == labels
    metrics["expected_calibration_error"] = _calibration_error(probabilities.max(axis=1), is_most_probable, weights)
    metrics |= _measure_decisions(predicted, labels, num_classes, weights)
    classes = [1] if num_classes == 2 else range(num_classes)
    areas = [_areas(probabilities[:, each], is_true[:, each], weights) for each in classes]
    metrics |= {
        name: _mean_of_defined(np.stack(each, axis=1))
        for name, each in zip(("roc_auc", "pr_auc"), zip(*areas, strict=True), strict=True)
    }
    return metrics


def _by_counts(true: Floats, predicted: Floats, hits: Floats) -> dict[str, Floats]:
    """Give what follows from how many images of each class there are, were predicted and were right: each (R, C)."""
    recall, precision, f1 = (_share(hits, of) for of in (true, predicted, (true + predicted) / 2))
    balanced = _mean_of_defined(np.where(true > 0, recall, np.nan))
    metrics = {"precision": precision, "recall": recall, "f1": f1}
    if true.shape[1] == 2:
        of_class = {name: value[:, 1] for name, value in metrics.items()}
    else:
        occurs = (true > 0) | (predicted > 0)
        of_class = {name: _mean_of_defined(np.where(occurs, value, np.nan)) for name, value in metrics.items()}
    return {"balanced_accuracy": balanced, **of_class}


def _calibration_error(confidence: Floats, is_correct: NDArray[np.bool_], weights: Floats) -> Floats:
    bins = np.eye(NUM_BINS)[confidence_bins(confidence)]
    excess = weights @ (bins * (is_correct - confidence)[:, np.newaxis])
    errors: Floats = np.abs(excess).sum(axis=1) / weights.sum(axis=1)
    return errors


def confidence_bins(confidence: Floats) -> Labels:
    """Give the bin, 0 to NUM_BINS - 1, of each image's highest probability."""
    return np.minimum((confidence * NUM_BINS).astype(np.int64), NUM_BINS - 1)


def _areas(scores: Floats, is_positive: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Give the areas under the ROC curve and the precision-recall curve; equal scores are one point of the curve."""
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
    """Average over the classes for which the metric is defined."""
    defined = np.isfinite(values)
    means: Floats = np.where(defined, values, 0).sum(axis=1) / np.maximum(defined.sum(axis=1), 1)
    return np.where(defined.any(axis=1), means, np.nan)


def best_threshold(scores: Floats, labels: Labels, metric: str) -> tuple[float, float]:
    """Give the decision threshold that maximises a metric, and the metric there.

    Of equally good thresholds it is the one nearest to 0.5.

    Args:
        scores: (N,), probability of the positive class.
        labels: (N,), 0 or 1.
        metric: `accuracy`, `balanced_accuracy` or `f1`.
    """
    distinct, which = np.unique(scores, return_inverse=True)
    edges = np.concatenate([[0.0], distinct, [1.0]])
    low, high = edges[:-1], edges[1:]
    thresholds = np.where((low < 0.5) & (high >= 0.5), 0.5, (low + high) / 2)
    values = _by_hits(*(_count_from_above(which[labels == each], len(distinct)) for each in (0, 1)))[metric]
    values[1:][thresholds[1:] <= low[1:]] = -1  # where no number lies between two scores
    best = np.flatnonzero(values == values.max())
    chosen = best[np.abs(thresholds[best] - 0.5).argmin()]
    return float(thresholds[chosen]), float(values[chosen])


def _count_from_above(which: Labels, num_scores: int) -> Floats:
    """Count the images that have at least the score 0, 1, ..., and, last, none of them."""
    return np.append(np.bincount(which, minlength=num_scores)[::-1].cumsum()[::-1], 0).astype(np.float64)


def _by_hits(false_positives: Floats, true_positives: Floats) -> dict[str, Floats]:
    """Give the metrics of two classes from how many images count as positive, (K,), all of them at the first."""
    num_negatives, num_positives = false_positives[0], true_positives[0]
    hits = np.stack([num_negatives - false_positives, true_positives], axis=1)
    predicted_positive = false_positives + true_positives
    predicted = np.stack([num_negatives + num_positives - predicted_positive, predicted_positive], axis=1)
    true = np.broadcast_to([num_negatives, num_positives], hits.shape)
    return _by_counts(true, predicted, hits) | {"accuracy": hits.sum(axis=1) / (num_negatives + num_positives)}
