"""Charts of the course of a sweep: history, learning curves, Pareto front, timeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

from optuna.trial import FrozenTrial, TrialState

from cnn_sweeps.selection.charts.drawn_study import (
    BLACK,
    BLUE,
    GREY,
    MOST_LINES,
    ORANGE,
    RED,
    Chart,
    Line,
    Study,
    Style,
    Trace,
    draw_lines,
    points,
    some,
    value_axis,
    whole_number_axis,
)
from cnn_sweeps.sweep.console import STATES

_STATES = {"COMPLETE": BLUE, "PRUNED": ORANGE, "FAIL": BLACK, "RUNNING": GREY}


def draw_course(study: Study) -> list[Chart]:
    """Return the charts for which there are enough trials."""
    draw: list[Callable[[Study], Chart | None]] = [draw_history, draw_learning_curves, draw_front, draw_timeline]
    charts = [each(study) for each in draw]
    return [chart for chart in charts if chart is not None]


def draw_history(study: Study) -> Chart | None:
    """Draw the value of each trial and the best so far."""
    values = {trial.number: trial.values[0] for trial in study.trials if trial.state == TrialState.COMPLETE}
    if len(study.objectives) > 1 or len(values) < 2:
        return None
    pruned = {
        trial.number: trial.intermediate_values[max(trial.intermediate_values)]
        for trial in study.trials
        if trial.state == TrialState.PRUNED and trial.intermediate_values
    }
    numbers, best_so_far = list(values), list(accumulate(values.values(), min if study.minimize else max))
    traces = [
        points(numbers, list(values.values()), numbers, BLUE) | {"name": "completed"},
        points(list(pruned), list(pruned.values()), list(pruned), ORANGE, "x") | {"name": "pruned, at its last epoch"},
        {"x": numbers, "y": best_so_far, "mode": "lines", "name": "best so far", "hoverinfo": "skip"}
        | {"line": {"shape": "hv", "color": RED, "width": 2}},
    ]
    axis = value_axis(study.objectives[0], [*values.values(), *pruned.values()])
    last = study.trials[-1].number
    trials_axis = whole_number_axis("trial", last) | {"range": [-0.5, last + 0.5]}  # there is no trial -1
    layout = {"xaxis": trials_axis, "yaxis": axis}
    return Chart("History", "The value of each trial, in the order in which they began.", traces, layout)


def draw_learning_curves(study: Study) -> Chart | None:
    """Draw the objective of each trial after each epoch; if there are many, the best ones and some of the others."""
    trials, best = [trial for trial in study.trials if trial.intermediate_values], {t.number for t in study.ranking[:1]}
    if not trials:
        return None
    lines, values = list[Line](), list[float]()
    shown = some(trials, study.ranking)
    for trial in sorted(shown, key=lambda trial: trial.number in best):  # draws the best one above the others
        colour = _STATES.get(trial.state.name, GREY)
        other = Style(STATES.get(trial.state.name, ""), colour, opacity=0.55)
        style = Style("chosen trial", RED, 3) if trial.number in best else other
        epochs = sorted(trial.intermediate_values)
        losses = [trial.intermediate_values[epoch] for epoch in epochs]
        lines.append(Line(trial, epochs, losses, style))
        values += losses
    note = "Validation after each epoch; a pruned trial ends early. Where a curve gets worse again, the trial overfits."
    if len(shown) < len(trials):
        note += f" Of {len(trials):,} trials, the best {MOST_LINES // 2} and an even sample of the others are drawn."
    epochs_axis = whole_number_axis("epoch", max(max(line.x) for line in lines))
    layout = {"xaxis": epochs_axis, "yaxis": value_axis(study.objectives[0], values)}
    return Chart("Learning curves of all trials", note, draw_lines(lines), layout)


def draw_front(study: Study) -> Chart | None:
    """Draw two objectives against each other, with the Pareto front: trials that no other one beats in both."""
    front = sorted(study.ranking[: study.num_best], key=lambda trial: trial.values[0])
    others = study.ranking[study.num_best :]
    if len(study.objectives) != 2 or len(study.ranking) < 2:
        return None
    on_front = {"name": "Pareto front", "mode": "lines+markers", "line": {"color": RED, "dash": "dot", "width": 1}}
    traces = [_both(others, BLUE) | {"name": "completed"}, _both(front, RED) | on_front]
    axes = [value_axis(name, [t.values[i] for t in study.ranking]) for i, name in enumerate(study.objectives)]
    note = "No other trial beats those on the front in both objectives; you choose among them."
    return Chart("Pareto front", note, traces, dict(zip(("xaxis", "yaxis"), axes, strict=True)))


def _both(trials: Sequence[FrozenTrial], colour: str) -> Trace:
    x, y = ([trial.values[i] for trial in trials] for i in (0, 1))
    return points(x, y, [trial.number for trial in trials], colour)


def draw_timeline(study: Study) -> Chart | None:
    """Draw when each trial ran, and how it ended."""
    traces = []
    for state, colour in _STATES.items():
        trials = [t for t in study.trials if t.state.name == state and t.datetime_start and t.datetime_complete]
        if trials:
            numbers, seconds = [t.number for t in trials], [t.duration.total_seconds() for t in trials if t.duration]
            begun = [t.datetime_start.isoformat(sep=" ", timespec="milliseconds") for t in trials if t.datetime_start]
            traces.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "y": numbers,
                    "base": begun,
                    "x": [round(1000 * s) for s in seconds],
                }
                | {"name": STATES[state], "marker": {"color": colour}, "trials": numbers}
            )
    if not traces:
        return None
    layout = {"xaxis": {"type": "date"}, "yaxis": {"title": {"text": "trial"}}, "barmode": "overlay", "bargap": 0.2}
    return Chart("Timeline", "When each trial ran, in the machine's local time.", traces, layout)
