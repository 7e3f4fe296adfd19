"""How the page of an experiment in `mlflow ui` shows a sweep without being set up.

The page calls it a view: which runs, in which order, with which columns and charts. Where a person saves one, the page
keeps it as a tag of the experiment and lists it by name; so do we, one for each sweep.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

_TAG = "mlflow.sharedViewState."
_OURS = "sweep-"
_NUM_LISTED = 10  # the page refuses to save a person's views once 40 are listed


class _ListedView(BaseModel):
    name: str
    createdAt: int  # noqa: N815  the page's word
    state: str


def describe_view(run_id: str, params: Sequence[str], metrics: Sequence[str], *, ascending: bool) -> dict[str, Any]:
    """Describe a list of a sweep's trials, best first, and a chart of parallel coordinates of all of them.

    Args:
        run_id: of the sweep.
        params: the keys that it searches.
        metrics: that the trials are compared by; they are ranked, and coloured in the chart, by the first one.
        ascending: whether lower is better.
    """
    charts, others = "sweep", "model-metrics"
    columns = [*(f"params.`{key}`" for key in params), *(f"metrics.`{key}`" for key in metrics), "tags.`trial.state`"]
    return {
        "searchFilter": f"tags.mlflow.parentRunId = '{run_id}' and tags.`trial.number` != ''",  # none run again
        "orderByKey": f"metrics.`{metrics[0]}`",
        "orderByAsc": ascending,
        "selectedColumns": columns,
        "compareRunCharts": [
            {
                "type": "PARALLEL",
                "uuid": "trials",
                "metricSectionId": charts,
                "selectedParams": list(params),
                "selectedMetrics": [metrics[0]],
                "showAllRuns": True,
                "deleted": False,
                "isGenerated": False,
            }
        ],
        "compareRunSections": [  # the page adds its own charts of single metrics to the second one
            {"uuid": charts, "name": "All trials", "display": True, "isReordered": False, "columns": 1},
            {"uuid": others, "name": "Model metrics", "display": True, "isReordered": False},
        ],
    }


def link_to_view(experiment_id: str, run_id: str) -> str:
    """Give the address of a sweep's view, with its chart, on any server."""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={_OURS}{run_id}&compareRunsMode=CHART"


def view_tags(tags: dict[str, str], run_id: str, name: str, view: dict[str, Any]) -> dict[str, str]:
    """Give the tags that list a sweep's view in an experiment, and no longer the oldest ones, whose links still work.

    Args:
        tags: that the experiment has.
        run_id: of the sweep.
        name: under which its view is listed.
        view: from `describe_view`.
    """
    ours = f"{_TAG}{_OURS}"
    view_of_now = {"name": name, "createdAt": int(time.time() * 1000), "state": json.dumps(view)}
    tags = tags | {f"{ours}{run_id}": json.dumps(view_of_now)}
    listed = {key: each for key, text in tags.items() if key.startswith(ours) and (each := _read_view(text))}
    by_age = sorted(listed, key=lambda key: listed[key].createdAt)
    unlisted = {key: listed[key].state for key in by_age[:-_NUM_LISTED]}
    return {f"{ours}{run_id}": json.dumps(view_of_now)} | unlisted


def _read_view(text: str) -> _ListedView | None:
    """Read what the page lists of a view; None for one that it does not list, or that somebody has changed."""
    try:
        return _ListedView.model_validate_json(text) if text.startswith('{"name"') else None
    except ValidationError:
        return None
