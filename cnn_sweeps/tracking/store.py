"""The store that holds the record: found, connected to, and its errors told in one line."""

from __future__ import annotations

import logging
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cnn_sweeps.errors import TrackingError, TrackingOutageError, UserError
from cnn_sweeps.settings.schema import TrackingConfig
from cnn_sweeps.system.locks import file_lock
from cnn_sweeps.system.owners import has_owner_died
from cnn_sweeps.text.passwords import hide_passwords

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel
    from mlflow.store.entities import PagedList

log = logging.getLogger(__name__)

_SQLITE = "sqlite:///"
# What MLflow says of a database that does not answer, is locked or not writable, and of a server that is overloaded.
_PASSING = ("TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED")
_PASSING_STATUSES = (408, 429)
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_Found = TypeVar("_Found")


def find_store(config: TrackingConfig) -> str:
    """Give the tracking URI, having looked whether something can answer there; imports nothing slow.

    User and password of a server are not in it: MLflow, which shows addresses, gets them as environment variables.

    Raises:
        TrackingOutageError: if the server does not answer.
        TrackingError: if the database cannot be used.
    """
    return _answering_uri(config.uri)


def find_existing_store(uri: str | None) -> str:
    """Do what `find_store` does for a store that is only read; `uri` None: the environment's, or the default.

    Raises:
        TrackingError: also if there is no such database, which MLflow would make.
    """
    found = _answering_uri(uri)
    if (database := _database_file(found)) is not None and not database.is_file():
        raise TrackingError(
            f"tracking.uri={found}: there is no such database here; give the training's with tracking.uri=URI, "
            "or work in the training's folder"
        )
    return found


def user_uri(named: str | None) -> str:
    """Give the address of the store that the user gave: the named one, else the environment's, else the default."""
    return named or os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}mlflow.db"


def is_run_id(text: object) -> bool:
    """Tell whether something that a record names as a run's id is one, so that it is safe in a path and in a query."""
    return isinstance(text, str) and _RUN_ID.fullmatch(text) is not None


def _answering_uri(named: str | None) -> str:
    uri = user_uri(named)
    if uri.startswith(("http://", "https://")):
        try:
            _pass_on_credentials(uri)
            uri = _without_credentials(uri)
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5):
                pass
        except urllib.error.HTTPError:
            pass  # it answers; what it thinks of /health is its own affair
        except (OSError, ValueError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise TrackingOutageError(
                f"tracking.uri={hide_passwords(uri)}: the tracking server does not answer ({reason}); "
                "start it, correct the address, or set tracking.uri=sqlite:///mlflow.db"
            ) from error
    elif uri.startswith(_SQLITE) and not Path(uri.removeprefix(_SQLITE)).absolute().parent.is_dir():
        raise TrackingError(f"tracking.uri={uri}: the folder of the database does not exist; make it or name another")
    elif "://" in uri:
        _check_database(uri)
    return uri


def _pass_on_credentials(uri: str) -> None:
    """Hand user and password of a server's address to MLflow apart from it."""
    parts = urllib.parse.urlsplit(uri)
    if parts.username and parts.password:
        os.environ["MLFLOW_TRACKING_USERNAME"] = urllib.parse.unquote(parts.username)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = urllib.parse.unquote(parts.password)


def _without_credentials(uri: str) -> str:
    parts = urllib.parse.urlsplit(uri)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def is_recorded_as(uri: str, recorded: str) -> bool:
    """Tell whether an address, perhaps with a password, is the one that a record names without it."""
    uri, recorded = absolute_uri(uri), absolute_uri(recorded)
    if uri.startswith(("http://", "https://")):
        return _without_credentials(uri) == recorded
    return hide_passwords(uri) == recorded


def check_place_of_files(address: str) -> None:
    """See that files are on no other MLflow server than the one in use: MLflow would send it the user's password.

    Whoever may make an experiment on a server says where its files are.

    Args:
        address: where the store says that the files of a run, or of a model, are.

    Raises:
        TrackingError: if they are, and there is a password.
    """
    import mlflow
    from mlflow.utils.credentials import get_default_host_creds

    uri = mlflow.get_tracking_uri()
    place, server = urllib.parse.urlsplit(address), urllib.parse.urlsplit(uri)
    is_server = place.scheme in ("http", "https", "mlflow-artifacts") and place.netloc not in ("", server.netloc)
    known = get_default_host_creds(address)  # type: ignore[no-untyped-call]
    if is_server and any((known.password, known.token, known.auth, known.aws_sigv4)):
        raise TrackingError(
            f"tracking.uri={hide_passwords(uri)}: has the files at {address[:200]!r}, another server, to which your "
            "password would be sent, too; choose another tracking.experiment_name, or work without a password"
        )


def _check_database(uri: str) -> None:
    from cnn_sweeps.system.databases import DATABASES, check_database, is_unavailable

    if uri.startswith(DATABASES):
        try:
            check_database(uri, "MLflow")
        except ValueError as error:
            kind = TrackingOutageError if is_unavailable(error) else TrackingError
            raise kind(
                f"tracking.uri={uri}: cannot be used ({error}); start the server, correct the address, or name another"
            ) from error


def absolute_uri(uri: str) -> str:
    """Give the URI as it is right in every working folder."""
    is_file = uri.startswith(_SQLITE) and not uri.startswith(f"{_SQLITE}:")
    return f"{_SQLITE}{Path(uri.removeprefix(_SQLITE)).absolute()}" if is_file else uri


@contextmanager
def store_errors() -> Iterator[None]:
    """Tell what MLflow or its store could not do in one line: as a TrackingOutageError what may pass by itself."""
    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    from cnn_sweeps.system.databases import describe_database_error

    try:
        yield
    except (MlflowException, OSError, ImportError, SQLAlchemyError) as error:
        kind = TrackingOutageError if _may_pass(error) else TrackingError
        uri, reason = hide_passwords(mlflow.get_tracking_uri()), describe_database_error(error)
        raise kind(f"tracking.uri={uri}: cannot be used ({reason}); repair it or name another") from error


def _may_pass(error: Exception) -> bool:
    """Tell a connection, server or disk that failed from a request that was refused and would be again."""
    from mlflow.exceptions import MlflowException

    from cnn_sweeps.system.databases import is_unavailable

    if is_unavailable(error):
        return True
    if isinstance(error, MlflowException):  # after a failed request it has no better code than "internal error"
        return error.error_code in _PASSING or isinstance(error.__context__, OSError)
    response = getattr(error, "response", None)
    is_refused = response is not None and response.status_code < 500 and response.status_code not in _PASSING_STATUSES
    return isinstance(error, OSError) and not is_refused


def all_pages(search: Callable[[str | None], PagedList[_Found]]) -> list[_Found]:
    """Give all that a search finds; it is given the token of the page to give, None for the first."""
    page = search(None)
    found = list(page)
    while page.token:
        page = search(page.token)
        found += page
    return found


def registered_models(client: MlflowClient) -> list[RegisteredModel]:
    """Give all registered models."""
    return all_pages(lambda token: client.search_registered_models(page_token=token))


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
    file = _database_file(uri)
    with nullcontext() if file is None else file_lock(file.with_name(f"{file.name}.lock"), wait=True):
        if file is not None and not file.exists():
            _make_database(file)
        yield str(mlflow.set_experiment(experiment_name).experiment_id)


def _database_file(uri: str) -> Path | None:
    """Give the file that an SQLite database is; None for every other store."""
    name = uri.removeprefix(_SQLITE).partition("?")[0] if uri.startswith(_SQLITE) else ""
    return None if name in ("", ":memory:") else Path(name)


def _make_database(file: Path) -> None:
    """Make an SQLite database under another name first: one that is half made MLflow can neither use nor complete."""
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    unfinished = file.with_name(f"{file.name}.unfinished")
    for left in (unfinished, unfinished.with_name(f"{unfinished.name}-journal")):  # by a process that was killed
        left.unlink(missing_ok=True)
    store = SqlAlchemyStore(f"{_SQLITE}{unfinished}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)  # type: ignore[no-untyped-call]
    store.engine.dispose()
    unfinished.rename(file)


def close_abandoned_runs(experiment_id: str) -> None:
    """Close as KILLED the runs of an experiment that dead processes of this machine left RUNNING."""
    import mlflow

    client = mlflow.MlflowClient()
    for run in client.search_runs([experiment_id], "attributes.status = 'RUNNING'"):
        if has_owner_died(run.data.tags):
            client.set_terminated(run.info.run_id, "KILLED")
            log.info("run %s was left by a process that ended; it is KILLED now", run.info.run_name)
