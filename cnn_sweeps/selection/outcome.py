"""What a study says for the sweep's own run: what was noted, and what came out so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, ValidationError

from cnn_sweeps.experiment.notes import ABOUT_RUN, DATA_SET, RANKING, REGISTERED, REGISTERED_AS, TESTED, VERDICTS
from cnn_sweeps.sweep.console import rounded_overrides
from cnn_sweeps.sweep.study.ledger import final_of
from cnn_sweeps.text.commands import short_overrides
from cnn_sweeps.text.names import for_markdown
from cnn_sweeps.tracking.page import WINNER_NOTE
from cnn_sweeps.tracking.record.entry import Data

_TOLD = {
    "test_accuracy": "accuracy {:.3f}",
    "test_log_loss": "log loss {:.3f}",
    "test_accuracy_of_commonest_class": "commonest class {:.3f}",
}


class AboutRun(BaseModel):
    """What a controller notes in the study for the sweep's own run: `params` are the settings that all trials share."""

    experiment: str = ""
    name: str = ""
    tags: dict[str, str] = {}
    params: dict[str, str] = {}


def noted_about(attributes: Mapping[str, Any]) -> AboutRun:
    """Give what the study notes for the sweep's own run; nothing if that makes no sense."""
    try:
        return AboutRun.model_validate(attributes.get(ABOUT_RUN, {}))
    except ValidationError:
        return AboutRun()


class _Ranking(BaseModel):
    """What `Finishing` notes of the ranking."""

    best: int
    champion: int
    again: dict[int, list[float]] = {}
    trials: int = 0
    tied: list[int] = []


def _noted_ranking(attributes: Mapping[str, Any]) -> _Ranking | None:
    try:
        return _Ranking.model_validate(attributes.get(RANKING))
    except ValidationError:
        return None


def is_ablation(trials: Sequence[FrozenTrial]) -> bool:
    """Tell whether trials, all of one sweep, compare what regularization does, and do not search for the best one."""
    known = [trial.params.keys() for trial in trials if trial.params]  # which one that waits does not have yet
    return bool(known) and all({"ablation", "seed"} <= keys for keys in known)


def find_champion(
    best: FrozenTrial | None, trials: Sequence[FrozenTrial], attributes: Mapping[str, Any]
) -> FrozenTrial | None:
    """Give the trial that the sweep has named the champion; the one with the best value before it has, or if it is new.

    Other seeds (`confirm`) or a preference may have chosen another than that; an ablation chooses none. `trials` are
    all, by number.
    """
    noted = _noted_ranking(attributes)
    if is_ablation(trials):
        return None
    if best is None or noted is None or noted.best != best.number or not 0 <= noted.champion < len(trials):
        return best
    champion = trials[noted.champion]
    return champion if champion.state == TrialState.COMPLETE else best


def describe_outcome(
    best: FrozenTrial | None, trials: Sequence[FrozenTrial], objectives: Sequence[str], attributes: Mapping[str, Any]
) -> list[str]:
    """Say in Markdown, line by line, which trial is best, what it gave on test images, and which model it became.

    `best` is None where no trial has completed, or several objectives rank none first. Of an ablation, what it has
    found: in one line, and each verdict with its evidence.
    """
    if is_ablation(trials) and len(objectives) == 1:
        verdicts = attributes.get(VERDICTS)
        short, *claims = map(str, verdicts) if isinstance(verdicts, list) and verdicts else ["Verdicts: none yet"]
        return [f"**{short}**", *claims]
    if best is None:
        several = [f"**Best** by {' and '.join(objectives)}", WINNER_NOTE]
        return ["**Best**: none yet"] if len(objectives) == 1 else several
    params = f" with {for_markdown(' '.join(short_overrides(rounded_overrides(best))))}" if best.params else ""
    noted = _noted_ranking(attributes)
    called = "Chosen" if noted is not None and noted.best != noted.champion == best.number else "Best"
    lines = [f"**{called}: trial {best.number}, {objectives[0]} {best.values[0]:.4g}**{params}"]
    if tested := _tested(best, attributes):
        lines.append(f"**Test images**: {_describe_tested(tested)}")
    if certainty := _describe_certainty(best, attributes):
        lines.append(f"**How sure**: {certainty}")
    registered = attributes.get(REGISTERED_AS)
    if isinstance(registered, str) and attributes.get(REGISTERED) == best.number:
        lines.append(f"**Model**: {for_markdown(registered[:300])}")
    return [*lines, WINNER_NOTE]


def _describe_certainty(champion: FrozenTrial, attributes: Mapping[str, Any]) -> str:
    """Say what other seeds gave, and how many trials cannot be told from the best value; nothing if it is not known."""
    noted = _noted_ranking(attributes)
    if noted is None or noted.champion != champion.number:
        return ""
    means = {number: fmean(values) for number, values in noted.again.items() if values}
    told = ", ".join(f"trial {number} {mean:.4g}" for number, mean in means.items())
    parts = [f"with other seeds {told}"] if told else []
    if noted.tied and noted.trials > 1:
        others, first = f"{len(noted.tied) - 1} of {noted.trials} completed trials", noted.tied[0]
        it = "it" if first == champion.number else f"trial {first}, whose value is the best"
        parts.append(f"{others} cannot be told from {it}")
    return "; ".join(parts)


def _describe_tested(tested: Mapping[str, float]) -> str:
    parts = []
    for name, text in _TOLD.items():
        if name in tested:
            low, high = (tested.get(f"interval/{name}_{bound}") for bound in ("low", "high"))
            bounds = "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"
            parts.append(text.format(tested[name]) + bounds)
    return ", ".join(parts)


def of_best(best: FrozenTrial | None, attributes: Mapping[str, Any]) -> dict[str, float]:
    """Give what the best trial measured, so that sweeps and runs rank in one column; nothing if there is none."""
    return {} if best is None else final_of(best) | _tested(best, attributes)


def _tested(trial: FrozenTrial, attributes: Mapping[str, Any]) -> dict[str, float]:
    tested = attributes.get(f"{TESTED}{trial.number}")
    known = tested.items() if isinstance(tested, dict) else ()
    return {name: float(each) for name, each in known if isinstance(each, (int, float)) and math.isfinite(each)}


def noted_data(attributes: Mapping[str, Any]) -> Data | None:
    """Give the data set that the study notes; None if it notes none, or what makes no sense."""
    try:
        return Data.model_validate(attributes.get(DATA_SET))
    except ValidationError:
        return None
