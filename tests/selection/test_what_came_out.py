"""What a sweep's page in MLflow says came out, by what its study notes."""

import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from cnn_sweeps.selection.outcome import describe_outcome, find_champion
from cnn_sweeps.tracking.page import WINNER_NOTE


def completed(number, value):
    trial = create_trial(value=value)
    trial.number = number
    return trial


TRIALS = [completed(0, 0.4), completed(1, 0.5), create_trial(state=TrialState.FAIL)]
NOTED = {
    "best": 0,
    "champion": 1,
    "again": {"1": [0.45, 0.47], "0": [0.6, 0.62]},
    "trials": 2,
    "images": 60,
    "tied": [0, 1],
}


def test_page_names_the_champion_and_says_why_though_another_value_is_the_best():
    attributes = {"ranking": NOTED, "tested.1": {"test_accuracy": 0.9}, "registered": 1, "registered.as": "x version 1"}
    champion = find_champion(TRIALS[0], TRIALS, attributes)
    assert describe_outcome(champion, TRIALS, ["val_log_loss"], attributes) == [
        "**Chosen: trial 1, val_log_loss 0.5**",
        "**Test images**: accuracy 0.900",
        "**How sure**: with other seeds trial 1 0.46, trial 0 0.61; 1 of 1 other completed trial is not "
        "clearly worse than trial 0, which has the best value",
        "**Model**: `x version 1`",
        WINNER_NOTE,
    ]


def test_page_of_an_ablation_says_what_each_part_does_and_names_no_trial_the_best():
    space = {"ablation": CategoricalDistribution(["l2"]), "seed": IntDistribution(0, 1)}
    trial = create_trial(value=0.1, params={"ablation": "l2", "seed": 0}, distributions=space)
    attributes = {"ranking": NOTED | {"champion": 0}, "tested.0": {"test_accuracy": 0.9}}
    trials = [trial, create_trial(state=TrialState.WAITING)]
    assert find_champion(trial, trials, attributes) is None

    def told():
        return describe_outcome(None, trials, ["val_log_loss"], attributes)

    assert told() == ["**Verdicts: none yet**"]
    attributes["ablation.verdicts"] = ["Helps: L2", "L2 narrows the gap: supported"]
    assert told() == ["**Helps: L2**", "L2 narrows the gap: supported"]


@pytest.mark.parametrize("champion", ["x", 7, -1, 2])
def test_without_a_champion_that_completed_the_best_value_counts(champion):
    for noted in (None, {}, {"best": 0, "champion": champion}):
        assert find_champion(TRIALS[0], TRIALS, {"ranking": noted}) is TRIALS[0]


def test_champion_of_before_is_none_any_more_once_a_trial_has_a_better_value():
    assert find_champion(TRIALS[0], TRIALS, {"ranking": NOTED | {"best": 1}}) is TRIALS[0]
