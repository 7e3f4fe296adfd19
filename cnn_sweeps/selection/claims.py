"""Claims about regularization, early stopping and learning rate decay, and what trainings say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from cnn_sweeps.evaluation.metrics import Estimate
from cnn_sweeps.text.numbers import counted, decimals

SHOWN = {
    "final_val_log_loss": "validation log loss",
    "final_val_accuracy": "validation accuracy",
    "test_log_loss": "test log loss",
    "test_accuracy": "test accuracy",
    "final_generalization_gap": "generalization gap",
    "best_epoch": "best epoch",
}
"""The metrics of the table, and their names in it."""
FEWEST_SEEDS = 3


@dataclass(frozen=True)
class AblationTraining:
    """One training of an arm, which is an option of the config group `ablation`."""

    arm: str
    seed: int  # trainings with equal seeds begin with the same weights in every arm
    metrics: dict[str, float]  # after training
    val_log_losses: Sequence[float]  # after each epoch; empty if the metrics are means of several trainings


class Claim(NamedTuple):
    """A claim about a part of regularization, the verdict of the trainings, and the evidence for it."""

    part: str
    text: str
    verdict: str  # supported, refuted or undecided
    evidence: str

    def __str__(self) -> str:
        """Return all three as one line."""
        return f"{self.text}: {self.verdict}; {self.evidence}"


def mean_with_interval(values: Sequence[float], least: float = -np.inf, most: float = np.inf) -> Estimate:
    """Return the mean and its 95 % interval by Student's t distribution; the bounds of a single value are NaN.

    The interval is cut at `least` and `most`, the smallest and largest possible value.
    """
    mean = float(np.mean(values))
    if len(values) < 2 or np.ptp(values) == 0:
        bound = mean if len(values) > 1 else np.nan
        return Estimate(mean, bound, bound)
    interval = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    return Estimate(mean, max(float(interval.low), least), min(float(interval.high), most))


def judge_claims(trainings: Sequence[AblationTraining], patience_epochs: int) -> list[Claim]:
    """Judge the usual claims about regularization, early stopping and learning rate decay.

    Arms are compared seed by seed. A claim is supported if the whole 95 % interval of the mean difference is on the
    side that it claims, refuted if it is on the other side, and undecided if it contains zero, or if there are fewer
    than three seeds.
    """
    gap, the_gap = "final_generalization_gap", "the gap between training and validation"
    decay = "Decay of the learning rate improves convergence"
    claims = [
        _compare(trainings, "dropout", f"Dropout narrows {the_gap}", gap, "dropout", "none"),
        _compare(trainings, "L2", f"L2 narrows {the_gap}", gap, "l2", "none"),
        _compare(trainings, "both together", f"Dropout and L2 together narrow {the_gap}", gap, "both", "none"),
        _judge_early_stopping(trainings, patience_epochs) if all(each.val_log_losses for each in trainings) else None,
        _compare(trainings, "decay", decay, "final_val_log_loss", "both_and_decay", "both"),
    ]
    return [claim for claim in claims if claim is not None]


def _compare(
    trainings: Sequence[AblationTraining], part: str, text: str, metric: str, arm: str, base: str
) -> Claim | None:
    """Judge the claim that a metric is lower in `arm` than in `base`; None if one of their trainings lacks it."""
    values = {(each.arm, each.seed): each.metrics.get(metric) for each in trainings if each.arm in (arm, base)}
    known = {key: value for key, value in values.items() if value is not None}
    of_both = [seed for name, seed in known if name == arm and (base, seed) in known]
    differences = [known[arm, seed] - known[base, seed] for seed in of_both]
    if len(known) < len(values) or not differences:
        return None
    mean, num_seeds = mean_with_interval(differences), len(differences)
    bounds = f" ({decimals(mean.low, 4, '+')} to {decimals(mean.high, 4, '+')})" if num_seeds > 1 else ""
    difference = f"{SHOWN[metric]} {decimals(mean.value, 4, '+')}{bounds}"
    evidence = f"{difference} with {arm} against {base}, {counted(num_seeds, 'seed')}"
    is_some = num_seeds >= FEWEST_SEEDS
    return Claim(part, text, _verdict(supports=is_some and mean.high < 0, refutes=is_some and mean.low > 0), evidence)


def _verdict(*, supports: bool, refutes: bool) -> str:
    return "supported" if supports else "refuted" if refutes else "undecided"


def _judge_early_stopping(trainings: Sequence[AblationTraining], patience_epochs: int) -> Claim:
    """Judge whether most trainings would have been stopped after, not before, their best epoch."""
    names, halts = ("early stopping", "Early stopping halts at the best point"), list[tuple[Sequence[float], int]]()
    for losses in (each.val_log_losses for each in trainings):
        if (halt := stopping_epoch(losses, patience_epochs)) < len(losses):
            halts.append((losses, halt))
    patience = f"a patience of {counted(patience_epochs, 'epoch')}"
    if not halts:
        return Claim(*names, "undecided", f"no training would have stopped with {patience}")
    num_kept = sum(int(np.argmin(losses)) < halt for losses, halt in halts)
    share = stats.binomtest(num_kept, len(halts)).proportion_ci(0.95, "wilson")
    lost = [min(losses[:halt]) - min(losses) for losses, halt in halts]
    saved = [1 - halt / len(losses) for losses, halt in halts]
    evidence = (
        f"{patience} would have stopped {counted(len(halts), 'training')}, and {num_kept} of them had "
        f"their best epoch by then; stopping costs {np.mean(lost):.4f} of validation log loss and saves "
        f"{np.mean(saved):.0%} of the epochs"
    )
    return Claim(*names, _verdict(supports=share.low > 0.5, refutes=share.high < 0.5), evidence)


def stopping_epoch(losses: Sequence[float], patience_epochs: int) -> int:
    """Return the epoch, from 1, after which early stopping ends a training; the last epoch if it never does."""
    best = 0
    for epoch, loss in enumerate(losses):
        if loss < losses[best]:
            best = epoch
        if epoch - best >= patience_epochs:
            return epoch + 1
    return len(losses)
