"""Metrics agree with scikit-learn and with numbers worked out by hand."""

import numpy as np
import pytest
from measured import measured_of
from sklearn import metrics as sklearn_metrics

from cnn_sweeps.evaluation.metrics import (
    accuracy_of_commonest_class,
    choose_classes,
    describe_no_better,
    summarize,
)
from cnn_sweeps.evaluation.texts import per_class_report
from cnn_sweeps.models.layers import class_probabilities


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
    assert summarize(probabilities, labels) == pytest.approx(
        {
            "log_loss": sklearn_metrics.log_loss(labels, probabilities),
            "accuracy": sklearn_metrics.accuracy_score(labels, probabilities.argmax(axis=1)),
        }
    )


def test_one_certain_mistake_is_not_infinite():
    assert summarize(np.array([[1.0, 0.0]]), np.array([1]))["log_loss"] == pytest.approx(-np.log(1e-7))


def test_summary_by_hand():
    probabilities = np.array([[0.5, 0.5], [0.2, 0.8]])
    expected = {"log_loss": (np.log(2) - np.log(0.2)) / 2, "accuracy": 0.0}
    assert summarize(probabilities, np.array([0, 0])) == pytest.approx(expected)
    assert summarize(probabilities, np.array([0, 0]), 0.6)["accuracy"] == 0.5
    assert summarize(probabilities, np.array([0, 0]), 0.9)["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("threshold", "chosen"), [(None, [0, 1, 1]), (0.5, [0, 1, 1]), (0.7, [0, 0, 1]), (0.3, [1, 1, 1])]
)
def test_threshold_itself_is_enough_for_the_second_class(threshold, chosen):
    probabilities = np.array([[0.7, 0.3], [0.5, 0.5], [0.3, 0.7]])
    assert choose_classes(probabilities, threshold).tolist() == chosen


def test_of_many_classes_the_most_probable_is_chosen_whatever_the_threshold():
    probabilities = np.array([[0.4, 0.35, 0.25], [0.2, 0.3, 0.5]])
    assert choose_classes(probabilities, 0.3).tolist() == choose_classes(probabilities).tolist() == [0, 2]


def test_network_that_is_no_better_than_naming_the_commonest_class_is_told_and_a_better_one_is_not():
    commonest = accuracy_of_commonest_class(np.array([0, 1, 0, 0, 2]))
    assert commonest == 0.6
    metrics = {"test_accuracy_of_commonest_class": commonest, "test_balanced_accuracy": 0.55, "final_val_accuracy": 1.0}
    assert describe_no_better(metrics | {"test_accuracy": 0.61}) is None
    for reached in (0.6, 0.3):
        told = describe_no_better(metrics | {"test_accuracy": reached})
        assert f"on the test images its accuracy is {reached:.3f}, and always naming" in told
        assert "the commonest class gives 0.600" in told
    of_validation = {name.replace("test_", "final_val_"): value for name, value in metrics.items()}
    told = describe_no_better(of_validation | {"final_val_accuracy": 0.6})
    assert "on the validation images its accuracy is 0.600" in told
    assert describe_no_better({"final_val_accuracy": 0.1}) is None  # of a run that did not record it


def test_report_names_classes_with_their_precision_and_recall():
    measured = measured_of(np.eye(3)[[0, 0, 1, 2]], np.array([0, 1, 1, 2]), ["ant", "bee", "cat"])
    lines = [line.split() for line in per_class_report(measured).splitlines()]
    assert ["ant", "0.500", "1.000", "0.667", "1"] in lines
    assert ["bee", "1.000", "0.500", "0.667", "2"] in lines
    assert ["cat", "1.000", "1.000", "1.000", "1"] in lines
