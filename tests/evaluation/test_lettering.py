"""Names in pictures can be read, whatever letters they are of."""

import logging
import warnings

import matplotlib
import numpy as np
import pytest
from measured import measured_of

from cnn_sweeps.evaluation import figures, pictures
from cnn_sweeps.evaluation.lettering import label

NOBODYS = "\U000f0000"  # no font has it: for private use
IN_STIX_ALONE = "Ⓐ"  # of the fonts that come with matplotlib


@pytest.fixture(autouse=True)
def _fonts():
    with matplotlib.rc_context():
        yield


@pytest.mark.parametrize("name", ["cat", "für", "Ωmega", "a\\b"])
def test_ordinary_name_stays_as_it_is(name):
    before = list(matplotlib.rcParams["font.family"])
    assert label(name) == name
    assert matplotlib.rcParams["font.family"] == before


def test_letters_that_another_font_has_are_drawn_in_that():
    assert label(IN_STIX_ALONE) == IN_STIX_ALONE
    assert matplotlib.rcParams["font.family"][0] == "DejaVu Sans"
    assert len(matplotlib.rcParams["font.family"]) > 1


def test_letters_that_no_font_has_are_shown_as_python_writes_them(monkeypatch):
    monkeypatch.setattr("cnn_sweeps.evaluation.lettering._families_with", lambda _: [])
    assert label("猫 1") == r"\u732b 1"


def test_two_forms_of_a_name_look_alike():
    assert label("fu\u0308r") == "für"


@pytest.mark.parametrize(
    ("name", "shown"), [("x" * 25, "…" + "x" * 23), ("x" * 24, "x" * 24), ("ab" * 40 + ".jpg", None)]
)
def test_long_name_is_cut_at_its_beginning(name, shown):
    assert label(name) == (shown or "…" + name[-23:])


def test_pictures_of_all_such_names_are_drawn_without_a_warning(tmp_path, caplog):
    names = ["猫と犬", IN_STIX_ALONE, "_hidden", "a$b$", "$_{", "x" * 300, "caf\udce9", NOBODYS]
    images, labels = np.zeros((8, 8, 8, 3), np.uint8), np.arange(8)
    measured = measured_of(np.eye(8)[labels[::-1]], labels, names, images=images, file_names=names)
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        for i, figure in enumerate(
            [
                figures.draw_confusion_matrix(measured),
                figures.draw_roc_curve(measured),
                pictures.draw_explained(images[0], np.ones((2, 2)), names[0], IN_STIX_ALONE, 0.5),
            ]
        ):
            figure.savefig(tmp_path / f"{i}.png")
    assert not caplog.records
