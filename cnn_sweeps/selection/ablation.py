"""Does regularization help? What trainings with and without it say, and how certainly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from cnn_sweeps.evaluation.figures import COLOURS, DPI
from cnn_sweeps.evaluation.metrics import Estimate

SHOWN = {
    "final_val_log_loss": "validation log loss",
    "final_val_accuracy": "validation accuracy",
    "test_log_loss": "test log loss",
    "test_accuracy": "test accuracy",
    "final_generalization_gap": "generalization gap",
    "best_epoch": "best epoch",
}
"""The metrics of the table, and what they are called in it."""


@dataclass(frozen=True)
class AblationTraining:
    """One training of an arm.

    Attributes:
        arm: an option of the config group `ablation`.
        seed: of the training; the same seed begins with the same weights in every arm.
        metrics: final ones by name.
        val_log_losses: after each epoch; none if the metrics are means of several trainings.
    """

    arm: str
    seed: int
    metrics: dict[str, float]
    val_log_losses: Sequence[float]


@dataclass(frozen=True)
class Claim:
    """A claim, what the trainings say of it, and by how much."""

    text: str
    verdict: str
    evidence: str

    def __str__(self) -> str:
        """Give it as a sentence."""
        return f"{self.text}: {self.verdict}; {self.evidence}"


def write_ablation(trainings: Sequence[AblationTraining], patience_epochs: int, folder: Path) -> list[str]:
    """Write `ablation.csv`, `ablation.txt` and `ablation.png` into a folder; give the text's lines: table and verdicts.

    Args:
        trainings: of all their epochs, at least one.
        patience_epochs: of the early stopping that is judged.
        folder: that exists.
    """
    arms = summarize_arms(trainings)
    lines = [*describe_arms(arms), *_describe_commonest(trainings)]
    lines += ["", *map(str, judge_claims(trainings, patience_epochs))]
    (folder / "ablation.txt").write_text("\n".join(lines), encoding="utf-8")
    rows = [
        {"arm": arm, "metric": metric, "mean": mean.value, "low": mean.low, "high": mean.high}
        for arm, summary in arms.items()
        for metric, mean in summary.items()
    ]
    pd.DataFrame(rows).to_csv(folder / "ablation.csv", index=False)
    draw_ablation(trainings, arms).savefig(folder / "ablation.png")
    return lines


def _describe_commonest(trainings: Sequence[AblationTraining]) -> list[str]:
    """Say what the accuracies are to be held against; nothing if it is not known."""
    known = {
        SHOWN[metric]: each.metrics[f"{metric}_of_commonest_class"]
        for metric in SHOWN
        for each in trainings[:1]
        if f"{metric}_of_commonest_class" in each.metrics
    }
    told = ", ".join(f"{name} {value:.4f}" for name, value in known.items())
    return [f"naming the commonest class: {told}"] if told else []


def mean_with_interval(values: Sequence[float]) -> Estimate:
    """Give the mean and its 95 % interval by Student's t distribution; without bounds for fewer than two values."""
    mean = float(np.mean(values))
    if len(values) < 2 or np.ptp(values) == 0:
        bound = mean if len(values) > 1 else np.nan
        return Estimate(mean, bound, bound)
    interval = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    return Estimate(mean, float(interval.low), float(interval.high))


def summarize_arms(trainings: Sequence[AblationTraining]) -> dict[str, dict[str, Estimate]]:
    """Give for each arm the mean of each metric over its seeds, with its interval."""
    return {
        arm: {
            metric: mean_with_interval([each.metrics[metric] for each in of_arm])
            for metric in SHOWN
            if all(metric in each.metrics for each in trainings)
        }
        for arm in dict.fromkeys(each.arm for each in trainings)
        if (of_arm := [each for each in trainings if each.arm == arm])
    }


def judge_claims(trainings: Sequence[AblationTraining], patience_epochs: int) -> list[Claim]:
    """Hold the trainings against what is claimed of regularization, early stopping and decay.

    Arms are compared seed by seed. A claim is supported if the 95 % interval of the mean difference lies where the
    claim says, refuted if it lies on the other side, and undecided if it holds zero.

    Args:
        trainings: of all their epochs.
        patience_epochs: of the early stopping that is judged.
    """
    gap, loss = "final_generalization_gap", "final_val_log_loss"
    the_gap = "the gap between training and validation"
    claims = [
        _compare(trainings, f"Dropout narrows {the_gap}", gap, "dropout", "none"),
        _compare(trainings, f"L2 narrows {the_gap}", gap, "l2", "none"),
        _compare(trainings, f"Dropout and L2 together narrow {the_gap}", gap, "both", "none"),
        _judge_early_stopping(trainings, patience_epochs) if all(each.val_log_losses for each in trainings) else None,
        _compare(trainings, "Decay of the learning rate improves convergence", loss, "both_and_decay", "both"),
    ]
    return [claim for claim in claims if claim is not None]


def _compare(trainings: Sequence[AblationTraining], text: str, metric: str, arm: str, base: str) -> Claim | None:
    """Judge the claim that a metric is lower in one arm than in another; not if some of their trainings lack it."""
    both = [each for each in trainings if each.arm in (arm, base)]
    if not all(metric in each.metrics for each in both):
        return None
    values = {(each.arm, each.seed): each.metrics[metric] for each in both}
    seeds = [seed for name, seed in values if name == arm and (base, seed) in values]
    if not seeds:
        return None
    differences = [values[arm, seed] - values[base, seed] for seed in seeds]
    mean = mean_with_interval(differences)
    verdict = "supported" if mean.high < 0 else "refuted" if mean.low > 0 else "undecided"
    bounds = f"({mean.low:+.4f} to {mean.high:+.4f})" if len(seeds) > 1 else "(one seed)"
    evidence = f"{SHOWN[metric]} {mean.value:+.4f} {bounds} with `{arm}` against `{base}`, {len(seeds)} seeds"
    return Claim(text, verdict, evidence)


def _judge_early_stopping(trainings: Sequence[AblationTraining], patience_epochs: int) -> Claim:
    """Judge whether most trainings would have been stopped after, not before, their best epoch."""
    halts = [stopping_epoch(each.val_log_losses, patience_epochs) for each in trainings]
    stopped = [(each, halt) for each, halt in zip(trainings, halts, strict=True) if halt < len(each.val_log_losses)]
    text = "Early stopping halts at the best point"
    if not stopped:
        return Claim(text, "undecided", f"no training would have stopped with a patience of {patience_epochs} epochs")
    best = [int(np.argmin(each.val_log_losses)) + 1 for each, _ in stopped]
    num_kept = sum(epoch <= halt for epoch, (_, halt) in zip(best, stopped, strict=True))
    share = stats.binomtest(num_kept, len(stopped)).proportion_ci(0.95, "wilson")
    verdict = "supported" if share.low > 0.5 else "refuted" if share.high < 0.5 else "undecided"
    lost = [min(each.val_log_losses[:halt]) - min(each.val_log_losses) for each, halt in stopped]
    saved = [1 - halt / len(each.val_log_losses) for each, halt in stopped]
    evidence = (
        f"{num_kept} of {len(stopped)} trainings that a patience of {patience_epochs} epochs would have stopped had "
        f"their best epoch by then; stopping costs {np.mean(lost):.4f} of validation log loss and saves "
        f"{np.mean(saved):.0%} of the epochs"
    )
    return Claim(text, verdict, evidence)


def stopping_epoch(losses: Sequence[float], patience_epochs: int) -> int:
    """Give the epoch, from 1, after which early stopping ends a training; the last one if it never does."""
    best = 0
    for epoch, loss in enumerate(losses):
        if loss < losses[best]:
            best = epoch
        if epoch - best >= patience_epochs:
            return epoch + 1
    return len(losses)


def draw_ablation(trainings: Sequence[AblationTraining], arms: dict[str, dict[str, Estimate]]) -> Figure:
    """Draw each metric of each arm: every seed a dot, the mean with its interval beside."""
    metrics = next(iter(arms.values()))
    rows = -(-len(metrics) // 3)
    figure = Figure(figsize=(11, 3.1 * rows), dpi=DPI, layout="constrained")
    all_axes = figure.subplots(rows, 3, squeeze=False, sharey=True).ravel()
    for axes in all_axes[len(metrics) :]:
        axes.axis("off")
    for axes, metric in zip(all_axes, metrics, strict=False):
        for row, (arm, summary) in enumerate(arms.items()):
            values = [each.metrics[metric] for each in trainings if each.arm == arm]
            axes.plot(values, [row + 0.15] * len(values), ".", color=COLOURS[0], alpha=0.5)
            mean = summary[metric]
            axes.plot([mean.low, mean.high], [row - 0.15] * 2, color=COLOURS[1], linewidth=2)
            axes.plot(mean.value, row - 0.15, "o", color=COLOURS[1])
        if (commonest := trainings[0].metrics.get(f"{metric}_of_commonest_class")) is not None:
            axes.axvline(commonest, color="0.5", linestyle=":", linewidth=1)
        axes.set_yticks(range(len(arms)), [arm.replace("_", " ") for arm in arms])
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.set_title(SHOWN[metric], fontsize=10)
        axes.grid(alpha=0.3)
    title = "each seed a dot; mean over the seeds with its 95 % interval above; dotted: naming the commonest class"
    figure.suptitle(title, fontsize=10)
    return figure


def describe_arms(arms: dict[str, dict[str, Estimate]]) -> list[str]:
    """Give the table as lines of text: the mean of each metric and, below it, the bounds of its interval."""
    metrics = next(iter(arms.values()))
    width = max(len(SHOWN[metric]) for metric in metrics) + 2
    lines = ["".join([f"{'':16s}", *(f"{SHOWN[metric]:>{width}s}" for metric in metrics)])]
    for arm, summary in arms.items():
        digits = [1 if metric == "best_epoch" else 4 for metric in metrics]
        means = [f"{each.value:.{d}f}" for each, d in zip(summary.values(), digits, strict=True)]
        bounds = [
            f"{each.low:.{d}f} to {each.high:.{d}f}" if np.isfinite(each.low) else "one seed"
            for each, d in zip(summary.values(), digits, strict=True)
        ]
        lines += [
            "".join([f"{name:16s}", *(f"{cell:>{width}s}" for cell in row)])
            for name, row in ((arm, means), ("", bounds))
        ]
    return lines
