"""Who is the champion of trials that were made up: by value, by what other seeds gave, by preference."""

import numpy as np
import pytest
from conftest import compose
from optuna.distributions import IntDistribution
from optuna.trial import TrialState, create_trial

from cnn_sweeps.evaluation.per_image import per_image
from cnn_sweeps.selection.standing import Standing, describe_uncertainty, stand

IDS = np.array([f"image {i}" for i in range(60)])
OF_IMAGES = np.random.default_rng(0).normal(0, 0.05, (8, 60))
RUN_AGAIN = {"trial": IntDistribution(0, 99), "seed": IntDistribution(0, 99)}


def trial(number, value, params=None, **attributes):
    """A completed trial whose losses on 60 images have this mean."""
    losses = OF_IMAGES[number] - OF_IMAGES[number].mean() + value
    noted = per_image(IDS, np.zeros(60, np.int64), losses, losses < 0.5).for_study({"val_log_loss"})
    made = create_trial(
        state=TrialState.COMPLETE,
        value=value,
        params=params or {},
        distributions=RUN_AGAIN if params else {},
        user_attrs={"val_images": noted, "folder": str(number)} | attributes,
    )
    made.number = number
    return made


def again(number, *values):
    """What a trial's configuration gave with other seeds."""
    return [trial(seed, value, {"trial": number, "seed": seed}) for seed, value in enumerate(values, 1)]


COMPLETED = [trial(0, 1.0), trial(1, 1.005), trial(2, 1.01), trial(3, 2.0)]  # the last one is clearly worse


def standing(*overrides, confirmed=(), completed=COMPLETED, settings=None):
    return stand(completed, confirmed, compose(*overrides), lambda trial: (settings or {})[trial.number])


def numbers(trials):
    return [each.number for each in trials]


def test_without_more_the_best_value_is_first_and_what_is_not_clearly_worse_is_marked():
    found = standing()
    assert numbers(found.order) == numbers(found.by_value) == [0, 1, 2, 3]
    assert [(each.trial.number, each.mark, each.remark) for each in found.rank(COMPLETED)] == [
        *((0, " ", ""), (1, "~", ""), (2, "~", ""), (3, " ", ""))
    ]
    apart, luck = describe_uncertainty(found, compose())
    assert apart == (
        "2 of 3 other completed trials are not clearly worse than the best on these 60 validation images (95 %), "
        "marked ~: 1, 2; "
        "another seed may change that (confirm=3 trains the best 3 with 3 other seeds)"
    )
    assert luck.startswith("about 0.00")
    assert luck.endswith(" of the best value is luck: it was chosen as the best of 4")


def test_nothing_is_said_of_a_single_trial_and_nothing_of_seeds_that_were_tried():
    assert describe_uncertainty(standing(completed=COMPLETED[:1]), compose()) == []
    (apart,) = describe_uncertainty(standing("repeats=2", completed=[COMPLETED[0], COMPLETED[3]]), compose("repeats=2"))
    assert apart == "all other completed trials are clearly worse than the best on these 60 validation images (95 %)"


def test_trials_of_which_no_values_of_images_are_kept_are_not_said_to_be_worse():
    """As those of an earlier version, with which a sweep goes on."""
    before = create_trial(state=TrialState.COMPLETE, value=1.001, user_attrs={"folder": "9"})
    before.number = 9
    apart, *_ = describe_uncertainty(standing(completed=[COMPLETED[0], before, COMPLETED[3]]), compose())
    assert apart.startswith(
        "all other compared trials are clearly worse than the best on these 60 validation images (95 %); "
        "not compared: 1, which kept no values of these images"
    )


def test_of_those_that_were_trained_again_the_best_mean_is_first_and_the_others_keep_their_order():
    confirmed = [*again(0, 1.3, 1.5, 1.4), *again(1, 1.1, 1.3, 1.2)]
    found = standing("confirm=2", confirmed=confirmed)
    assert numbers(found.order) == [1, 0, 2, 3]
    assert found.told == [
        "trial 1 is the best of 2 that were trained again: 1.2 ± 0.058, mean of 3 seeds; trial 0, which had the best "
        "value: 1.4 ± 0.058, mean of 3 seeds"
    ]
    assert found.rank(COMPLETED)[0].remark == "again: 1.2 ± 0.058, mean of 3 seeds"
    assert numbers(found.by_value) == [0, 1, 2, 3]
    apart, _ = describe_uncertainty(found, compose("confirm=2"))
    assert "not clearly worse than trial 0, which has the best value, on these 60 validation images" in apart


def test_what_was_confirmed_of_trials_that_are_no_longer_among_the_best_does_not_count():
    found = standing("confirm=2", confirmed=[*again(0, 1.3), *again(1, 1.4), *again(2, 0.1)])
    assert numbers(found.order) == [0, 1, 2, 3]


def test_best_value_counts_where_too_few_could_be_trained_again_which_is_told():
    found = standing("confirm=2", confirmed=again(1, 0.5))
    assert numbers(found.order) == [0, 1, 2, 3]
    assert found.told[0].startswith("warning: too few of the best trials were trained with other seeds")


STRONGER = {
    0: {"model.dropout": "0.1", "model.l2": "1e-05"},
    1: {"model.dropout": "0.5", "model.l2": "0.0001"},
    2: {"model.dropout": "0.2", "model.l2": "0.001"},
    3: {"model.dropout": "0.7", "model.l2": "0.1"},
}


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        (STRONGER, 1),  # as strong as 2 by its ranks, and better
        (STRONGER | {1: {"model.dropout": "0.15", "model.l2": "0.0001"}}, 2),
        ({number: {} for number in STRONGER}, 0),
    ],
)
def test_of_those_tied_with_the_best_the_most_regularized_is_preferred_on_request(settings, first):
    found = standing("prefer=strongest_regularization", settings=settings)
    assert found.order[0].number == first
    assert [f"trial {first} is preferred" in line for line in found.told] == [True] * bool(first)


def test_preference_is_among_those_whose_means_are_tied():
    asked = ["confirm=3", "prefer=strongest_regularization"]
    confirmed = [*again(0, 1.0, 1.1, 1.2), *again(1, 1.9, 2.0, 2.1), *again(2, 1.01, 1.09, 1.21)]
    assert standing(*asked, confirmed=confirmed, settings=STRONGER).order[0].number == 2


def test_means_are_compared_seed_by_seed_in_whatever_order_the_trainings_are():
    """A study gives them by value. Seeds shift both trials alike here, and what is left of the difference is clear."""
    asked = ["confirm=2", "prefer=strongest_regularization"]
    confirmed = [*again(0, 1.0, 3.0, 2.0), *again(2, 1.2, 3.3, 2.25)]
    crossed = [*again(0, 1.0, 3.0, 2.0), *again(2, 3.2, 1.3, 2.25)]
    for trainings, first in ((confirmed, 0), (crossed, 2)):
        by_value = sorted(trainings, key=lambda each: each.value)
        found = standing(*asked, confirmed=by_value, completed=[COMPLETED[0], COMPLETED[2]], settings=STRONGER)
        assert found.order[0].number == first


def test_duplicate_stands_behind_the_trial_that_it_repeats():
    duplicate = create_trial(state=TrialState.COMPLETE, value=1.0, user_attrs={"duplicate_of": 0})
    duplicate.number = 4
    completed = [COMPLETED[0], duplicate, *COMPLETED[1:]]
    found = standing("confirm=2", confirmed=[*again(0, 1.4), *again(1, 1.3)], completed=completed)
    assert [each.trial.number for each in found.rank(completed)] == [1, 0, 4, 2, 3]


def test_several_objectives_have_no_champion_among_them():
    assert standing("objective=[val_log_loss,num_parameters]").tied == []
    assert Standing([], None, {}, []).rank([]) == []
