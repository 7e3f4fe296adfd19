"""Connects to the MLflow store that records are brought to, and turns its errors into one line."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException
from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.credentials import get_default_host_creds
from sqlalchemy.exc import SQLAlchemyError

from cnn_sweeps.errors import TrackingError, TrackingOutageError
from cnn_sweeps.system.databases import describe_database_error, is_unavailable
from cnn_sweeps.system.locks import file_lock
from cnn_sweeps.text.passwords import hide_passwords
from cnn_sweeps.tracking.database.address import SQLITE, database_file, is_hidden_by_old_store
from cnn_sweeps.tracking.views import ALL_RUNS_TAG, renewed_all_runs

# MLflow's error codes for a database that does not answer, is locked or read-only, and for an overloaded server.
_PASSING = ("TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED")
_PASSING_STATUSES = (408, 429)
_VARIABLE = "MLFLOW_TRACKING_URI"
_OLD_STORE = (
    "mlruns holds runs of MLflow's old file store, which plain `mlflow ui` tries to show and cannot; "
    "`mlflow ui --backend-store-uri sqlite:///mlflow.db` shows the runs that are made here from now on"
)
log = logging.getLogger(__name__)
for _loud in ("mlflow.store.db.utils", "urllib3.connectionpool"):  # they log tracebacks of what `store_errors` reports
    logging.getLogger(_loud).addFilter(lambda _record: False)  # Hydra sets up logging anew and would reset a level


def use_store(uri: str) -> None:
    """Set MLflow's store, but keep MLFLOW_TRACKING_URI as the user has set it: MLflow would change that, too."""
    named = os.environ.get(_VARIABLE)
    mlflow.set_tracking_uri(uri)
    if named is not None:
        os.environ[_VARIABLE] = named
    else:
        os.environ.pop(_VARIABLE, None)


def check_place_of_files(address: str) -> None:
    """Raise a TrackingError if files of a run or model are on another MLflow server, and there is a password.

    MLflow would send the password there, and anybody who may make an experiment chooses where its files are.
    """
    uri = mlflow.get_tracking_uri()
    place, server = urlsplit(address), urlsplit(uri)
    is_server = place.scheme in ("http", "https", "mlflow-artifacts") and place.netloc not in ("", server.netloc)
    known = get_default_host_creds(address)  # type: ignore[no-untyped-call]
    if is_server and any((known.password, known.token, known.auth, known.aws_sigv4)):
        raise TrackingError(
            f"tracking.uri={hide_passwords(uri)}: the files are on another server, {address[:200]!r}, which would get "
            "your password; choose another tracking.experiment_name, or work without a password"
        )


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn errors of MLflow and its store into errors of one line.

    Raises:
        TrackingOutageError: for what may pass by itself, as when a server is away or a disk is full.
        TrackingError: for everything else.
    """
    try:
        yield
    except (MlflowException, OSError, ImportError, SQLAlchemyError) as error:
        kind = TrackingOutageError if _may_pass(error) else TrackingError
        uri, reason = hide_passwords(mlflow.get_tracking_uri()), describe_database_error(error)
        if isinstance(error, OSError) and error.filename is not None and error.strerror:  # it is an artifact's
            raise kind(
                f"tracking.uri={uri}: {error.filename}, in its folder of artifacts, cannot be written "
                f"({error.strerror}); free space, or make the folder writable"
            ) from error
        raise kind(f"tracking.uri={uri}: cannot be used ({reason}); repair it or give another") from error


def _may_pass(error: Exception) -> bool:
    """Return whether a connection, server or disk failed; if not, the request was refused and would be again."""
    if is_unavailable(error):
        return True
    if isinstance(error, MlflowException):  # a failed connection only has the code "internal error"
        return error.error_code in _PASSING or isinstance(error.__context__, OSError)
    status = getattr(getattr(error, "response", None), "status_code", 500)
    return isinstance(error, OSError) and (status >= 500 or status in _PASSING_STATUSES)


def is_unknown(error: MlflowException) -> bool:
    """Return whether MLflow says that the store does not have what it was asked for."""
    return error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


@contextmanager
def connected(uri: str, experiment_name: str) -> Iterator[str]:
    """Set MLflow's store, and yield the id of the experiment; make the database and the experiment if necessary.

    While the block runs, no other process of this machine makes them: two at once would fail.
    """
    use_store(uri)
    file = database_file(uri)
    with nullcontext() if file is None else file_lock(file.with_name(f"{file.name}.lock"), wait=True):
        if file is not None and not file.exists():
            _make_database(file)
            if is_hidden_by_old_store(uri):
                log.warning(_OLD_STORE)
        experiment = _set_experiment(uri, experiment_name)
        if (view := renewed_all_runs(experiment.tags.get(ALL_RUNS_TAG))) is not None:
            with suppress(MlflowException):  # if two processes do so at once, the store may refuse one
                mlflow.MlflowClient().set_experiment_tag(experiment.experiment_id, ALL_RUNS_TAG, view)
        yield str(experiment.experiment_id)


def _set_experiment(uri: str, experiment_name: str) -> Experiment:
    try:
        return mlflow.set_experiment(experiment_name)
    except MlflowException as error:
        experiment = mlflow.get_experiment_by_name(experiment_name)
        if experiment is None or experiment.lifecycle_stage == "active":
            raise
        restore = ["mlflow", "experiments", "restore", "--experiment-id", str(experiment.experiment_id)]
        raise TrackingError(
            f"tracking.experiment_name={experiment_name}: was deleted in {uri}; give another, or restore it with "
            f"`MLFLOW_TRACKING_URI={shlex.quote(uri)} {shlex.join(restore)}`"
        ) from error


def _make_database(file: Path) -> None:
    """Make an SQLite database under another name first: MLflow can neither use nor complete a half-made one."""
    unfinished = file.with_name(f"{file.name}.unfinished")
    for left in (unfinished, unfinished.with_name(f"{unfinished.name}-journal")):  # of a killed process
        left.unlink(missing_ok=True)
    store = SqlAlchemyStore(f"{SQLITE}{unfinished}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)  # type: ignore[no-untyped-call]
    store.engine.dispose()
    unfinished.rename(file)
