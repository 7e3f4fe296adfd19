"""Numbers in sentences."""

import pytest

from cnn_sweeps.text.numbers import counted, decimals, probability_text


@pytest.mark.parametrize(
    ("number", "several", "told"),
    [(0, None, "0 images"), (1, None, "1 image"), (2000, None, "2,000 images"), (1, "photos", "1 image")],
)
def test_one_thing_is_told_in_the_singular(number, several, told):
    assert counted(number, "image", several) == told
    assert counted(2, "copy is", "copies are") == "2 copies are"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0.01234, "+0.0123"),
        (0.00067, "+0.00067"),
        (-0.00004321, "-4.3e-05"),
        (0.0, "+0.0000"),
        (-0.0, "+0.0000"),
        (1.0, "+1.0000"),
    ],
)
def test_small_number_is_not_shown_as_zero_nor_zero_as_negative(value, told):
    assert decimals(value, 4, "+") == told


@pytest.mark.parametrize(
    ("value", "told"),
    [
        *((0.0, "0"), (0.00012345, "0.000123"), (0.5, "0.5"), (0.606756, "0.607")),
        *((0.9997654, "0.9998"), (1 - 2**-53, "0.9999999999999999"), (1.0, "1")),
    ],
)
def test_probability_has_three_digits_but_is_never_rounded_to_certainty(value, told):
    assert probability_text(value) == told
