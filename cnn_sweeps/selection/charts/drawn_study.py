"""What a study's charts have in common, as plotly.js takes them: what `report.html` draws in the browser.

Each point names its trial, and the page shows what that trial is; so a text is in the page once, not once a chart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from cnn_sweeps.sweep.study.ledger import error_of
from cnn_sweeps.text.names import for_chart

# Okabe & Ito: told apart by colour-blind eyes and in print
BLUE, RED, ORANGE, BLACK, GREY = "#0072B2", "#D55E00", "#E69F00", "#000000", "#9AA3AB"
FEWEST_TRIALS = 8  # that say anything of a setting, or of a quarter of them
MOST_LINES = 200  # which an eye can follow
_WIDE = 10.0  # from this ratio of the largest to the smallest value on, an axis is logarithmic

Trace = dict[str, Any]


class Chart(NamedTuple):
    """A chart: its heading, what it shows, its traces, each with the `trials` of its points, and its layout."""

    title: str
    note: str
    traces: list[Trace]
    layout: dict[str, Any]
    is_broad: bool = False

    @property
    def spec(self) -> dict[str, Any]:
        """What the page's script draws."""
        return {"traces": self.traces, "layout": self.layout}


class Study(NamedTuple):
    """What is drawn: trials by number, completed ones, champion first, and how many of these no other one beats."""

    trials: Sequence[FrozenTrial]
    ranking: Sequence[FrozenTrial]
    objectives: Sequence[str]
    minimize: bool  # the first objective
    num_best: int = 1

    @property
    def varied(self) -> list[str]:
        """The parameters of which ranked trials have different values."""
        keys = dict.fromkeys(key for trial in self.ranking for key in trial.params)
        return [key for key in keys if len({str(t.params[key]) for t in self.ranking if key in t.params}) > 1]

    def searched(self, key: str) -> BaseDistribution:
        """Give where ranked trials had a parameter from: all of it, if a sweep went on with other bounds."""
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
    """Give what is shown of each trial where its point is."""
    return {trial.number: "<br>".join(map(for_chart, _lines_of(trial, study.objectives))) for trial in study.trials}


def _lines_of(trial: FrozenTrial, objectives: Sequence[str]) -> Iterator[str]:
    yield f"trial {trial.number}, {trial.state.name.lower()}"
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
    """Give the traces of lines, later ones above; a legend names each kind once."""
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
    """Give the trace of a point for each trial."""
    marker = {"color": colour, "symbol": symbol, "size": 7}
    return {"x": list(x), "y": list(map(rounded, y)), "mode": "markers", "marker": marker, "trials": list(trials)}


def value_axis(name: str, values: Sequence[float]) -> dict[str, Any]:
    """Give the axis of an objective that has these values."""
    return {"title": {"text": name}, "type": "log" if is_wide(values) else "linear"}


def whole_number_axis(name: str, last: int) -> dict[str, Any]:
    """Give the axis of trials or epochs, up to this one."""
    return {"title": {"text": name}, "tick0": 0, "dtick": max(1, 5 * round(last / 30))}


def is_wide(values: Sequence[float]) -> bool:
    """Tell whether values, all above 0, are best shown on a logarithmic axis."""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) / min(finite) >= _WIDE


def rounded(value: float) -> float | None:
    """Give a number to six significant digits; None if it is none that can be drawn."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def some(trials: Sequence[FrozenTrial], ranking: Sequence[FrozenTrial], most: int = MOST_LINES) -> list[FrozenTrial]:
    """Give trials in their order: all or, of more than `most`, the best ones and an even sample of the rest."""
    if len(trials) <= most:
        return list(trials)
    best = {trial.number for trial in ranking[: most // 2]}
    others = [trial.number for trial in trials if trial.number not in best]
    shown = best | set(others[:: -(-len(others) // (most - len(best)))])
    return [trial for trial in trials if trial.number in shown]
