"""Closes runs that dead processes left RUNNING, and says which records still wait for a store."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import mlflow
from mlflow.entities import Run, RunTag

from cnn_sweeps.errors import TrackingError, TrackingOutageError
from cnn_sweeps.system.owners import owner_state
from cnn_sweeps.text.numbers import counted
from cnn_sweeps.tracking.database.address import is_recorded_as, uri_seen_from, user_uri
from cnn_sweeps.tracking.page import tags_of
from cnn_sweeps.tracking.projection import project
from cnn_sweeps.tracking.record.entry import FOLDER_TAG, RECORD_TAG, Status, read_record
from cnn_sweeps.tracking.record.position import num_waiting
from cnn_sweeps.tracking.record.record import close_if_died, find_records
from cnn_sweeps.tracking.store import store_errors, use_store

log = logging.getLogger(__name__)


def tell_what_waits(folder: Path, uri: str, error: TrackingError) -> None:
    """Log how many entries wait in a folder because a store is away, and the command that delivers them later."""
    num_entries = 0
    for each in find_records(folder):
        with suppress(TrackingError):  # the record makes no sense
            num_entries += num_waiting(each, uri)
    named = [] if is_recorded_as(user_uri(None), uri) else [f"tracking.uri={uri_seen_from(Path(), uri)}"]
    command = shlex.join(["python", "-m", "cnn_sweeps.deliver", str(folder), *named])
    reason = str(error).rpartition(";")[0]
    waits = counted(num_entries, "entry of the record waits", "entries of the record wait")
    waits += f" in {folder}; once the store is back, run:\n  {command}"
    log.warning("%s; %s", reason, waits)


def close_dead_runs(uri: str, experiment_id: str) -> None:
    """End as KILLED the runs of an experiment that dead processes of this machine left RUNNING.

    If the record is on this machine, it gets the end first, with the time of its last entry.

    Raises:
        TrackingError: if the store cannot be used.
    """
    for run in find_runs(uri, experiment_id, "attributes.status = 'RUNNING'"):
        if owner_state(tags_of(run)) != "dead":
            continue
        if not _close_here(Path(run.data.tags.get(FOLDER_TAG, "")), run.data.tags.get(RECORD_TAG), uri):
            end_run(run.info.run_id, "KILLED", {})
        log.info("run %s is KILLED now: its process ended without closing it", run.info.run_name)


def _close_here(folder: Path, record_id: str | None, uri: str) -> bool:
    """Close and project a run's record if it is in the folder that the run names (anybody may have written that)."""
    try:
        recorded = read_record(folder)
        if recorded is None or recorded.begin.record != record_id or not close_if_died(folder):
            return False
        project(folder, uri)
    except TrackingOutageError:
        raise
    except TrackingError as error:
        log.warning("%s", error)
        return False
    return True


@store_errors()
def find_runs(uri: str, experiment_id: str, condition: str) -> list[Run]:
    """Find runs of an experiment in a store, and make that MLflow's store.

    Raises:
        TrackingError: if the store cannot be used.
    """
    use_store(uri)
    return list(mlflow.MlflowClient().search_runs([experiment_id], condition, max_results=50_000))  # MLflow's limit


@store_errors()
def end_run(run_id: str, status: Status, tags: Mapping[str, str]) -> None:
    """End a run of the store in use whose record is not on this machine; `project` does all others.

    Raises:
        TrackingError: if the store cannot be used.
    """
    client = mlflow.MlflowClient()
    client.log_batch(run_id, tags=[RunTag(*each) for each in tags.items()], synchronous=True)
    client.set_terminated(run_id, status)
