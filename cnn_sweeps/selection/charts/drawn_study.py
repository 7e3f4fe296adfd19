"""Common parts of a study's charts, as data for plotly.js, which draws them in `report.html`.

Each point names its trial by number. The page holds the text of each trial once, not once in each chart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from cnn_sweeps.sweep.console import STATES
from cnn_sweeps.sweep.study.ledger import error_of
from cnn_sweeps.text.names import for_chart

# of Okabe & Ito: colour-blind people can distinguish them, also in print
BLUE, RED, ORANGE, BLACK, GREY = "#0072B2", "#D55E00", "#E69F00", "#000000", "#9AA3AB"
FEWEST_TRIALS = 8  # fewer trials say nothing about a setting, or about their best quarter
MOST_LINES = 200  # an eye cannot follow more
_WIDE = 10.0  # an axis is logarithmic if the largest value is at least this many times the smallest

Trace = dict[str, Any]


class Chart(NamedTuple):
    """A chart: heading, note, traces, each with the `trials` of its points, and layout."""

    title: str
    note: str
    traces: list[Trace]
    layout: dict[str, Any]
    is_broad: bool = False

    @property
    def spec(self) -> dict[str, Any]:
        """The data for the page's script."""
        return {"traces": self.traces, "layout": self.layout}


class Study(NamedTuple):
    """A study to draw."""

    trials: Sequence[FrozenTrial]  # by number
    ranking: Sequence[FrozenTrial]  # completed ones, champion first
    objectives: Sequence[str]
    minimize: bool  # the first objective
    num_best: int = 1  # trials at the head of the ranking that no other one beats

    @property
    def varied(self) -> list[str]:
        """The parameters that have different values in ranked trials."""
        keys = dict.fromkeys(key for trial in self.ranking for key in trial.params)
        return [key for key in keys if len({str(t.params[key]) for t in self.ranking if key in t.params}) > 1]

    def searched(self, key: str) -> BaseDistribution:
        """Return the search space of a parameter; the union of all bounds, if the sweep went on with other ones."""
        spaces = [trial.distributions[key] for trial in self.ranking if key in trial.params]
        first = spaces[0]
        if isinstance(first, CategoricalDistribution) or all(each == first for each in spaces):
            return first
        numbers = [each for each in spaces if isinstance(each, FloatDistribution | IntDistribution)]
        low, high = min(each.low for each in numbers), max(each.high for each in numbers)
        if isinstance(first, IntDistribution):
            return IntDistribution(int(low), int(high), log=first.log)
        return FloatDistribution(low, high, log=numbers[0].log)


def tell_trials(study: Study) -> dict[int, str]:
    """Return the text at the points of each trial, by number."""
    return {trial.number: "<br>".join(map(for_chart, _lines_of(trial, study.objectives))) for trial in study.trials}


def _lines_of(trial: FrozenTrial, objectives: Sequence[str]) -> Iterator[str]:
    yield f"trial {trial.number}, {STATES.get(trial.state.name, trial.state.name.lower())}"
    yield from (f"{name} {value:.5g}" for name, value in zip(objectives, trial.values or [], strict=False))
    yield from (
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in trial.params.items()
    )
    if error := error_of(trial):
        yield error[:80]


class Style(NamedTuple):
    """How the lines of one kind are drawn."""

    name: str
    colour: str
    width: int = 1
    opacity: float = 1.0


class Line(NamedTuple):
    """A trial as a line."""

    trial: FrozenTrial
    x: Sequence[Any]
    y: Sequence[float]
    style: Style


def draw_lines(lines: Sequence[Line]) -> list[Trace]:
    """Return the traces of lines, later ones above; the legend names each style once."""
    traces, named = list[Trace](), set[str]()
    for trial, x, y, style in lines:
        traces.append(
            {"x": list(x), "y": list(map(rounded, y)), "mode": "lines+markers", "trials": trial.number}
            | {"line": {"color": style.colour, "width": style.width}, "marker": {"size": 3}, "opacity": style.opacity}
            | {"name": style.name, "legendgroup": style.name, "showlegend": style.name not in named}
        )
        named.add(style.name)
    return traces


def points(x: Sequence[Any], y: Sequence[float], trials: Sequence[int], colour: Any, symbol: str = "circle") -> Trace:
    """Return a trace with a point for each trial."""
    marker = {"color": colour, "symbol": symbol, "size": 7}
    return {"x": list(x), "y": list(map(rounded, y)), "mode": "markers", "marker": marker, "trials": list(trials)}


def value_axis(name: str, values: Sequence[float]) -> dict[str, Any]:
    """Return the axis of an objective with these values."""
    return {"title": {"text": name}, "type": "log" if is_wide(values) else "linear"}


def whole_number_axis(name: str, last: int) -> dict[str, Any]:
    """Return an axis of trials or epochs, up to the number `last`."""
    return {"title": {"text": name}, "tick0": 0, "dtick": max(1, 5 * round(last / 30))}


def is_wide(values: Sequence[float]) -> bool:
    """Return whether values are all above 0, and so different that they need a logarithmic axis."""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) / min(finite) >= _WIDE


def rounded(value: float) -> float | None:
    """Round a number to six significant digits; None if it is not finite."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def some(trials: Sequence[FrozenTrial], ranking: Sequence[FrozenTrial], most: int = MOST_LINES) -> list[FrozenTrial]:
    """Return trials in their order: all or, if there are more than `most`, the best and an even sample of the rest."""
    if len(trials) <= most:
        return list(trials)
    best = {trial.number for trial in ranking[: most // 2]}
    others = [trial.number for trial in trials if trial.number not in best]
    shown = best | set(others[:: -(-len(others) // (most - len(best)))])
    return [trial for trial in trials if trial.number in shown]
