"""What a study says of a sweep: what controllers noted for its own run, and what came out so far."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, ValidationError

from cnn_sweeps.experiment.notes import (
    ABOUT_RUN,
    DATA_SET,
    RANKING,
    REGISTERED,
    REGISTERED_AS,
    REGISTERED_MODEL,
    TESTED,
    VERDICTS,
    subfolder_of,
)
from cnn_sweeps.sweep.console import rounded_overrides, summarize
from cnn_sweeps.sweep.space import by_setting
from cnn_sweeps.sweep.study.ledger import TrialLedger, final_of
from cnn_sweeps.text.commands import Command, short_overrides
from cnn_sweeps.text.names import for_markdown
from cnn_sweeps.text.numbers import part_of
from cnn_sweeps.text.passwords import hide_passwords
from cnn_sweeps.tracking.page import WINNER_NOTE, begin_note
from cnn_sweeps.tracking.record.entry import NOTE_TAG, Data, Recorded
from cnn_sweeps.tracking.usage import STORE, command_to_predict

_TOLD = {
    "test_log_loss": ("log loss {}", 4),
    "test_accuracy": ("accuracy {}", 3),
    "test_accuracy_of_commonest_class": ("{} by naming the commonest class", 3),
}


class AboutRun(BaseModel):
    """What a controller notes in the study for the sweep's own run: `params` are the settings that all trials share."""

    experiment: str = ""
    name: str = ""
    tags: dict[str, str] = {}
    params: dict[str, str] = {}


def noted_about(attributes: Mapping[str, Any]) -> AboutRun:
    """Return what the study notes for the sweep's own run; empty if that makes no sense."""
    try:
        return AboutRun.model_validate(attributes.get(ABOUT_RUN, {}))
    except ValidationError:
        return AboutRun()


@dataclass(frozen=True)
class Sweep:
    """What a study says of a sweep now, and where the sweep's records are.

    Attributes:
        name: the study's, as are the objectives, attributes and trials.
        folder: of the sweep's records.
        uri: of MLflow's store.
        dead_hosts: hosts all of whose processes count as dead.
    """

    name: str
    objectives: Sequence[str]
    attributes: Mapping[str, Any]
    trials: Sequence[FrozenTrial]
    ledger: TrialLedger
    folder: Path
    uri: str
    dead_hosts: Collection[str] = ()

    def folder_of(self, trial: FrozenTrial) -> Path:
        """Return the folder of a trial's files."""
        return self.folder / subfolder_of(trial)

    @cached_property
    def about_run(self) -> AboutRun:
        """What a controller has noted; nothing if that makes no sense."""
        return noted_about(self.attributes)

    @cached_property
    def searched(self) -> list[str]:
        """The keys that are searched, to which a conditional space adds."""
        return list(dict.fromkeys(key for trial in self.trials for key in by_setting(trial.params)))

    def lacking(self, recorded: Recorded) -> tuple[dict[str, float], dict[str, str], dict[str, str]]:
        """Return the metrics, tags and parameters that the record of the sweep's own run needs and does not have.

        Its parameters are those that are not searched, so that a comparison with it shows only searched keys.
        """
        about, searched = self.about_run, self.searched
        best = find_champion(self.ledger.best, self.trials, self.attributes)
        metrics, tags = summarize(self.ledger.counts, best, next(iter(self.objectives), ""))
        metrics |= _of_best(best, self.attributes)
        if NOTE_TAG in about.tags:
            outcome = describe_outcome(best, self.trials, self.objectives, self.attributes)
            tags[NOTE_TAG] = begin_note(outcome, about.tags[NOTE_TAG], self._commands_of(best))
        groups = tuple(f"{key}." for key in searched)
        fixed = {key: text for key, text in about.params.items() if key not in searched and not key.startswith(groups)}
        return (
            {key: value for key, value in metrics.items() if recorded.newest.get(key) != value},
            {key: text for key, text in (about.tags | tags).items() if recorded.tags.get(key) != hide_passwords(text)},
            {key: text for key, text in fixed.items() if searched and key not in recorded.params},
        )

    def _commands_of(self, best: FrozenTrial | None) -> list[Command]:
        """Return the command that predicts with the model of the best trial, if that was registered."""
        model = self.attributes.get(REGISTERED_MODEL)
        if best is None or self.attributes.get(REGISTERED) != best.number or not isinstance(model, str):
            return []
        return [command_to_predict(model, STORE)]  # whose address is put in when MLflow gets it


class _Ranking(BaseModel):
    """What `Finishing` notes about the ranking."""

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
    """Return whether trials, all of one sweep, compare what regularization does, and do not search for the best one."""
    known = [trial.params.keys() for trial in trials if trial.params]  # which one that waits does not have yet
    return bool(known) and all({"ablation", "seed"} <= keys for keys in known)


def find_champion(
    best: FrozenTrial | None, trials: Sequence[FrozenTrial], attributes: Mapping[str, Any]
) -> FrozenTrial | None:
    """Return the sweep's champion; `best`, the trial with the best value, if none was chosen since that trial ended.

    Other seeds (`confirm`) or a preference may have chosen another trial than `best`; an ablation chooses none.
    `trials` are all, by number.
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
    """Describe in Markdown, line by line, the best trial, its result on test images, and the registered model.

    `best` is None if no trial has completed, or if there are several objectives. Of an ablation, the first line has all
    verdicts in short, and each verdict follows with its evidence.
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
    """Say what other seeds gave, and how many trials are tied with the best value; empty if that is not known."""
    noted = _noted_ranking(attributes)
    if noted is None or noted.champion != champion.number:
        return ""
    means = {number: fmean(values) for number, values in noted.again.items() if values}
    told = ", ".join(f"trial {number} {mean:.4g}" for number, mean in means.items())
    parts = [f"with other seeds {told}"] if told else []
    if noted.tied and noted.trials > 1:
        first = noted.tied[0]
        it = "it" if first == champion.number else f"trial {first}, which has the best value"
        others = part_of(len(noted.tied) - 1, noted.trials - 1, "other completed trial")
        parts.append(f"{others} not clearly worse than {it}")
    return "; ".join(parts)


def _describe_tested(tested: Mapping[str, float]) -> str:
    parts = []
    for name, (text, digits) in _TOLD.items():
        if name in tested:
            low, high = (tested.get(f"interval/{name}_{bound}") for bound in ("low", "high"))
            bounds = "" if low is None or high is None else f" ({low:.{digits}f} to {high:.{digits}f})"
            parts.append(text.format(f"{tested[name]:.{digits}f}{bounds}"))
    return ", ".join(parts)


def _of_best(best: FrozenTrial | None, attributes: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of the best trial, so that MLflow ranks sweeps and runs in one column; empty if None."""
    return {} if best is None else final_of(best) | _tested(best, attributes)


def _tested(trial: FrozenTrial, attributes: Mapping[str, Any]) -> dict[str, float]:
    tested = attributes.get(f"{TESTED}{trial.number}")
    known = tested.items() if isinstance(tested, dict) else ()
    return {name: float(each) for name, each in known if isinstance(each, (int, float)) and math.isfinite(each)}


def noted_data(attributes: Mapping[str, Any]) -> Data | None:
    """Return the data set that the study notes; None if there is no valid note."""
    try:
        return Data.model_validate(attributes.get(DATA_SET))
    except ValidationError:
        return None
