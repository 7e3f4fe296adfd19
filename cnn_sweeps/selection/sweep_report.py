"""Writes `report.html` of a sweep: what it searched and found, how certain that is, and how the best network does."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup
from optuna.trial import FrozenTrial, TrialState
from plotly.offline import get_plotlyjs

from cnn_sweeps.evaluation.html_file import REPORT_FILE, address_of_picture, write_html
from cnn_sweeps.evaluation.sentences import tell_expected
from cnn_sweeps.selection.ablation import PICTURE, Ablation
from cnn_sweeps.selection.charts.course import draw_course
from cnn_sweeps.selection.charts.drawn_study import Study, some, tell_trials
from cnn_sweeps.selection.charts.effects import Effect, describe_effects, describe_value
from cnn_sweeps.selection.charts.settings import FEWEST_FOR_IMPORTANCE, draw_settings, rank_importance
from cnn_sweeps.selection.standing import Standing
from cnn_sweeps.settings.schema import OBJECTIVES
from cnn_sweeps.sweep.console import describe_counts, describe_params
from cnn_sweeps.text.commands import Command
from cnn_sweeps.text.names import cut_list, for_terminal
from cnn_sweeps.text.numbers import counted
from cnn_sweeps.tracking.page import WINNER_NOTE

_MOST_ROWS = 20  # of the ranking
_MOST_TRIALS = 2000  # in charts: more make the page slow, and larger than 6 MB
_MOST_NAMED = 8  # settings


@dataclass(frozen=True, kw_only=True)
class Swept:
    """A finished sweep, for its report.

    Attributes:
        name: of the sweep's run in MLflow.
        counts: number of trials by state.
        trials: all, by number.
        standing: of the completed trials; with several objectives, of those on the Pareto front.
        objectives: their names.
        notes: lines about the ranking.
        metrics: of the champion, with intervals.
        data_told: lines about the images.
        evaluation: part of the champion's own report; None: there is none.
    """

    name: str
    counts: Mapping[str, int]
    trials: Sequence[FrozenTrial]
    standing: Standing
    objectives: Sequence[str]
    notes: Sequence[str]
    metrics: Mapping[str, float]
    data_told: Sequence[str]
    evaluation: Markup | None


class _Row(NamedTuple):
    number: int
    values: list[str]
    mark: str
    again: str
    parameters: list[str]


def write_report(
    folder: Path, swept: Swept, commands: Sequence[Command], ablation: Ablation | None, *, with_charts: bool
) -> None:
    """Write `report.html` into the folder of a sweep's report.

    Raises:
        OSError: if it cannot be written.
    """
    ranking, drawn = swept.standing.order, some(swept.trials, swept.standing.order, _MOST_TRIALS)
    minimize = OBJECTIVES[swept.objectives[0]] == "minimize"
    study = Study(drawn, _completed(swept)[:_MOST_TRIALS], swept.objectives, minimize, max(1, len(ranking)))
    is_search = ablation is None and bool(ranking)
    importance = rank_importance(study) if with_charts and is_search else {}
    effects = describe_effects(study, importance) if is_search and len(study.objectives) == 1 else []
    of_settings = draw_settings(study, importance) if with_charts and is_search else []
    of_course = draw_course(study) if with_charts else []
    sentences = _sentences(swept, study.varied, effects) if ablation is None else _tell_ablation(swept, ablation)
    write_html(
        folder / REPORT_FILE,
        "selection/templates/sweep.html",
        f"Sweep {for_terminal(swept.name)}",
        sentences=sentences,
        ablation=ablation,
        ablation_notes=[] if ablation is None else list(map(_sentence, ablation.notes)),
        ablation_picture="" if ablation is None else address_of_picture(folder / PICTURE),
        **_ranking(swept, study.varied),
        effects=effects,
        importance=importance,
        settings_charts=of_settings,
        course_charts=of_course,
        charts=[*of_settings, *of_course],
        told=tell_trials(study) if with_charts else {},
        plotly=_plotly() if with_charts else "",
        best=swept.standing.order[0].number if ranking else None,
        evaluation=swept.evaluation,
        data_told=list(map(for_terminal, swept.data_told)),
        commands=commands,
    )


def _completed(swept: Swept) -> list[FrozenTrial]:
    """Return the ranking and, with several objectives, after the Pareto front all other completed trials."""
    ranked = {trial.number for trial in swept.standing.order}
    is_single = len(swept.objectives) == 1
    others = [t for t in swept.trials if t.state == TrialState.COMPLETE and t.number not in ranked and not is_single]
    return [*swept.standing.order, *others]


@cache
def _plotly() -> str:
    """Return plotly.js, 4.8 MB, as 2 MB of gzip and base64."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _sentences(swept: Swept, varied: Sequence[str], effects: Sequence[Effect]) -> list[str]:
    """Say what was searched and found, how certain that is, and what to expect from the champion."""
    objectives = " and ".join(_words(name) for name in swept.objectives)
    settings = cut_list(list(map(for_terminal, varied)), ", ", _MOST_NAMED) or "nothing that varied"
    searched = f"{counted(len(swept.trials), 'trial')} searched for the best {objectives} over {settings}: "
    searched += f"{describe_counts(swept.counts)}."
    if not swept.standing.order:
        return [searched]
    best, is_single = swept.standing.order[0], len(swept.objectives) == 1
    values = ", ".join(f"{_words(n)} {v:.4g}" for n, v in zip(swept.objectives, best.values, strict=True))
    found = f"Trial {best.number} is {'the chosen one' if is_single else 'the first on the Pareto front'}"
    found += f": {values}, with {for_terminal(describe_params(best))}."
    is_measured = bool({"final_val_accuracy", "test_accuracy"} & swept.metrics.keys())
    expected = tell_expected(swept.metrics) if is_measured else []
    paragraphs = [searched, " ".join([found, *map(_sentence, swept.notes)]), " ".join(expected)]
    return [*filter(None, paragraphs), *_tell_most_important(effects, len(swept.standing.by_value))]


def _tell_most_important(effects: Sequence[Effect], num_trials: int) -> list[str]:
    if effects and num_trials < FEWEST_FOR_IMPORTANCE:
        told = counted(num_trials, "completed trial is", "completed trials are")
        return [f"{told} too few to say which setting matters most: at least {FEWEST_FOR_IMPORTANCE} are needed."]
    if not effects or not effects[0].importance:
        return []
    most = effects[0]
    good = f"; in the best quarter of the trials it is {most.good}" if most.good else ""
    return [f"Of the settings, {most.name} explains most of the differences ({most.importance}){good}."]


def _tell_ablation(swept: Swept, ablation: Ablation) -> list[str]:
    arms, num_seeds = list(ablation.arms), len({trial.params["seed"] for trial in swept.standing.by_value})
    told = f"{len(swept.standing.by_value)} trainings compare {', '.join(arms)}, with {counted(num_seeds, 'seed')}."
    return [told, *(f"{claim.text}: {claim.verdict}." for claim in ablation.claims)]


def _sentence(line: str) -> str:
    return f"{line[:1].upper()}{line[1:].rstrip('.')}."


def _words(objective: str) -> str:
    return objective.replace("val_", "validation ").replace("num_", "number of ").replace("_", " ")


def _ranking(swept: Swept, parameters: Sequence[str]) -> dict[str, Any]:
    standing = swept.standing
    rows = [
        _Row(
            trial.number,
            [f"{value:.5g}" for value in trial.values],
            _compared(trial, mark, standing),
            again.removeprefix("again: "),
            [describe_value(trial.params.get(key, "-")) for key in parameters],
        )
        for trial, mark, again in standing.rank(standing.by_value)[:_MOST_ROWS]
    ]
    return {
        "objectives": swept.objectives,
        "parameters": list(map(for_terminal, parameters)),
        "rows": rows,
        "more_rows": max(0, len(standing.by_value) - _MOST_ROWS),
        "is_marked": standing.uncertainty is not None,
        "is_confirmed": bool(standing.again),
        "ranking_notes": [WINNER_NOTE],
    }


def _compared(trial: FrozenTrial, mark: str, standing: Standing) -> str:
    if trial.number == standing.by_value[0].number:
        return "the best value"
    return f"{mark} not clearly worse" if mark.strip() else "worse"
