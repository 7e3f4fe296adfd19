"""The MLflow store that records are brought to: connected to, and its errors told in one line."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
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

# What MLflow says of a database that does not answer, is locked or not writable, and of a server that is overloaded.
_PASSING = ("TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED")
_PASSING_STATUSES = (408, 429)
_VARIABLE = "MLFLOW_TRACKING_URI"
_OLD_STORE = (
    "mlruns holds runs of a store of files, which `mlflow ui` alone takes for the one to show, and cannot; "
    "`mlflow ui --backend-store-uri sqlite:///mlflow.db` shows the runs that are made here from now on"
)
log = logging.getLogger(__name__)
for _loud in ("mlflow.store.db.utils", "urllib3.connectionpool"):  # tracebacks of what `store_errors` tells
    logging.getLogger(_loud).addFilter(lambda _record: False)  # a level is reset by Hydra, which sets up logging anew


def use_store(uri: str) -> None:
    """Have MLflow use a store, and keep the environment as the user has set it: MLflow would name the store there."""
    named = os.environ.get(_VARIABLE)
    mlflow.set_tracking_uri(uri)
    if named is not None:
        os.environ[_VARIABLE] = named
    else:
        os.environ.pop(_VARIABLE, None)


def check_place_of_files(address: str) -> None:
    """See that files, of a run or model, are on no other MLflow server than the one in use if there is a password.

    MLflow would send it there, and whoever may make an experiment on a server says where its files are.
    """
    uri = mlflow.get_tracking_uri()
    place, server = urlsplit(address), urlsplit(uri)
    is_server = place.scheme in ("http", "https", "mlflow-artifacts") and place.netloc not in ("", server.netloc)
    known = get_default_host_creds(address)  # type: ignore[no-untyped-call]
    if is_server and any((known.password, known.token, known.auth, known.aws_sigv4)):
        raise TrackingError(
            f"tracking.uri={hide_passwords(uri)}: has the files at {address[:200]!r}, another server, to which your "
            "password would be sent, too; choose another tracking.experiment_name, or work without a password"
        )


@contextmanager
def store_errors() -> Iterator[None]:
    """Tell what MLflow or its store could not do in one line: as a TrackingOutageError what may pass by itself."""
    try:
        yield
    except (MlflowException, OSError, ImportError, SQLAlchemyError) as error:
        kind = TrackingOutageError if _may_pass(error) else TrackingError
        uri, reason = hide_passwords(mlflow.get_tracking_uri()), describe_database_error(error)
        if (
            isinstance(error, OSError) and error.filename is not None and error.strerror
        ):  # a database's has no such name
            raise kind(
                f"tracking.uri={uri}: {error.filename}, in its folder of artifacts, cannot be written "
                f"({error.strerror}); give that folder space, or its right kind and owner"
            ) from error
        raise kind(f"tracking.uri={uri}: cannot be used ({reason}); repair it or name another") from error


def _may_pass(error: Exception) -> bool:
    """Tell a connection, server or disk that failed from a request that was refused and would be again."""
    if is_unavailable(error):
        return True
    if isinstance(error, MlflowException):  # after a failed request it has no better code than "internal error"
        return error.error_code in _PASSING or isinstance(error.__context__, OSError)
    status = getattr(getattr(error, "response", None), "status_code", 500)
    return isinstance(error, OSError) and (status >= 500 or status in _PASSING_STATUSES)


def is_unknown(error: MlflowException) -> bool:
    """Tell whether MLflow says that the store does not have what it was asked for."""
    return error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


@contextmanager
def connected(uri: str, experiment_name: str) -> Iterator[str]:
    """Make `uri` MLflow's store and give the id of the experiment; both are made if they are not there.

    In the block no other process of this machine makes the database or the experiment, which would get in the way.
    """
    use_store(uri)
    file = database_file(uri)
    with nullcontext() if file is None else file_lock(file.with_name(f"{file.name}.lock"), wait=True):
        if file is not None and not file.exists():
            _make_database(file)
            if is_hidden_by_old_store(uri):
                log.warning(_OLD_STORE)
        with _deleted_told(uri, experiment_name):
            experiment = mlflow.set_experiment(experiment_name)
        if (view := renewed_all_runs(experiment.tags.get(ALL_RUNS_TAG))) is not None:
            with suppress(MlflowException):  # of two that do so at once the store may refuse one
                mlflow.MlflowClient().set_experiment_tag(experiment.experiment_id, ALL_RUNS_TAG, view)
        yield str(experiment.experiment_id)


@contextmanager
def _deleted_told(uri: str, experiment_name: str) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        experiment = mlflow.get_experiment_by_name(experiment_name)
        if experiment is None or experiment.lifecycle_stage == "active":
            raise
        restore = ["mlflow", "experiments", "restore", "--experiment-id", str(experiment.experiment_id)]
        raise TrackingError(
            f"tracking.experiment_name={experiment_name}: was deleted in {uri}; name another, or bring it back with "
            f"`MLFLOW_TRACKING_URI={shlex.quote(uri)} {shlex.join(restore)}`"
        ) from error


def _make_database(file: Path) -> None:
    """Make an SQLite database under another name first: one that is half made MLflow can neither use nor complete."""
    unfinished = file.with_name(f"{file.name}.unfinished")
    for left in (unfinished, unfinished.with_name(f"{unfinished.name}-journal")):  # by a process that was killed
        left.unlink(missing_ok=True)
    store = SqlAlchemyStore(f"{SQLITE}{unfinished}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)  # type: ignore[no-untyped-call]
    store.engine.dispose()
    unfinished.rename(file)
