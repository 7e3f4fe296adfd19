"""Judges an ablation: does regularization help, and how certain is that?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from cnn_sweeps.evaluation.metrics import Estimate
from cnn_sweeps.text.numbers import counted

_COLOURS, _DPI = ("#0072B2", "#D55E00"), 110  # as in evaluation/figures, which imports TensorFlow: too slow here
SHOWN = {
    "final_val_log_loss": "validation log loss",
    "final_val_accuracy": "validation accuracy",
    "test_log_loss": "test log loss",
    "test_accuracy": "test accuracy",
    "final_generalization_gap": "generalization gap",
    "best_epoch": "best epoch",
}
"""The metrics of the table, and their names in it."""
PICTURE = "ablation.png"
_BOUNDS = {name: (0.0, 1.0) for name in SHOWN if name.endswith("accuracy")}
_BOUNDS |= {name: (0.0, np.inf) for name in SHOWN if name.endswith("log_loss")} | {"best_epoch": (1.0, np.inf)}
_SAID = (("supported", "Helps"), ("refuted", "Does not help"), ("undecided", "Undecided"))
_FEWEST_SEEDS = 3
_TOO_FEW = (
    "{} are too few, so every verdict on arms is undecided: with two seeds, the 95 % interval of a mean reaches 12.7 "
    "standard errors to either side, with five 2.8; set seed=0,1,2,3,4 for five"
)


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


class Ablation(NamedTuple):
    """The result of an ablation: means of each arm, remarks, and verdicts on the claims."""

    arms: dict[str, dict[str, Estimate]]
    notes: list[str]
    claims: list[Claim]

    @property
    def metrics(self) -> list[str]:
        """The names of the metrics in the table."""
        return [SHOWN[metric] for metric in next(iter(self.arms.values()))]

    @property
    def rows(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """The table: for each arm, the mean of each metric and the bounds of its interval, as text."""
        return [
            (arm, [_describe(mean, 1 if metric == "best_epoch" else 4) for metric, mean in summary.items()])
            for arm, summary in self.arms.items()
        ]

    @property
    def verdicts(self) -> list[str]:
        """What each part does, in one line, and the claims one by one."""
        found = {said: [claim.part for claim in self.claims if claim.verdict == verdict] for verdict, said in _SAID}
        short = ". ".join(f"{said}: {', '.join(parts)}" for said, parts in found.items() if parts)
        return [short, *map(str, self.claims)]

    @property
    def lines(self) -> list[str]:
        """Everything as lines of text; the bounds of an interval are below the mean."""
        table = [("", self.metrics)]
        for arm, cells in self.rows:
            table += [(arm, [mean for mean, _ in cells]), ("", [bounds for _, bounds in cells])]
        width = max(map(len, self.metrics)) + 2
        lines = ["".join([f"{arm:16s}", *(f"{cell:>{width}s}" for cell in cells)]) for arm, cells in table]
        return [*lines, *self.notes, "", *map(str, self.claims)]


def write_ablation(trainings: Sequence[AblationTraining], patience_epochs: int, folder: Path) -> Ablation:
    """Judge trainings; write `ablation.csv`, `ablation.txt` and `ablation.png` into a folder.

    `patience_epochs` belongs to the early stopping to judge; the trainings themselves did not stop early.
    """
    arms, notes = summarize_arms(trainings), []
    commonest = {SHOWN[name]: value for name in SHOWN if (value := _of_commonest_class(trainings, name)) is not None}
    if commonest:
        told = ", ".join(f"{name} {value:.4f}" for name, value in commonest.items())
        notes = [f"naming the commonest class: {told}"]
    if (num_seeds := len({each.seed for each in trainings})) < _FEWEST_SEEDS:
        notes.append(_TOO_FEW.format("two seeds" if num_seeds > 1 else "trainings with a single seed"))
    ablation = Ablation(arms, notes, judge_claims(trainings, patience_epochs))
    (folder / "ablation.txt").write_text("\n".join(ablation.lines), encoding="utf-8")
    rows = [(arm, metric, *mean) for arm, summary in arms.items() for metric, mean in summary.items()]
    table = pd.DataFrame(rows, columns=["arm", "metric", "mean", "low", "high"])
    table.to_csv(folder / "ablation.csv", index=False)
    draw_ablation(trainings, arms).savefig(folder / PICTURE)
    return ablation


def _of_commonest_class(trainings: Sequence[AblationTraining], metric: str) -> float | None:
    """Return what always naming the commonest class gives for a metric, if that is known."""
    return trainings[0].metrics.get(f"{metric}_of_commonest_class")


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


def summarize_arms(trainings: Sequence[AblationTraining]) -> dict[str, dict[str, Estimate]]:
    """Return for each arm the mean of each metric over its seeds, with its interval."""
    return {
        arm: {
            metric: mean_with_interval([each.metrics[metric] for each in of_arm], *_BOUNDS.get(metric, ()))
            for metric in SHOWN
            if all(metric in each.metrics for each in trainings)
        }
        for arm in dict.fromkeys(each.arm for each in trainings)
        if (of_arm := [each for each in trainings if each.arm == arm])
    }


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
    bounds = f" ({mean.low:+.4f} to {mean.high:+.4f})" if num_seeds > 1 else ""
    seeds = f"{num_seeds} seed{'s' * (num_seeds > 1)}"
    evidence = f"{SHOWN[metric]} {mean.value:+.4f}{bounds} with `{arm}` against `{base}`, {seeds}"
    is_some = num_seeds >= _FEWEST_SEEDS
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


def draw_ablation(trainings: Sequence[AblationTraining], arms: dict[str, dict[str, Estimate]]) -> Figure:
    """Draw each metric of each arm: a dot for every seed, and above the dots the mean with its interval."""
    metrics = next(iter(arms.values()))
    rows = -(-len(metrics) // 3)
    figure = Figure(figsize=(11, 3.1 * rows), dpi=_DPI, layout="constrained")
    all_axes = figure.subplots(rows, 3, squeeze=False, sharey=True).ravel()
    for axes in all_axes[len(metrics) :]:
        axes.axis("off")
    for axes, metric in zip(all_axes, metrics, strict=False):
        for row, (arm, summary) in enumerate(arms.items()):
            values = [each.metrics[metric] for each in trainings if each.arm == arm]
            axes.plot(values, [row + 0.15] * len(values), ".", color=_COLOURS[0], alpha=0.5)
            mean = summary[metric]
            axes.plot([mean.low, mean.high], [row - 0.15] * 2, color=_COLOURS[1], linewidth=2)
            axes.plot(mean.value, row - 0.15, "o", color=_COLOURS[1])
        if (commonest := _of_commonest_class(trainings, metric)) is not None:
            axes.axvline(commonest, color="0.5", linestyle=":", linewidth=1)
        axes.set_yticks(range(len(arms)), [arm.replace("_", " ") for arm in arms])
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.locator_params(axis="x", nbins=5)  # with more, labels of small numbers touch
        axes.set_title(SHOWN[metric], fontsize=10)
        axes.grid(alpha=0.3)
    title = "dots: seeds; line above: mean over the seeds with its 95 % interval; dotted: naming the commonest class"
    figure.suptitle(title, fontsize=10)
    return figure


def _describe(mean: Estimate, digits: int) -> tuple[str, str]:
    bounds = f"{mean.low:.{digits}f} to {mean.high:.{digits}f}" if np.isfinite(mean.low) else "one seed"
    return f"{mean.value:.{digits}f}", bounds
