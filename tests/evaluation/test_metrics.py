"""Metrics agree with scikit-learn and with numbers worked out by hand."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from cnn_sweeps.evaluation.metrics import (
    accuracy,
    class_probabilities,
    count_confusions,
    log_loss,
    per_class_report,
    summarize,
)


def predictions(num_classes):
    random = np.random.default_rng(num_classes)
    labels = random.integers(0, num_classes, 200)
    logits = random.normal(size=(200, num_classes)) + 1.5 * np.eye(num_classes)[labels]
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels


def test_sigmoid_becomes_two_columns():
    assert class_probabilities(np.array([[0.25], [1.0]], np.float32)).tolist() == [[0.75, 0.25], [0.0, 1.0]]


@pytest.mark.parametrize("num_classes", [2, 4])
def test_metrics_agree_with_scikit_learn(num_classes):
    probabilities, labels = predictions(num_classes)
    assert log_loss(probabilities, labels) == pytest.approx(sklearn_metrics.log_loss(labels, probabilities))
    assert accuracy(probabilities, labels) == pytest.approx(
        sklearn_metrics.accuracy_score(labels, probabilities.argmax(axis=1))
    )


def test_one_certain_mistake_is_not_infinite():
    assert log_loss(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(-np.log(1e-7))


def test_summary_by_hand():
    probabilities = np.array([[0.5, 0.5], [0.2, 0.8]])
    expected = {"log_loss": (np.log(2) - np.log(0.2)) / 2, "accuracy": 0.5}
    assert summarize(probabilities, np.array([0, 0])) == pytest.approx(expected)


def test_report_names_classes_and_counts_confusions():
    probabilities = np.eye(3)[[0, 0, 1, 2]]
    labels = np.array([0, 1, 1, 2])
    report = per_class_report(probabilities, labels, ["ant", "bee", "cat"])
    assert count_confusions(probabilities, labels).tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert all(name in report for name in ("ant", "bee", "cat"))
