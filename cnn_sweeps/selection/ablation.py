"""Judges an ablation: does regularization help, and how certain is that?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cnn_sweeps.evaluation.metrics import Estimate
from cnn_sweeps.selection.claims import (
    FEWEST_SEEDS,
    SHOWN,
    AblationTraining,
    Claim,
    judge_claims,
    mean_with_interval,
)
from cnn_sweeps.text.numbers import decimals

_COLOURS, _DPI = ("#0072B2", "#D55E00"), 110  # as in evaluation/figures, which imports TensorFlow: too slow here
PICTURE = "ablation.png"
_BOUNDS = {name: (0.0, 1.0) for name in SHOWN if name.endswith("accuracy")}
_BOUNDS |= {name: (0.0, np.inf) for name in SHOWN if name.endswith("log_loss")} | {"best_epoch": (1.0, np.inf)}
_SAID = (("supported", "Helps"), ("refuted", "Does not help"), ("undecided", "Undecided"))
_TOO_FEW = (
    "{} are too few, so every verdict on arms is undecided: with two seeds, the 95 % interval of a mean reaches 12.7 "
    "standard errors to either side, with five 2.8; set seed=0,1,2,3,4 for five"
)


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
    if (num_seeds := len({each.seed for each in trainings})) < FEWEST_SEEDS:
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
    value, low, high = (decimals(each, digits) for each in mean)
    return value, f"{low} to {high}" if np.isfinite(mean.low) else "one seed"
