"""A training's report says what was measured: of predictions that were made up."""

import re

import numpy as np
from measured import measured_of, of_second

from cnn_sweeps.data.images import Images
from cnn_sweeps.data.split import Split
from cnn_sweeps.evaluation.html_file import evaluation_in
from cnn_sweeps.evaluation.report import Shown, Training, write_report
from cnn_sweeps.evaluation.results import Evaluation
from cnn_sweeps.evaluation.sentences import tell_expected
from cnn_sweeps.evaluation.thumbnails import show_mistakes
from cnn_sweeps.text.commands import Command
from cnn_sweeps.training.progress import TrainingProgress

CLASSES = ["<b>ant</b>", "<script>alert(1)</script>"]


def written(folder, scores, labels, *, with_images=True, kept_epoch=2):
    about = {"threshold": 0.5, "images": np.zeros((len(labels), 8, 8, 3), np.uint8)}
    names = [f"<i>{i}</i>.jpg" for i in range(len(labels))]
    measured = measured_of(of_second(scores), np.array(labels), CLASSES, file_names=names, **about)
    split = Split(np.array([len(labels)]), np.array([len(labels) + 1]), np.arange(len(labels)), left_out=["<u>y</u>"])
    images = Images(measured.dataset, split, split.counts(measured.dataset))
    training = Training(images, TrainingProgress([{}, {}, {}], 2), kept_epoch)
    shown = Shown(mistakes=show_mistakes(measured) if with_images else ())
    command = Command("To repeat it:", "python -m cnn_sweeps.train data.root='<a b>'")
    write_report(folder, "run <1>", Evaluation(measured, measured), training, [command], shown)
    return (folder / "report.html").read_text()


def test_report_says_what_the_network_gets_wrong_and_names_are_text_in_it(tmp_path):
    page = written(tmp_path, [0.1, 0.2, 0.9, 0.8, 0.7, 0.3], [0, 0, 0, 1, 1, 1])
    assert "its weights are those after epoch 2 of 3, the best on 1 validation images" in page
    assert "On 6 test images, which were used for no choice, it is right in 66.7% (95 % interval" in page
    assert "takes &lt;b&gt;ant&lt;/b&gt; for &lt;script&gt;alert(1)&lt;/script&gt;, 1 of 3 such images" in page
    assert page.count("data:image/jpeg") == 2
    assert "&lt;i&gt;2&lt;/i&gt;.jpg" in page
    assert "&lt;u&gt;y&lt;/u&gt;" in page
    assert not re.search("<script|<b>ant|<i>|<u>|<a b>|<1>", page)
    assert "<table>" in evaluation_in(tmp_path / "report.html", with_images=True)
    assert "<pre>" not in evaluation_in(tmp_path / "report.html", with_images=True)


def test_images_of_a_page_are_left_out_of_another_one_that_is_to_have_none(tmp_path):
    written(tmp_path, [0.1, 0.2, 0.9, 0.8, 0.7, 0.3], [0, 0, 0, 1, 1, 1])
    with_images, without = (evaluation_in(tmp_path / "report.html", with_images=each) for each in (True, False))
    assert "data:image/jpeg" in with_images
    assert "data:image" not in without
    assert "2&lt;/i&gt;.jpg" not in without
    assert without.startswith(with_images[:1000])
    assert without.endswith(with_images[-500:])


def test_last_epoch_is_not_called_the_best(tmp_path):
    assert "its weights are those after epoch 3 of 3." in written(tmp_path, [0.1, 0.9], [0, 1], kept_epoch=3)


def test_page_of_another_kind_or_none_has_no_evaluation(tmp_path):
    (tmp_path / "report.html").write_text("<p>")
    assert evaluation_in(tmp_path / "report.html", with_images=True) is None
    assert evaluation_in(tmp_path / "gone.html", with_images=True) is None


def test_no_mistake_is_no_certainty(tmp_path):
    page = written(tmp_path, [0.1, 0.2, 0.9, 0.8], [0, 0, 1, 1], with_images=False)
    assert "it is right in 100.0% (no mistake, so there is no interval)" in page
    assert "It is right on all 4 images" in page
    assert "if it were wrong on 52.7% of all images, one draw in twenty" in page
    assert "data:image" not in page


def test_what_was_measured_on_validation_images_alone_is_too_good():
    (told,) = tell_expected({"final_val_accuracy": 0.9})
    assert told == (
        "On the validation images, which chose the epoch and so make the result look too good, it is right in 90.0%."
    )


def test_network_no_better_than_the_commonest_class_is_called_that():
    metrics = {"test_accuracy": 0.5, "test_accuracy_of_commonest_class": 0.5}
    assert "no better than naming the commonest class" in tell_expected(metrics)[1]
