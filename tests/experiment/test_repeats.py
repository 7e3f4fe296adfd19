"""A configuration trained several times: which trainings, what their metrics amount to, and when to give up on it."""

import numpy as np
import pytest
from conftest import TINY, compose

from cnn_sweeps.data.images import load_images
from cnn_sweeps.errors import DataError
from cnn_sweeps.experiment.parts import average_metrics, clearly_loses, describe_mean, objective_values, plan_parts


def plan(*overrides):
    config = compose(*TINY, *overrides)
    images = load_images(config)
    return images.split, plan_parts(config, images)


def val_images(training):
    return training.images.split.val.tolist()


# Which trainings.


def test_a_plain_run_is_one_training_with_its_own_seed_and_split():
    split, (training,) = plan("seed=3")
    assert training.config.seed == 3
    assert training.images.split is split


def test_repeats_are_trainings_with_consecutive_seeds_on_the_same_split():
    split, trainings = plan("repeats=3", "seed=5")
    assert [training.config.seed for training in trainings] == [5, 6, 7]
    assert [training.name for training in trainings] == ["seed 5", "seed 6", "seed 7"]
    assert all(training.images.split is split for training in trainings)


def test_repeats_of_folds_train_every_seed_on_every_fold():
    split, trainings = plan("repeats=2", "folds=3", "seed=1")
    assert [(training.config.seed, training.name) for training in trainings] == [
        (seed, f"seed {seed} fold {fold} of 3") for seed in (1, 2) for fold in (1, 2, 3)
    ]
    first, second = trainings[:3], trainings[3:]
    assert [val_images(each) for each in first] == [val_images(each) for each in second]
    validated = sorted(image for each in first for image in val_images(each))
    assert validated == sorted([*split.train.tolist(), *split.val.tolist()])


def test_folds_follow_the_seed_of_the_split_and_not_that_of_the_training():
    folds = {
        override: [val_images(each) for each in plan("folds=2", override)[1]]
        for override in ("seed=0", "seed=1", "split.seed=1")
    }
    assert folds["seed=0"] == folds["seed=1"] != folds["split.seed=1"]


def test_settings_of_a_training_hold_its_own_seed():
    """They are recorded, and tell whose checkpoint is whose."""
    _, trainings = plan("repeats=2")
    assert [training.config.settings["seed"] for training in trainings] == [0, 1]
    assert len({str(training.config.settings_of_weights) for training in trainings}) == 2


def test_more_folds_than_images_of_a_class_are_refused():
    with pytest.raises(DataError, match=r"folds=100: class .* has 24 different images"):
        plan("folds=100")


# What their metrics amount to.


def test_mean_of_several_trainings_is_told_with_its_standard_error():
    finals = [{"final_val_log_loss": value, "test_accuracy": 0.5, "epochs": 3} for value in (0.1, 0.3)]
    assert describe_mean(average_metrics(finals), 2) == (
        "mean of 2 trainings ± its standard error: validation log loss 0.2000 ± 0.1000, test accuracy 0.5000 ± 0.0000"
    )


def test_average_is_the_mean_with_its_standard_error():
    averaged = average_metrics([{"final_val_log_loss": value, "epochs": 3} for value in (0.1, 0.2, 0.6)])
    assert averaged["final_val_log_loss"] == pytest.approx(0.3)
    assert averaged["final_val_log_loss_se"] == pytest.approx(np.sqrt((0.04 + 0.01 + 0.09) / 2 / 3))
    assert (averaged["epochs"], averaged["epochs_se"]) == (3, 0)


def test_average_of_one_training_is_the_training_and_has_no_standard_error():
    assert average_metrics([{"final_val_accuracy": 0.9}]) == {"final_val_accuracy": 0.9}


def test_several_trainings_have_no_decision_threshold_in_common():
    finals = [{"final_val_accuracy": 0.9, "decision_threshold": threshold} for threshold in (0.2, 0.6)]
    assert average_metrics(finals).keys() == {"final_val_accuracy", "final_val_accuracy_se"}
    assert average_metrics(finals[:1])["decision_threshold"] == 0.2


def test_objectives_are_of_the_final_weights_in_the_order_asked_for():
    final = {
        "final_val_log_loss": 0.3,
        "final_val_accuracy": 0.9,
        "final_generalization_gap": 0.1,
        "num_parameters": 529,
    }
    assert objective_values(final, compose()) == [0.3]
    several = compose("objective=[num_parameters,val_accuracy,generalization_gap]")
    assert objective_values(final, several) == [529, 0.9, 0.1]


# When to give up.


@pytest.mark.parametrize("minimize", [True, False])
def test_clearly_worse_trainings_lose_and_clearly_better_ones_do_not(minimize):
    low, high = [0.10, 0.20, 0.30], [0.50, 0.61, 0.69]
    worse, better = (high, low) if minimize else (low, high)
    assert clearly_loses(worse, better, minimize=minimize)
    assert not clearly_loses(better, worse, minimize=minimize)


def test_a_difference_within_chance_does_not_lose():
    assert not clearly_loses([0.30, 0.18, 0.33], [0.10, 0.20, 0.30], minimize=True)


def test_pairs_are_compared_so_that_a_hard_fold_is_no_excuse():
    """The same values in other pairs differ by chance alone."""
    best = [0.1, 0.5, 0.9]
    assert clearly_loses([0.12, 0.521, 0.919], best, minimize=True)
    assert not clearly_loses([0.919, 0.12, 0.521], best, minimize=True)


def test_one_sided_test_at_five_percent_decides():
    """Two differences of 1 +- d give t = 1/d with one degree of freedom, whose 5 % point is 6.314."""
    assert clearly_loses([1 + 1 / 6.32, 1 - 1 / 6.32], [0.0, 0.0], minimize=True)
    assert not clearly_loses([1 + 1 / 6.31, 1 - 1 / 6.31], [0.0, 0.0], minimize=True)


@pytest.mark.parametrize(
    ("values", "best"), [([9.0], [0.1]), ([9.0], [0.1, 0.2, 0.3]), ([9.0, 9.1], [0.1]), ([9.0], [])]
)
def test_a_single_pair_never_loses(values, best):
    assert not clearly_loses(values, best, minimize=True)


@pytest.mark.parametrize(("difference", "loses"), [(1, True), (0, False), (-1, False)])
@pytest.mark.parametrize("minimize", [True, False])
def test_constant_differences_decide_by_their_sign(difference, loses, minimize):
    values = [best + (difference if minimize else -difference) for best in (529, 700, 800)]
    assert clearly_loses(values, [529, 700, 800], minimize=minimize) is loses


def test_only_the_trainings_that_both_have_are_compared():
    best = [0.50, 0.61, 0.01, 0.01]
    assert not clearly_loses([0.10, 0.20], best, minimize=True)
    assert clearly_loses([0.70, 0.80], best, minimize=True)
