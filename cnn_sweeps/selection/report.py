"""The table and the pictures of a study."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import optuna
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as plots

from cnn_sweeps.experiment.notes import PER_IMAGE
from cnn_sweeps.selection.standing import Standing
from cnn_sweeps.text.names import for_csv

_WIDTH, _HEIGHT, _DPI = 9.0, 5.0, 110
_LONGEST_LEGEND = 12  # trials


def write_table(study: optuna.Study, standing: Standing, folder: Path) -> None:
    """Write `trials.csv`, all trials by number, into a folder that exists.

    Those that completed have their `rank` by value, from 1, whether they are `tied_with_best` and, if they were
    confirmed, the `mean_of_other_seeds`, each as far as it is known.
    """
    table = study.trials_dataframe().drop(columns=f"user_attrs_{PER_IMAGE}", errors="ignore")
    if len(study.directions) == 1 and study.metric_names is not None:
        table = table.rename(columns={f"value_{study.metric_names[0]}": "value"})
    numbers = [trial.number for trial in standing.by_value]
    marks = [("rank", pd.Series(range(1, len(numbers) + 1), index=numbers, dtype="Int64"))]
    if standing.uncertainty is not None:
        marks.append(("tied_with_best", pd.Series(standing.uncertainty.is_tied, index=numbers, dtype="boolean")))
    if standing.again:
        marks.append(("mean_of_other_seeds", pd.Series({key: np.mean(each) for key, each in standing.again.items()})))
    for place, (name, values) in enumerate(marks, 1):
        table.insert(place, name, table["number"].map(values))
    table = table.rename(columns=for_csv)
    table.map(lambda cell: for_csv(cell) if isinstance(cell, str) else cell).to_csv(folder / "trials.csv", index=False)


def draw_report(study: optuna.Study, objective_names: Sequence[str], folder: Path) -> None:
    """Draw the pictures that the study's trials are enough for.

    Args:
        study: with at least one completed trial.
        objective_names: one for each direction.
        folder: that exists.
    """
    mpl.use("Agg")  # Optuna draws with pyplot
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    with mpl.rc_context(), warnings.catch_warnings():  # Optuna sets a style for all that is drawn afterwards
        warnings.simplefilter("ignore", ExperimentalWarning)
        for name, drawn in _draw(study, objective_names):
            axes = drawn.flat[0] if hasattr(drawn, "flat") else drawn
            width, height = axes.figure.get_size_inches()
            axes.figure.set_size_inches(max(_WIDTH, width), max(_HEIGHT, height))
            axes.figure.savefig(folder / f"{name}.png", dpi=_DPI, bbox_inches="tight")
            plt.close(axes.figure)


def _draw(study: optuna.Study, objective_names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Give each picture that makes sense, axes or an array of them, with its name."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    varied = sorted({key for trial in complete for key in trial.params if _is_varied(key, complete)})
    yield "timeline", plots.plot_timeline(study)
    if len(objective_names) == 2:
        yield "pareto_front", plots.plot_pareto_front(study, target_names=list(objective_names))
    if len(objective_names) > 1 or len(complete) < 2:
        return
    (objective,) = objective_names
    yield "history", _with_whole_numbers(plots.plot_optimization_history(study, target_name=objective))
    if any(trial.intermediate_values for trial in study.get_trials(deepcopy=False)):
        yield "learning_curves", _as_learning_curves(plots.plot_intermediate_values(study), objective)
    if len({trial.value for trial in complete}) == 1 or not varied:
        return
    yield "slice", plots.plot_slice(study, params=varied, target_name=objective)
    if len(varied) == 1:
        return
    shared = [key for key in varied if all(key in trial.params for trial in complete)]
    important = list(optuna.importance.get_param_importances(study, params=shared))
    yield "importance", plots.plot_param_importances(study, params=important)
    yield "parallel_coordinates", plots.plot_parallel_coordinate(study, params=varied, target_name=objective)
    if len(important) > 1:
        yield "contour", plots.plot_contour(study, params=important[:2], target_name=objective)


def _is_varied(key: str, trials: Sequence[FrozenTrial]) -> bool:
    return len({trial.params[key] for trial in trials if key in trial.params}) > 1


def _with_whole_numbers(axes: Axes) -> Axes:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return axes


def _as_learning_curves(axes: Axes, objective: str) -> Axes:
    """Make the differences of late epochs visible, and leave out a legend that would be longer than the picture."""
    axes.set(title="Learning curves", xlabel="epoch", ylabel=objective)
    if axes.dataLim.y0 > 0:
        axes.set_yscale("log")
    if len(axes.lines) > _LONGEST_LEGEND and (legend := axes.get_legend()) is not None:
        legend.remove()
    return _with_whole_numbers(axes)
