"""Which trials are not clearly worse than the best: held against losses whose truth is known."""

import numpy as np
import pytest
from optuna.trial import TrialState, create_trial

from cnn_sweeps.evaluation.per_image import per_image
from cnn_sweeps.selection.ranking import Competitors, Uncertainty, judge, rank_trials

NUM_IMAGES = 60
IDS = np.array([f"image {i}" for i in range(NUM_IMAGES)])


def drawn(random, means, spread=0.2):
    """Losses of trials with these true means, on images of which some are harder for all."""
    return (
        np.array(means)[:, np.newaxis]
        + random.exponential(0.3, NUM_IMAGES)
        + random.normal(0, spread, (len(means), NUM_IMAGES))
    )


def judged(losses, of_seeds=None):
    """Judge losses; give which trials are tied, in their order, and the luck."""
    values = losses.mean(axis=1)
    of_seeds = values[:, np.newaxis] if of_seeds is None else of_seeds
    order = values.argsort(kind="stable")
    found = judge(Competitors(values[order], losses[order], losses.shape[1], of_seeds[order]))
    return np.array(found.is_tied)[order.argsort()], found


def test_truly_best_trial_is_among_the_tied_in_about_95_percent_of_cases_and_the_luck_is_what_it_was_worth():
    """Each of eight equal ones is; the least lucky would be missed more often if pairs were compared by themselves."""
    random = np.random.default_rng(0)
    share_found, estimated, true = [], [], []
    for _ in range(60):
        losses = drawn(random, [0.0] * 8)
        tied, found = judged(losses)
        share_found.append(tied.mean())
        estimated.append(found.luck)
        true.append(losses.mean() - losses.mean(axis=1).min())
    assert 0.92 < np.mean(share_found) < 0.98
    assert np.mean(estimated) == pytest.approx(np.mean(true), rel=0.2)


def test_what_is_clearly_worse_is_told_apart_though_the_images_differ_by_more():
    tied, found = judged(drawn(np.random.default_rng(0), [0.0, 0.01, 0.5], spread=0.05))
    assert tied.tolist() == [True, True, False]
    assert found.num_images == NUM_IMAGES


def test_it_is_the_same_each_time_and_a_single_trial_has_had_no_luck_and_equal_ones_are_tied():
    losses = drawn(np.random.default_rng(0), [0.0, 0.05, 0.1])
    assert judged(losses)[1] == judged(losses)[1]
    assert judged(losses[:1])[1] == Uncertainty([True], 0.0, NUM_IMAGES)
    assert judged(losses[[0, 0, 0]])[1] == Uncertainty([True] * 3, 0.0, NUM_IMAGES)


def test_seeds_that_differ_more_than_the_images_tell_leave_trials_tied():
    losses = drawn(np.random.default_rng(0), [0.0, 0.3], spread=0.05)
    values = losses.mean(axis=1, keepdims=True)
    alike, apart = np.array([[-0.01, 0.0, 0.01]] * 2), np.array([[-0.5, 0.0, 0.5], [0.5, -0.5, 0.0]])
    assert judged(losses, values + alike)[0].tolist() == [True, False]
    assert judged(losses, values + apart)[0].tolist() == [True, True]


def completed(number, losses, metrics=("val_log_loss",), is_right=None, ids=IDS):
    losses = np.asarray(losses)
    is_right = losses < 0.5 if is_right is None else is_right
    noted = per_image(ids, np.zeros(len(ids), np.int64), losses, is_right).for_study(metrics)
    value = float(is_right.mean() if "val_accuracy" in metrics else losses.mean())
    trial = create_trial(state=TrialState.COMPLETE, value=value, user_attrs={"val_images": noted})
    trial.number = number
    return trial


def test_trials_are_judged_by_what_the_study_has_of_them():
    losses = drawn(np.random.default_rng(0), [0.3, 0.31, 0.9], spread=0.05)
    trials = sorted((completed(i, each) for i, each in enumerate(losses)), key=lambda trial: trial.value)
    found = rank_trials(trials, "val_log_loss", 1, minimize=True)
    assert found.is_tied == [True, True, False]
    of_others = completed(3, losses[0] + 0.001, ids=IDS[::-1].astype("<U9"))
    without = create_trial(state=TrialState.COMPLETE, value=0.5)
    assert rank_trials([trials[0], without], "val_log_loss", 1, minimize=True).is_tied == [True, None]
    assert rank_trials([without, trials[0]], "val_log_loss", 1, minimize=True) is None
    assert rank_trials([], "val_log_loss", 1, minimize=True) is None
    assert rank_trials(trials, "generalization_gap", 1, minimize=True) is None
    assert rank_trials([trials[0], of_others], "val_log_loss", 1, minimize=True).is_tied == [True, True]


def test_accuracy_is_better_where_it_is_higher():
    random = np.random.default_rng(0)
    right = [random.random(NUM_IMAGES) < share for share in (0.95, 0.94, 0.4)]
    trials = [completed(i, np.zeros(NUM_IMAGES), ("val_accuracy",), each) for i, each in enumerate(right)]
    found = rank_trials(trials, "val_accuracy", 1, minimize=False)
    assert found.is_tied == [True, True, False]
