"""Charts of the searched settings: slices, parallel coordinates, importance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.importance import MeanDecreaseImpurityImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial

from cnn_sweeps.selection.charts.drawn_study import (
    BLUE,
    GREY,
    RED,
    Chart,
    Line,
    Study,
    Style,
    Trace,
    draw_lines,
    is_wide,
    points,
    rounded,
    some,
    value_axis,
)
from cnn_sweeps.text.names import for_chart, for_terminal

FEWEST_FOR_IMPORTANCE = 16  # trials


def draw_settings(study: Study, importance: Mapping[str, float]) -> list[Chart]:
    """Return the charts for which there are enough trials."""
    charts = [draw_importance(importance)] if importance else []
    parallel = draw_parallel(study)
    return [*charts, *draw_slices(study), *([] if parallel is None else [parallel])]


def draw_slices(study: Study) -> list[Chart]:
    """Draw the value of each ranked trial over each parameter that varies, on the scale of the search."""
    if len(study.objectives) > 1 or len(study.ranking) < 2:
        return []
    return [_draw_slice(study, key) for key in study.varied]


def _draw_slice(study: Study, key: str) -> Chart:
    trials = [trial for trial in study.ranking if key in trial.params][::-1]  # draws the best above the others
    x, kind = _places(trials, key)
    best = {trial.number for trial in study.ranking[:1]}
    colours = [RED if trial.number in best else BLUE for trial in trials]
    values = [trial.values[0] for trial in trials]
    traces = [points(x, values, [trial.number for trial in trials], colours) | {"showlegend": False}]
    layout = {"xaxis": {"type": kind}, "yaxis": value_axis(study.objectives[0], values)}
    return Chart(for_terminal(key), "", traces, layout)


def _places(trials: Sequence[FrozenTrial], key: str) -> tuple[list[Any], str]:
    """Return the values of a parameter, and the type of their axis."""
    distribution = trials[0].distributions[key]
    if isinstance(distribution, CategoricalDistribution):
        return [for_chart(trial.params[key]) for trial in trials], "category"
    kind = "log" if getattr(distribution, "log", False) else "linear"
    return [rounded(trial.params[key]) for trial in trials], kind


def draw_parallel(study: Study) -> Chart | None:
    """Draw each ranked trial as a line through its parameters and values, each on an axis from least to greatest."""
    keys = study.varied
    trials = [trial for trial in study.ranking if all(key in trial.params for key in keys)]
    if len(trials) < 3 or len(keys) < 2:
        return None
    shown = some(trials, trials)
    axes = [_scale(shown, key) for key in keys]
    axes += [_scale_of_values(shown, index, name) for index, name in enumerate(study.objectives)]
    rank_of, lines = {trial.number: rank for rank, trial in enumerate(trials)}, list[Line]()
    for trial in reversed(shown):  # the best one above the others
        style = _style_of(rank_of[trial.number], len(trials), study)
        lines.append(Line(trial, range(len(axes)), [axis.place(trial) for axis in axes], style))
    layout = {
        "xaxis": {"tickvals": list(range(len(axes))), "ticktext": [for_chart(axis.name) for axis in axes]}
        | {"range": [-0.4, len(axes) - 0.6], "zeroline": False},
        "yaxis": {"visible": False, "range": [-0.12, 1.12]},
        "annotations": [
            {"x": index, "y": place, "text": for_chart(text), "showarrow": False, "yshift": 9 if place >= 0.5 else -9}
            | {"font": {"size": 11}, "bgcolor": "rgba(255,255,255,.75)"}
            for index, axis in enumerate(axes)
            for place, text in axis.ticks
        ],
    }
    note = "Each line is a trial: its settings and its value. Where the lines of good trials meet, a setting matters."
    return Chart("Parallel coordinates", note, draw_lines(lines), layout, is_broad=True)


def _style_of(rank: int, num_trials: int, study: Study) -> Style:
    if len(study.objectives) > 1 and rank < study.num_best:
        return Style("Pareto front", RED, 2)
    if len(study.objectives) == 1 and rank == 0:
        return Style("chosen trial", RED, 3)
    is_good = len(study.objectives) == 1 and rank < num_trials // 4
    return Style("best quarter", BLUE) if is_good else Style("others", GREY, opacity=0.5)


class _Axis(NamedTuple):
    name: str
    place: Callable[[FrozenTrial], float]  # 0 to 1
    ticks: list[tuple[float, str]]


def _scale(trials: Sequence[FrozenTrial], key: str) -> _Axis:
    """Return a parameter's axis: choices at equal distances, numbers from the least to the greatest."""
    distribution, name = trials[0].distributions[key], key.rpartition(".")[2]
    if isinstance(distribution, CategoricalDistribution):
        choices = list(dict.fromkeys(str(trial.params[key]) for trial in trials))
        choices = [text for each in distribution.choices if (text := str(each)) in choices]
        places = {text: index / max(1, len(choices) - 1) for index, text in enumerate(choices)}
        return _Axis(
            name, lambda trial: places[str(trial.params[key])], [(place, text) for text, place in places.items()]
        )
    is_log = bool(getattr(distribution, "log", False))
    return _scale_of(name, {trial.number: float(trial.params[key]) for trial in trials}, is_log=is_log)


def _scale_of_values(trials: Sequence[FrozenTrial], index: int, name: str) -> _Axis:
    values = {trial.number: float(trial.values[index]) for trial in trials}
    return _scale_of(name, values, is_log=is_wide(list(values.values())))


def _scale_of(name: str, values: Mapping[int, float], *, is_log: bool) -> _Axis:
    change = math.log if is_log else float
    low, high = min(values.values()), max(values.values())
    span = (change(high) - change(low)) or 1.0

    def place(trial: FrozenTrial) -> float:
        return round((change(values[trial.number]) - change(low)) / span, 4)

    return _Axis(name, place, [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")])


def rank_importance(study: Study) -> dict[str, float]:
    """Return the share of the values' variance that each varied parameter explains, largest first; they add up to 1.

    A random forest estimates it: Optuna's default, PED-ANOVA, needs a hundred trials to find the only parameter that
    matters. Returns nothing for fewer than `FEWEST_FOR_IMPORTANCE` trials.
    """
    shared = sorted(key for key in study.varied if all(key in trial.params for trial in study.ranking))
    is_flat = len({trial.values[0] for trial in study.ranking}) == 1
    if len(study.objectives) > 1 or len(study.ranking) < FEWEST_FOR_IMPORTANCE or len(shared) < 2 or is_flat:
        return {}
    made = optuna.create_study(direction="minimize" if study.minimize else "maximize", storage=None)
    spaces = {key: study.searched(key) for key in shared}  # Optuna needs the same one for all trials
    for trial in study.ranking:
        params = {key: trial.params[key] for key in shared}
        made.add_trial(optuna.trial.create_trial(params=params, distributions=spaces, values=trial.values))
    forest = MeanDecreaseImpurityImportanceEvaluator(seed=0)
    shares = get_param_importances(made, evaluator=forest, params=shared)  # it expects sorted names
    return {key: float(share) for key, share in shares.items()}


def draw_importance(importance: Mapping[str, float]) -> Chart:
    """Draw the share of the values' variance that each parameter explains."""
    keys = list(importance)[::-1]
    bars = {"type": "bar", "orientation": "h", "y": list(map(for_chart, keys)), "x": [importance[key] for key in keys]}
    traces: list[Trace] = [bars | {"marker": {"color": BLUE}, "showlegend": False, "hoverinfo": "x+y"}]
    layout = {"xaxis": {"tickformat": ".0%", "rangemode": "tozero"}}
    note = "Share of the values' variance that each setting explains, by a random forest; with few trials, a guess."
    return Chart("Importance", note, traces, layout)
