"""The store that holds the record: found, connected to, and its errors told in one line."""

from __future__ import annotations

import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from cnn_sweeps.errors import TrackingError, UserError
from cnn_sweeps.locks import file_lock
from cnn_sweeps.owners import has_owner_died
from cnn_sweeps.schema import TrackingConfig

log = logging.getLogger(__name__)

_SQLITE = "sqlite:///"


def find_store(config: TrackingConfig) -> str:
    """Give the tracking URI, having looked whether something can answer there; imports nothing slow.

    Raises:
        TrackingError: if the server does not answer, or the database's folder does not exist.
    """
    return _answering_uri(config.uri)


def find_existing_store(uri: str | None) -> str:
    """Do what `find_store` does for a store that is only read; `uri` None: the environment's, or the default.

    Raises:
        TrackingError: also if there is no such database, which MLflow would make.
    """
    found = _answering_uri(uri)
    if found.startswith(_SQLITE) and not Path(found.removeprefix(_SQLITE)).is_file():
        raise TrackingError(
            f"tracking.uri={found}: there is no such database here; give the training's with tracking.uri=URI, "
            "or work in the training's folder"
        )
    return found


def _answering_uri(named: str | None) -> str:
    uri = named or os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}mlflow.db"
    if uri.startswith(("http://", "https://")):
        try:
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5):
                pass
        except urllib.error.HTTPError:
            pass  # it answers; what it thinks of /health is its own affair
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise TrackingError(
                f"tracking.uri={uri}: the tracking server does not answer ({reason}); "
                "start it, correct the address, or set tracking.uri=sqlite:///mlflow.db"
            ) from error
    elif uri.startswith(_SQLITE) and not Path(uri.removeprefix(_SQLITE)).absolute().parent.is_dir():
        raise TrackingError(f"tracking.uri={uri}: the folder of the database does not exist; make it or name another")
    return uri


@contextmanager
def store_errors() -> Iterator[None]:
    """Tell what MLflow or its store could not do in one line."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError, ImportError) as error:
        raise TrackingError(
            f"tracking.uri={mlflow.get_tracking_uri()}: cannot be used ({' '.join(str(error).split())}); "
            "repair it or name another"
        ) from error


@contextmanager
def unknown_as(told: UserError) -> Iterator[None]:
    """Raise `told` where MLflow says that the store does not have what is asked for."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise told from error
        raise


@contextmanager
def connected(uri: str, experiment_name: str) -> Iterator[str]:
    """Make `uri` MLflow's store and give the id of the experiment; both are made if they are not there.

    In the block no other process of this machine makes the database or the experiment, which would get in the way.
    """
    import mlflow

    mlflow.set_tracking_uri(uri)
    is_sqlite = uri.startswith(_SQLITE)
    lock = file_lock(Path(uri.removeprefix(_SQLITE) + ".lock"), wait=True) if is_sqlite else nullcontext()
    with lock:
        yield str(mlflow.set_experiment(experiment_name).experiment_id)


def close_abandoned_runs(experiment_id: str) -> None:
    """Close as KILLED the runs of an experiment that dead processes of this machine left RUNNING."""
    import mlflow

    client = mlflow.MlflowClient()
    for run in client.search_runs([experiment_id], "attributes.status = 'RUNNING'"):
        if has_owner_died(run.data.tags):
            client.set_terminated(run.info.run_id, "KILLED")
            log.info("run %s was left by a process that ended; it is KILLED now", run.info.run_name)
