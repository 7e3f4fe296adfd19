"""The runs of a sweep as the store holds them: read without changing anything, or amended."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cnn_sweeps.system.owners import OwnerState, owner_state
from cnn_sweeps.tracking.runs import PARENT_TAG
from cnn_sweeps.tracking.store import all_pages, registered_models, store_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_PAGE = 1000  # runs
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class RunState:
    """One run.

    Attributes:
        run_id: of the run.
        name: of the run.
        status: MLflow's: RUNNING, FINISHED, FAILED or KILLED.
        owner: what is known of the process that made it.
        is_deleted: whether MLflow keeps it only to be restored.
        tags: all of them.
        params: all of them, as text.
        metrics: their newest values.
    """

    run_id: str
    name: str
    status: str
    owner: OwnerState
    is_deleted: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def parent_id(self) -> str | None:
        """The run that this one is a part of."""
        return self.tags.get(PARENT_TAG)

    @property
    def trial_number(self) -> str | None:
        """The number of the trial that the run records."""
        return self.tags.get("trial.number")


@dataclass(frozen=True)
class SweepRecord:
    """What MLflow holds of a sweep.

    Attributes:
        runs: the sweep's own, those below it, those that its trials note, and the running ones below those, by id.
        lost_champions: champions among the registered models that are of this study and whose run is gone, as
            NAME/VERSION, with the run's id.
    """

    runs: Mapping[str, RunState]
    lost_champions: Mapping[str, str]


@store_errors()
def read_sweep(
    uri: str, study_name: str, parent_id: str | None, noted_ids: Collection[str], dead_hosts: Collection[str] = ()
) -> SweepRecord:
    """Read the record of a sweep.

    Args:
        uri: of the store, which exists.
        study_name: of the study.
        parent_id: of the sweep's own run; None if the study notes none.
        noted_ids: of the runs that the trials note.
        dead_hosts: hosts all of whose processes are taken to be dead.

    Raises:
        TrackingError: if the store cannot be used.
    """
    import mlflow

    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient()
    experiments = [each.experiment_id for each in all_pages(lambda token: client.search_experiments(page_token=token))]
    below = _search(client, f"tags.`{PARENT_TAG}` = '{parent_id}'", experiments) if parent_id else []
    found = {run.info.run_id: run for run in below}
    for run_id in {*noted_ids, *([parent_id] if parent_id else [])} - found.keys():
        if (run := _find(client, run_id)) is not None:
            found[run_id] = run
    for run in _search(client, "attributes.status = 'RUNNING'", experiments):
        if run.data.tags.get(PARENT_TAG) in found:
            found[run.info.run_id] = run
    runs = {run_id: _state(run, dead_hosts) for run_id, run in found.items()}
    return SweepRecord(runs, _lost_champions(client, study_name))


@store_errors()
def read_unsettled(parent_id: str, experiment_id: str, retried: Collection[int]) -> list[RunState]:
    """Read the runs below a sweep's, in the store in use, that may not say how their trials ended.

    Args:
        parent_id: the sweep's run.
        experiment_id: of the sweep.
        retried: numbers of trials that were tried again, of which no run should be FINISHED.
    """
    import mlflow

    client, below = mlflow.MlflowClient(), f"tags.`{PARENT_TAG}` = '{parent_id}'"
    conditions = ["attributes.status != 'FINISHED'", *(f"tags.`trial.number` = '{number}'" for number in retried)]
    runs = [run for each in conditions for run in _search(client, f"{below} and {each}", [experiment_id])]
    return [_state(run) for run in {run.info.run_id: run for run in runs}.values()]


@store_errors()
def read_parents(run_ids: Collection[str]) -> dict[str, str]:
    """Give of those runs of the store in use that are parts of others which ones they are parts of, by id."""
    import mlflow

    client = mlflow.MlflowClient()
    found = [run for run_id in run_ids if (run := _find(client, run_id)) is not None]
    return {run.info.run_id: run.data.tags[PARENT_TAG] for run in found if PARENT_TAG in run.data.tags}


@store_errors()
def amend_run(
    run_id: str,
    status: str | None,
    tags: Mapping[str, str],
    metrics: Mapping[str, float] = _NOTHING,
    params: Mapping[str, str] = _NOTHING,
) -> None:
    """Add to a run of the store in use, or change its tags; give it another status, unless that is None."""
    import mlflow
    from mlflow.entities import Metric, Param, RunTag

    client, now = mlflow.MlflowClient(), int(time.time() * 1000)
    client.log_batch(
        run_id,
        metrics=[Metric(key, value, now, 0) for key, value in metrics.items()],
        params=[Param(key, value) for key, value in params.items()],
        tags=[RunTag(key, value) for key, value in tags.items()],
    )
    if status is not None:
        client.set_terminated(run_id, status)


def _search(client: MlflowClient, condition: str, experiments: list[str]) -> list[Run]:
    return all_pages(lambda token: client.search_runs(experiments, condition, max_results=_PAGE, page_token=token))


def _find(client: MlflowClient, run_id: str) -> Run | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # of what cannot be an id
            return None
        raise


def _state(run: Run, dead_hosts: Collection[str] = ()) -> RunState:
    return RunState(
        run_id=run.info.run_id,
        name=run.info.run_name,
        status=run.info.status,
        owner=owner_state(run.data.tags, dead_hosts),
        is_deleted=run.info.lifecycle_stage != "active",
        tags=dict(run.data.tags),
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
    )


def _lost_champions(client: MlflowClient, study_name: str) -> dict[str, str]:
    lost = {}
    for model in registered_models(client):
        if "champion" not in model.aliases:
            continue
        version = client.get_model_version_by_alias(model.name, "champion")
        run_id = version.tags.get("trial.run_id")
        if version.tags.get("study") != study_name or run_id is None:
            continue
        run = _find(client, run_id)
        if run is None or run.info.lifecycle_stage != "active":
            lost[f"{model.name}/{version.version}"] = run_id
    return lost
