"""Pictures show what they should."""

import numpy as np

from cnn_sweeps.evaluation.figures import draw_confusion_matrix, draw_learning_curves


def history(epochs):
    keys = ("train_log_loss", "val_log_loss", "train_accuracy", "val_accuracy", "learning_rate")
    return [dict.fromkeys(keys, 1 / epoch) for epoch in range(1, epochs + 1)]


def test_learning_curves_show_every_epoch_and_mark_the_best(tmp_path):
    figure = draw_learning_curves(history(7), best_epoch=4, stopped_early=True)
    loss = figure.axes[0]
    assert [len(line.get_xdata()) for line in loss.lines[:2]] == [7, 7]
    assert loss.lines[2].get_xdata() == [4, 4]
    assert "stopped early after epoch 7; best epoch 4" in figure.get_suptitle()
    figure.savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_confusion_matrix_shows_every_count_and_class():
    counts = np.array([[5, 1, 0], [0, 7, 2], [0, 0, 0]])
    axes = draw_confusion_matrix(counts, ["ant", "bee", "cat"], "Test images").axes[0]
    assert [text.get_text() for text in axes.texts] == [str(count) for count in counts.ravel()]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ant", "bee", "cat"]


def test_confusion_matrix_of_many_classes_stays_a_picture_one_can_open(tmp_path):
    figure = draw_confusion_matrix(np.eye(300, dtype=np.int64), [f"class {i}" for i in range(300)], "Test images")
    assert not figure.axes[0].texts
    assert max(figure.get_size_inches()) < 16
