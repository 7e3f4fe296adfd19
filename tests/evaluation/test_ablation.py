"""An ablation says what its trainings show, and no more."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cnn_sweeps.selection.ablation import summarize_arms, write_ablation
from cnn_sweeps.selection.claims import AblationTraining, judge_claims, mean_with_interval, stopping_epoch

ARMS = ("none", "dropout", "l2", "both", "both_and_decay")
FALLING = [1.0, 0.8, 0.6, 0.5, 0.4, 0.3]
TURNING = [1.0, 0.4, 0.5, 0.6, 0.7, 0.8]
FALLING_AGAIN = [1.0, 0.4, 0.5, 0.6, 0.7, 0.1]


def trainings(gaps, losses=None, curve=FALLING, num_seeds=5):
    """Trainings whose gap and log loss differ from arm to arm, with some noise from seed to seed."""
    random = np.random.default_rng(0)
    return [
        AblationTraining(
            arm,
            seed,
            {
                "final_generalization_gap": gaps.get(arm, 0.5) + 0.01 * random.normal(),
                "final_val_log_loss": (losses or {}).get(arm, 0.5) + 0.01 * random.normal(),
                "best_epoch": float(np.argmin(curve) + 1),
            },
            curve,
        )
        for arm in ARMS
        for seed in range(num_seeds)
    ]


def verdicts(*arguments, patience_epochs=3, **settings):
    return {claim.text: claim.verdict for claim in judge_claims(trainings(*arguments, **settings), patience_epochs)}


def test_smaller_gap_supports_larger_refutes_and_equal_leaves_undecided():
    found = verdicts({"dropout": 0.3, "l2": 0.7, "both": 0.5})
    the_gap = "the gap between training and validation"
    assert found[f"Dropout narrows {the_gap}"] == "supported"
    assert found[f"L2 narrows {the_gap}"] == "refuted"
    assert found[f"Dropout and L2 together narrow {the_gap}"] == "undecided"


@pytest.mark.parametrize(("loss", "verdict"), [(0.3, "supported"), (0.7, "refuted"), (0.5, "undecided")])
def test_decay_is_judged_by_the_loss_that_it_reaches(loss, verdict):
    assert verdicts({}, {"both_and_decay": loss})["Decay of the learning rate improves convergence"] == verdict


@pytest.mark.parametrize(
    ("curve", "verdict"), [(FALLING, "undecided"), (TURNING, "supported"), (FALLING_AGAIN, "refuted")]
)
def test_early_stopping_is_judged_by_whether_the_best_epoch_came_before_it(curve, verdict):
    assert verdicts({}, curve=curve)["Early stopping halts at the best point"] == verdict


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_one_seed_or_two_decide_nothing_and_that_is_said(num_seeds, tmp_path):
    differing = {"dropout": 0.1}, {"both_and_decay": 0.1}
    assert set(verdicts(*differing, num_seeds=num_seeds).values()) == {"undecided"}
    lines = write_ablation(trainings(*differing, num_seeds=num_seeds), 3, tmp_path).lines
    assert [line.split(":")[0] for line in lines if "too few" in line] == [
        ["trainings with a single seed are too few, so every verdict on arms is undecided"],
        ["two seeds are too few, so every verdict on arms is undecided"],
    ][num_seeds - 1]
    assert not any("too few" in line for line in write_ablation(trainings(*differing), 3, tmp_path).lines)


def test_interval_of_a_metric_stays_where_the_metric_can_be():
    some = [replace(each, metrics={"test_accuracy": (0.9, 0.99)[each.seed], "test_log_loss": (0.01, 0.2)[each.seed]})
            for each in trainings({}, num_seeds=2)]  # fmt: skip
    arm = summarize_arms(some)["none"]
    assert arm["test_accuracy"].high == 1
    assert 0 <= arm["test_accuracy"].low < 0.945
    assert arm["test_log_loss"].low == 0


def test_metric_that_some_trainings_lack_is_judged_in_no_claim():
    """Of trials that could not be chosen any more, training images were not measured."""
    some = trainings({"dropout": 0.3, "l2": 0.3})
    del next(each for each in some if each.arm == "dropout").metrics["final_generalization_gap"]
    claims = [claim.text for claim in judge_claims(some, 3)]
    assert not any(text.startswith("Dropout narrows") for text in claims)
    assert any(text.startswith("L2 narrows") for text in claims)


def test_early_stopping_is_not_judged_where_trainings_are_means_without_epochs():
    means = [replace(each, val_log_losses=[]) for each in trainings({"dropout": 0.3})]
    assert "Early stopping halts at the best point" not in [claim.text for claim in judge_claims(means, 3)]


def test_claim_says_by_how_much_in_one_line():
    (claim, *_) = judge_claims(trainings({"dropout": 0.3}), 3)
    assert "generalization gap -0.2" in str(claim)
    assert "with dropout against none, 5 seeds" in str(claim)
    assert "\n" not in str(claim)


def test_parts_are_told_by_verdict_in_one_line_before_the_claims(tmp_path):
    ablation = write_ablation(trainings({"dropout": 0.3, "l2": 0.7}), 3, tmp_path)
    short, *claims = ablation.verdicts
    assert short == "Helps: dropout. Does not help: L2. Undecided: both together, early stopping, decay"
    assert claims == [str(claim) for claim in ablation.claims]


def test_arms_that_are_not_there_are_not_judged():
    some = [each for each in trainings({}) if each.arm in ("none", "l2")]
    assert len(judge_claims(some, 3)) == 2


@pytest.mark.parametrize(("curve", "epoch"), [(FALLING, 6), (TURNING, 5), ([1.0] * 6, 4), ([1.0], 1)])
def test_early_stopping_would_end_after(curve, epoch):
    assert stopping_epoch(curve, 3) == epoch


def test_interval_is_students():
    values = [0.2, 0.4, 0.9]
    half = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) / 3**0.5
    assert mean_with_interval(values) == pytest.approx((0.5, 0.5 - half, 0.5 + half))
    assert mean_with_interval([0.5, 0.5]) == (0.5, 0.5, 0.5)
    assert np.isnan(mean_with_interval([0.5]).low)


def test_table_and_picture_hold_every_arm_and_metric(tmp_path):
    all_trainings = trainings({"dropout": 0.3})
    lines = write_ablation(all_trainings, 3, tmp_path).lines
    table = pd.read_csv(tmp_path / "ablation.csv")
    assert set(table["arm"]) == set(ARMS)
    arms = summarize_arms(all_trainings)
    for _, row in table.iterrows():
        assert (row["mean"], row["low"], row["high"]) == pytest.approx(arms[row["arm"]][row["metric"]])
    assert (tmp_path / "ablation.txt").read_text().splitlines() == lines
    assert any(line.startswith("both_and_decay") for line in lines)
    assert (tmp_path / "ablation.png").stat().st_size > 10_000
