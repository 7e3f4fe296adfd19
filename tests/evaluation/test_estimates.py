"""Metrics are scikit-learn's, and their intervals hold what another draw of images would give."""

import numpy as np
import pytest
from sklearn import config_context
from sklearn import metrics as sklearn_metrics
from sklearn.utils import resample

from cnn_sweeps.evaluation import metrics
from cnn_sweeps.evaluation.metrics import DECISIONS, best_threshold, estimate, measure


def predictions(num_classes, num_images=200, seed=0):
    """Probabilities with ties among them, and labels."""
    random = np.random.default_rng([num_classes, seed])
    labels = random.integers(0, num_classes, num_images)
    logits = np.round(random.normal(size=(num_images, num_classes)) + 1.2 * np.eye(num_classes)[labels], 1)
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels


def by_scikit_learn(probabilities, labels, threshold=None):
    num_classes = probabilities.shape[1]
    predicted, one_hot = probabilities.argmax(axis=1), np.eye(num_classes)[labels]
    if num_classes == 2:
        predicted = (probabilities[:, 1] >= (0.5 if threshold is None else threshold)).astype(int)
    average = "binary" if num_classes == 2 else "macro"
    by_class = sklearn_metrics.precision_recall_fscore_support(labels, predicted, average=average, zero_division=0)
    of_class = dict(zip(("precision", "recall", "f1"), by_class[:3], strict=True))
    scores, truth = (probabilities[:, 1], labels) if num_classes == 2 else (probabilities, one_hot)
    return of_class | {
        "log_loss": sklearn_metrics.log_loss(labels, probabilities, labels=range(num_classes)),
        "accuracy": sklearn_metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(labels, predicted),
        "roc_auc": sklearn_metrics.roc_auc_score(truth, scores),
        "pr_auc": sklearn_metrics.average_precision_score(truth, scores),
        "brier_score": sklearn_metrics.brier_score_loss(labels, scores),
    }


@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_metrics_are_those_of_scikit_learn(num_classes):
    probabilities, labels = predictions(num_classes)
    measured = {name: each.value for name, each in estimate(probabilities, labels).items()}
    assert measured.pop("expected_calibration_error") > 0
    assert measured == pytest.approx(by_scikit_learn(probabilities, labels), rel=1e-12)


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.7, 1.0])
def test_metrics_of_two_classes_are_those_of_scikit_learn_at_any_threshold(threshold):
    probabilities, labels = predictions(2)
    measured = {name: each.value for name, each in estimate(probabilities, labels, threshold).items()}
    at_half = {name: each.value for name, each in estimate(probabilities, labels).items()}
    assert measured.pop("expected_calibration_error") == at_half["expected_calibration_error"]
    assert measured == pytest.approx(by_scikit_learn(probabilities, labels, threshold), rel=1e-12)
    assert {name for name, value in measured.items() if value != at_half[name]} == set(DECISIONS)


@pytest.mark.parametrize(("num_classes", "threshold"), [(3, None), (2, 0.3)])
def test_intervals_are_those_of_scikit_learn_on_resampled_images(num_classes, threshold):
    probabilities, labels = predictions(num_classes)
    draws = [resample(probabilities, labels, random_state=seed) for seed in range(200)]
    with config_context(assume_finite=True, skip_parameter_validation=True):
        resampled = [by_scikit_learn(*draw, threshold) for draw in draws]
    for name, each in estimate(probabilities, labels, threshold).items():
        if name == "expected_calibration_error":
            continue
        low, high = np.quantile([draw[name] for draw in resampled], (0.025, 0.975))
        width = high - low
        assert (each.low, each.high) == pytest.approx((low, high), abs=0.2 * width), name


def test_intervals_hold_the_truth_about_as_often_as_they_say(monkeypatch):
    monkeypatch.setattr(metrics, "_NUM_RESAMPLES", 200)
    truth = estimate(*predictions(2, num_images=20_000, seed=99))["roc_auc"].value
    held = [
        each.low <= truth <= each.high
        for each in (estimate(*predictions(2, num_images=150, seed=seed))["roc_auc"] for seed in range(60))
    ]
    assert sum(held) >= 52


def test_the_same_predictions_give_the_same_intervals_around_what_is_measured_without_them():
    estimates_of_three = estimate(*predictions(3))
    assert estimates_of_three == estimate(*predictions(3))
    assert {name: each.value for name, each in estimates_of_three.items()} == measure(*predictions(3))


def test_calibration_error_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.3, 0.7]])
    error = estimate(probabilities, np.array([0, 1, 1, 1]))["expected_calibration_error"].value
    assert error == pytest.approx((abs(0.5 - 0.9) + abs(1 - 0.7)) / 2)


def test_images_of_one_class_have_no_areas_and_no_error():
    measured = estimate(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0]))
    assert np.isnan(measured["roc_auc"].value)
    assert np.isnan(measured["roc_auc"].low)
    assert measured["accuracy"].value == 0.5


def test_certain_mistake_is_not_infinite():
    assert estimate(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([1, 1]))["log_loss"].value < 16.2


def metric_at(scores, labels, metric, threshold):
    return measure(np.stack([1 - scores, scores], axis=1), labels, threshold)[metric]


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "f1"])
def test_no_threshold_is_better_than_the_chosen_one(metric):
    probabilities, labels = predictions(2)
    scores = probabilities[:, 1] ** 2
    threshold, value = best_threshold(scores, labels, metric)
    function = getattr(sklearn_metrics, f"{metric}_score")
    assert value == pytest.approx(function(labels, scores >= threshold))
    assert value == pytest.approx(max(function(labels, scores >= each) for each in [*scores, 1.1]))
    assert metric_at(scores, labels, metric, threshold) == pytest.approx(value)
    assert abs(threshold - 0.5) > 0.05


def test_of_equally_good_thresholds_the_one_nearest_to_a_half_is_chosen():
    labels = np.array([0, 0, 1, 1])
    assert best_threshold(np.array([0.1, 0.4, 0.6, 0.9]), labels, "f1") == (0.5, 1.0)
    assert best_threshold(np.array([0.1, 0.6, 0.8, 0.9]), labels, "f1") == (pytest.approx(0.7), 1.0)
    assert best_threshold(np.array([0.1, 0.2, 0.4, 0.45]), labels, "f1") == (pytest.approx(0.3), 1.0)


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "f1"])
def test_threshold_of_certain_and_of_equal_scores_has_the_metric_that_is_told(metric):
    """No number lies above a score of 1, or between two equal ones."""
    labels = np.array([0, 0, 0, 1, 0, 1])
    for scores in (
        [0, 0, 1, 1, 1, 1],
        [1.0] * 6,
        [0.0] * 6,
        [0.5] * 6,
        [0.3, 0.3, np.nextafter(0.3, 1), 0.3, 0.9, 0.9],
    ):
        threshold, value = best_threshold(np.array(scores, float), labels, metric)
        assert 0 <= threshold <= 1
        assert metric_at(np.array(scores, float), labels, metric, threshold) == pytest.approx(value)
