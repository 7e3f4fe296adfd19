"""Folders of runs brought to their store, and what dead processes have left of runs."""

from __future__ import annotations

import logging
import shlex
from contextlib import suppress
from pathlib import Path

from cnn_sweeps.errors import TrackingError, TrackingOutageError
from cnn_sweeps.system.owners import owner_state
from cnn_sweeps.tracking.address import is_recorded_as, uri_seen_from, user_uri
from cnn_sweeps.tracking.position import num_waiting
from cnn_sweeps.tracking.projection import project
from cnn_sweeps.tracking.record import close_if_died
from cnn_sweeps.tracking.record_folder import find_records
from cnn_sweeps.tracking.recorded import FOLDER_TAG, RECORD_TAG, read_run
from cnn_sweeps.tracking.store import all_pages, store_errors

log = logging.getLogger(__name__)


def project_all(folder: Path, uri: str) -> None:
    """Bring all records in a folder, at any depth, to a store, with the ends that dead processes did not write.

    What cannot be brought of a record is told; what is before that is brought, and the others are.

    Raises:
        TrackingOutageError: if the store is away.
    """
    for each in find_records(folder):
        try:
            close_if_died(each)
            project(each, uri)
        except TrackingOutageError as error:
            raise TrackingOutageError(
                f"{each}: waits for the tracking store, which does not answer; start it and give the same command again"
            ) from error
        except TrackingError as error:
            log.warning("%s", error)


def project_or_tell(folder: Path, uri: str) -> None:
    """Bring all records in a folder to a store; if that is away, say how to do it once it is back."""
    try:
        project_all(folder, uri)
    except TrackingOutageError as error:
        tell_what_waits(folder, uri, error)


def tell_what_waits(folder: Path, uri: str, error: TrackingError) -> None:
    """Say how many entries wait in a folder since a store is away, and how to bring them later."""
    num_entries = 0
    for each in find_records(folder):
        with suppress(TrackingError):  # one that makes no sense
            num_entries += num_waiting(each, uri)
    named = [] if is_recorded_as(user_uri(None), uri) else [f"tracking.uri={uri_seen_from(Path(), uri)}"]
    command = shlex.join(["python", "-m", "cnn_sweeps.deliver", str(folder), *named])
    reason = str(error).rpartition(";")[0]
    log.warning(
        "%s; %d entries of the record wait in %s; once the store is back, give:\n  %s",
        *(reason, num_entries, folder, command),
    )


@store_errors()
def close_dead_runs(uri: str, experiment_id: str) -> None:
    """End as KILLED the runs of an experiment that dead processes of this machine left RUNNING.

    Where the record is here, it says so first, as of its last entry.

    Raises:
        TrackingError: if the store cannot be used.
    """
    import mlflow

    mlflow.set_tracking_uri(uri)
    client, condition = mlflow.MlflowClient(), "attributes.status = 'RUNNING'"
    for run in all_pages(lambda token: client.search_runs([experiment_id], condition, page_token=token)):
        if owner_state(run.data.tags) != "dead":
            continue
        if not _close_here(Path(run.data.tags.get(FOLDER_TAG, "")), run.data.tags.get(RECORD_TAG), uri):
            client.set_terminated(run.info.run_id, "KILLED")
        log.info("run %s was left by a process that ended; it is KILLED now", run.info.run_name)


def _close_here(folder: Path, record_id: str | None, uri: str) -> bool:
    """Close and bring a run's record if it is in the folder that the run names, as anybody may have written."""
    try:
        recorded = read_run(folder)
        if recorded is None or recorded.begin.record != record_id or not close_if_died(folder):
            return False
        project(folder, uri)
    except TrackingOutageError:
        raise
    except TrackingError as error:
        log.warning("%s", error)
        return False
    return True
