"""Pictures show what they should."""

import numpy as np
import pytest
from measured import measured_of

from cnn_sweeps.evaluation import figures

CLASSES = ["ant", "bee", "cat"]


def history(epochs):
    keys = ("train_log_loss", "val_log_loss", "train_accuracy", "val_accuracy", "learning_rate")
    return [dict.fromkeys(keys, 1 / epoch) for epoch in range(1, epochs + 1)]


def predictions(num_classes, threshold=None):
    random = np.random.default_rng(0)
    labels = np.arange(60) % num_classes
    logits = random.normal(size=(60, num_classes)) + np.eye(num_classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    names = CLASSES[:num_classes] if num_classes <= 3 else [f"class {i}" for i in range(num_classes)]
    return measured_of(probabilities, labels, names, threshold=threshold)


def decided(counts, class_names):
    """As many images of each class taken for each class as told: row, then column."""
    labels, predicted = np.indices(np.shape(counts)).reshape(2, -1).repeat(np.ravel(counts), axis=1)
    return measured_of(np.eye(len(class_names))[predicted], labels, class_names)


def legend_texts(axes):
    legend = axes.get_legend()
    return [text.get_text() for text in (legend.get_title(), *legend.get_texts())]


def test_learning_curves_show_every_epoch_and_mark_the_best_and_the_stop(tmp_path):
    figure = figures.draw_learning_curves(history(7), 4, True, predictions(3))
    loss = figure.axes[0]
    assert [len(line.get_xdata()) for line in loss.lines[:2]] == [7, 7]
    assert [line.get_xdata() for line in loss.lines[2:]] == [[4, 4], [7, 7]]
    assert "stopped early after epoch 7 (dotted); best epoch 4" in figure.get_suptitle()
    figure.savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_learning_curves_of_a_full_training_mark_no_stop():
    figure = figures.draw_learning_curves(history(7), 4, False, predictions(3))
    assert [line.get_xdata() for line in figure.axes[0].lines[2:]] == [[4, 4]]
    assert "ended after 7 epochs" in figure.get_suptitle()


def test_confusion_matrix_shows_every_count_and_class():
    counts = np.array([[5, 1, 0], [0, 7, 2], [0, 0, 0]])
    axes = figures.draw_confusion_matrix(decided(counts, CLASSES)).axes[0]
    assert [text.get_text() for text in axes.texts] == [str(count) for count in counts.ravel()]
    assert [label.get_text() for label in axes.get_yticklabels()] == CLASSES


def test_confusion_matrix_of_many_classes_stays_a_picture_one_can_open(tmp_path):
    names = [f"class {i}" for i in range(300)]
    figure = figures.draw_confusion_matrix(decided(np.eye(300, dtype=np.int64), names))
    assert not figure.axes[0].texts
    assert max(figure.get_size_inches()) < 16


@pytest.mark.parametrize("num_classes", [40, 500])
def test_confusions_of_many_classes_are_named_the_commonest_first(num_classes):
    counts = np.eye(num_classes, dtype=np.int64)
    counts[7, 3], counts[39, 5] = 4, 2
    axes = figures.draw_confusion_matrix(decided(counts, [f"class {i}" for i in range(num_classes)])).axes[1]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["class 7 as class 3", "class 39 as class 5"]
    assert [bar.get_width() for bar in axes.patches] == [4, 2]
    assert axes.yaxis_inverted()


@pytest.mark.parametrize("num_classes", [2, 30])
def test_long_name_ends_at_its_column(num_classes):
    names = [f"Staffordshire_bullterrier {i}" for i in range(num_classes)]
    figure = figures.draw_confusion_matrix(decided(np.eye(num_classes, dtype=np.int64), names))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    width = axes.transData.transform((1, 0))[0] - axes.transData.transform((0, 0))[0]
    for column, label in enumerate(axes.get_xticklabels()):
        assert abs(label.get_window_extent().x1 - axes.transData.transform((column, 0))[0]) < width / 2


@pytest.mark.parametrize("num_classes", [2, 3])
def test_curves_have_the_measured_areas(num_classes):
    measured = predictions(num_classes)
    roc = figures.draw_roc_curve(measured).axes[0]
    curves = roc.lines[1:]  # after the diagonal
    assert [curve.get_label() for curve in curves] == (["bee"] if num_classes == 2 else CLASSES)
    areas = [np.trapezoid(curve.get_ydata(), curve.get_xdata()) for curve in curves]
    assert np.mean(areas) == pytest.approx(measured.values["roc_auc"])
    assert f"area {measured.values['roc_auc']:.3f} (" in roc.get_title()

    pr = figures.draw_pr_curve(measured).axes[0]
    areas = [-np.sum(np.diff(curve.get_xdata()) * curve.get_ydata()[:-1]) for curve in pr.lines]
    assert np.mean(areas) == pytest.approx(measured.values["pr_auc"])


def test_curves_have_the_decision_threshold_at_its_rates():
    measured = predictions(2, threshold=0.3)
    roc, pr = (draw(measured).axes[0].lines[-1] for draw in (figures.draw_roc_curve, figures.draw_pr_curve))
    assert roc.get_label() == pr.get_label() == "threshold 0.3"
    recall, precision = measured.values["recall"], measured.values["precision"]
    false_positive_rate = 1 - (2 * measured.values["balanced_accuracy"] - recall)
    assert roc.get_xydata() == pytest.approx(np.array([[false_positive_rate, recall]]))
    assert pr.get_xydata() == pytest.approx(np.array([[recall, precision]]))


def test_learning_curves_hold_accuracy_against_the_commonest_class_and_say_that_it_is_at_half():
    accuracy = figures.draw_learning_curves(history(7), 4, False, predictions(2, threshold=0.3)).axes[1]
    assert accuracy.get_title() == "Accuracy (threshold 0.5)"
    assert legend_texts(accuracy)[-1] == "commonest class"
    assert accuracy.lines[2].get_ydata() == [0.5, 0.5]
    assert figures.draw_learning_curves(history(7), 4, False, predictions(3)).axes[1].get_title() == "Accuracy"


def test_curves_of_many_classes_have_no_legend_of_them():
    axes = figures.draw_roc_curve(predictions(20)).axes[0]
    assert len(axes.lines) == 21
    assert axes.get_legend() is None


def test_reliability_counts_every_image_and_shows_the_accuracy_of_each_confidence():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.3, 0.7]])
    measured = measured_of(probabilities, np.array([0, 1, 1, 1]), CLASSES[:2])
    accuracy, images = figures.draw_reliability(measured).axes
    assert accuracy.lines[1].get_xydata() == pytest.approx(np.array([[0.7, 1.0], [0.9, 0.5]]))
    assert sum(bar.get_height() for bar in images.patches) == 4


def test_scores_are_counted_by_class_with_the_threshold_marked():
    axes = figures.draw_scores(predictions(2, threshold=0.3)).axes[0]
    assert legend_texts(axes)[1:] == ["ant (30)", "bee (30)", "threshold 0.3"]
    assert axes.get_xlabel() == "probability of bee"


def test_legend_names_classes_that_begin_with_an_underscore():
    measured = measured_of(np.eye(3), np.arange(3), ["_a", "_b", "c"])
    assert legend_texts(figures.draw_roc_curve(measured).axes[0])[1:] == [" _a", " _b", "c"]


def test_precision_and_recall_name_the_positive_class():
    axes = figures.draw_pr_curve(predictions(2, threshold=0.3)).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("recall of bee", "precision of bee")


def test_scores_of_many_classes_are_counted_by_right_and_wrong():
    measured = predictions(3)
    num_right = int((measured.probabilities.argmax(axis=1) == measured.labels).sum())
    axes = figures.draw_scores(measured).axes[0]
    assert legend_texts(axes)[1:] == [f"wrong ({60 - num_right})", f"right ({num_right})"]
