"""What a study says for the sweep's own run: which trial is shown as chosen."""

import pytest
from optuna.trial import TrialState, create_trial

from cnn_sweeps.selection.outcome import champion_of


def completed(number):
    trial = create_trial(state=TrialState.COMPLETE, value=float(number))
    trial.number = number
    return trial


TRIALS = [completed(number) for number in range(3)]


@pytest.mark.parametrize(
    ("noted", "shown"),
    [
        ({"best": 0, "champion": 2}, 2),
        ({"best": 1, "champion": 2}, 0),  # since then the sweep went on, and has found a better one
        ({"champion": 2}, 0),
        ({"best": 0, "champion": 9}, 0),
        ("nonsense", 0),
        (None, 0),
    ],
)
def test_chosen_trial_is_shown_until_one_has_a_better_value(noted, shown):
    assert champion_of(TRIALS, TRIALS[0], {"ranking": noted}).number == shown


def test_no_trial_is_shown_where_none_is_best():
    assert champion_of(TRIALS, None, {"ranking": {"best": 0, "champion": 2}}) is None
