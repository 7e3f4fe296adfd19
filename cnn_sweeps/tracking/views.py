"""Views of an experiment in `mlflow ui`: one for each sweep, and one for all runs.

A view says which runs the page shows, in which order, and with which columns and charts. When a person saves a view,
the page keeps it as a tag of the experiment. We write such tags, too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from cnn_sweeps.tracking.record.entry import CONFIRMS_TAG

_TAG = "mlflow.sharedViewState."
_OURS = "sweep-"
_ALL_RUNS = "all-runs"
ALL_RUNS_TAG = f"{_TAG}{_ALL_RUNS}"
TRAINING = "workflowType=machine_learning"
"""Part of an address that opens an experiment's page for trained models; the default is MLflow's page for agents."""
_NUM_LISTED = 10  # the page refuses to save a person's views once 40 are listed
_CURVES, _TRIALS = "curves", "trials"
_PARAMS_OF_ALL = ("model.dropout", "model.l2", "optimizer.decay_rate")
_METRICS_OF_ALL = ("final_val_log_loss", "test_accuracy")


class _ListedView(BaseModel):
    name: str
    createdAt: int  # noqa: N815  MLflow's name
    state: str


def describe_view(run_id: str, params: Sequence[str], metrics: Sequence[str], *, ascending: bool) -> dict[str, Any]:
    """Describe a view of a sweep's trials, best first, with charts.

    Args:
        run_id: of the sweep.
        params: the keys that the sweep searches.
        metrics: shown for each trial; the first one ranks the trials and is drawn.
        ascending: whether lower is better.
    """
    objective = metrics[0]
    return {
        "searchFilter": f"tags.mlflow.parentRunId = '{run_id}' and tags.`trial.number` LIKE '%'",  # no further runs
        "orderByKey": f"metrics.`{objective}`",
        "orderByAsc": ascending,
        "selectedColumns": [*_columns(params, metrics), "attributes.`Models`", "tags.`trial.state`"],
        "compareRunCharts": [
            _curve(objective.removeprefix("final_")),
            _bars(objective),
            *(_scatter(key, objective) for key in params[:1]),
            _parallel(params, objective),
        ],
        "compareRunSections": [
            _section(_CURVES, "Learning curves and results", 3),
            _section(_TRIALS, "All trials", 1),
            _OTHERS,
        ],
        "isAccordionReordered": True,  # else the page sorts the sections by name
    }


def describe_all_runs() -> dict[str, Any]:
    """Describe a view of an experiment's runs and sweeps, best first, with the settings that mostly differ."""
    objective = _METRICS_OF_ALL[0]
    return {
        "searchFilter": f"tags.`{CONFIRMS_TAG}` IS NULL",  # repeated trials count in the mean of their trial
        "orderByKey": f"metrics.`{objective}`",
        "orderByAsc": True,
        "selectedColumns": ["attributes.`Dataset`", *_columns(_PARAMS_OF_ALL, _METRICS_OF_ALL)],
        "compareRunCharts": [_curve("val_log_loss"), *map(_bars, _METRICS_OF_ALL)],
        "compareRunSections": [_section(_CURVES, "Learning curves and results", 3), _OTHERS],
        "isAccordionReordered": True,
    }


def _columns(params: Sequence[str], metrics: Sequence[str]) -> list[str]:
    return [*(f"params.`{key}`" for key in params), *(f"metrics.`{key}`" for key in metrics)]


def _section(uuid: str, name: str, columns: int) -> dict[str, Any]:
    return {"uuid": uuid, "name": name, "display": True, "isReordered": False, "columns": columns}


_OTHERS = _section("model-metrics", "Model metrics", 3)  # the page adds its own charts of single metrics here


def _chart(kind: str, uuid: str, section: str, **settings: Any) -> dict[str, Any]:
    known = {"type": kind, "uuid": uuid, "metricSectionId": section, "deleted": False, "isGenerated": False}
    return known | settings


def _curve(metric: str) -> dict[str, Any]:
    settings = {"xAxisKey": "step", "scaleType": "linear", "xAxisScaleType": "linear", "lineSmoothness": 0}
    settings |= {"useGlobalXaxisKey": True, "useGlobalLineSmoothing": True, "range": {}}
    chosen = {"metricKey": metric, "selectedMetricKeys": [metric]}
    return _chart("LINE", f"curve-{metric}", _CURVES, **settings, **chosen)


def _bars(metric: str) -> dict[str, Any]:
    return _chart(
        "BAR", f"bars-{metric}", _CURVES, metricKey=metric, selectedMetricKeys=[metric], runsCountToCompare=10
    )


def _scatter(param: str, metric: str) -> dict[str, Any]:
    axes = {"xaxis": {"key": param, "type": "PARAM"}, "yaxis": {"key": metric, "type": "METRIC"}}
    return _chart("SCATTER", f"scatter-{param}", _CURVES, runsCountToCompare=100, **axes)


def _parallel(params: Sequence[str], metric: str) -> dict[str, Any]:
    chosen = {"selectedParams": list(params), "selectedMetrics": [metric], "showAllRuns": True}
    return _chart("PARALLEL", "trials", _TRIALS, **chosen)


def link_to_view(experiment_id: str, run_id: str, *, with_charts: bool = True) -> str:
    """Return the address of a sweep's view on any server."""
    return _link(experiment_id, f"{_OURS}{run_id}") + ("&compareRunsMode=CHART" if with_charts else "")


def link_to_all_runs(experiment_id: str) -> str:
    """Return the address of the view of all runs on any server."""
    return _link(experiment_id, _ALL_RUNS)


def _link(experiment_id: str, view: str) -> str:
    return f"#/experiments/{experiment_id}/runs?{TRAINING}&viewStateShareKey={view}"


def renewed_all_runs(known: str | None) -> str | None:
    """Return the new text of the tag of the view of all runs; None if `known`, the text that it has, may stay.

    The text of an earlier version is replaced. What a person has saved in the page is not: there JSON has no spaces.
    """
    view, kept = describe_all_runs(), _read_view(known or "")
    is_outdated = kept is not None and known == json.dumps(kept.model_dump()) and kept.state != json.dumps(view)
    return _listed("all runs", view) if known is None or is_outdated else None


def _listed(name: str, view: dict[str, Any]) -> str:
    return json.dumps({"name": name, "createdAt": int(time.time() * 1000), "state": json.dumps(view)})


def view_tags(tags: dict[str, str], run_id: str, name: str, view: dict[str, Any]) -> dict[str, str]:
    """Return the experiment's tags that list a sweep's view and take the oldest views off the list; links still work.

    Args:
        tags: the present tags of the experiment.
        run_id: of the sweep.
        name: of the view in the list.
        view: from `describe_view`.
    """
    ours, view_of_now = f"{_TAG}{_OURS}", _listed(name, view)
    tags = tags | {f"{ours}{run_id}": view_of_now}
    listed = {key: each for key, text in tags.items() if key.startswith(ours) and (each := _read_view(text))}
    by_age = sorted(listed, key=lambda key: listed[key].createdAt)
    unlisted = {key: listed[key].state for key in by_age[:-_NUM_LISTED]}
    return {f"{ours}{run_id}": view_of_now} | unlisted


def _read_view(text: str) -> _ListedView | None:
    """Read a listed view; None if the view is not listed, or somebody has changed it."""
    try:
        return _ListedView.model_validate_json(text) if text.startswith('{"name"') else None
    except ValidationError:
        return None
