"""Finds the address of the MLflow store, and checks that the store answers, without importing MLflow."""

from __future__ import annotations

import os
import re
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from cnn_sweeps.errors import TrackingError, TrackingOutageError
from cnn_sweeps.settings.schema import TrackingConfig
from cnn_sweeps.system.files import at_home
from cnn_sweeps.text.passwords import hide_passwords

SQLITE = "sqlite:///"
DEFAULT = f"{SQLITE}mlflow.db"
_SERVERS = ("http://", "https://")
_DATABASES = ("sqlite", "postgres", "mysql", "mssql")  # beginnings of addresses of MLflow's databases
_FIRST_WITH_VIEWS = 3, 15  # the version of MLflow whose pages know named views
_HERE = Path()


def store_of(config: TrackingConfig) -> str:
    """Return the tracking URI without a server's user and password; MLflow gets these as environment variables."""
    return _handed_over(user_uri(config.uri))


def find_store(config: TrackingConfig) -> str:
    """Return what `store_of` returns, after checking that the store answers and takes files of runs.

    Raises:
        TrackingOutageError: if the server does not answer, or the folder of the files cannot be written.
        TrackingError: if the database cannot be used.
    """
    return _answering_uri(config.uri, config.experiment_name)


def find_existing_store(uri: str | None) -> str:
    """Return the address of an existing store, after checking that it answers.

    Args:
        uri: the address that the user gave; None: MLFLOW_TRACKING_URI, or the default.

    Raises:
        TrackingOutageError: if the server does not answer.
        TrackingError: if the database does not exist or cannot be used.
    """
    found = _answering_uri(uri)
    if (database := database_file(found)) is not None and not database.is_file():
        raise TrackingError(
            f"tracking.uri={found}: there is no such database here; give that of the training with tracking.uri=URI, "
            "or run the command in the training's folder"
        )
    return found


def user_uri(named: str | None) -> str:
    """Return the address of the user's store: the named one, else MLFLOW_TRACKING_URI, else the default."""
    return at_home(named or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT)


def _answering_uri(named: str | None, experiment: str | None = None) -> str:
    uri = user_uri(named)
    if uri.startswith(_SERVERS):
        try:
            uri = _handed_over(uri)
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5):
                pass
        except urllib.error.HTTPError:
            pass  # it answers, and that is enough
        except (OSError, ValueError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise TrackingOutageError(
                f"tracking.uri={hide_passwords(uri)}: the tracking server does not answer ({reason}); "
                "start it, correct the address, or set tracking.uri=sqlite:///mlflow.db"
            ) from error
    elif uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).absolute().parent.is_dir():
        raise TrackingError(f"tracking.uri={uri}: the folder of the database does not exist; make it or give another")
    elif uri.startswith(_DATABASES):
        from cnn_sweeps.tracking.database.inspection import check_store  # imports SQLAlchemy, which is slow

        check_store(uri, named, database_file(uri), experiment)
    return uri


def _handed_over(uri: str) -> str:
    """Move a server's user and password from its address, which MLflow shows, to environment variables."""
    if not uri.startswith(_SERVERS):
        return uri
    parts = urlsplit(uri)
    if parts.username and parts.password:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password)
    return _without_credentials(uri)


def _without_credentials(uri: str) -> str:
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def is_recorded_as(uri: str, recorded: str) -> bool:
    """Return whether an address, perhaps with a password, equals one that was recorded without a password."""
    uri, recorded = absolute_uri(uri), absolute_uri(recorded)
    return (_without_credentials if uri.startswith(_SERVERS) else hide_passwords)(uri) == recorded


def absolute_uri(uri: str, folder: Path = _HERE) -> str:
    """Make the path of an SQLite file in a URI absolute; a relative one counts from `folder`."""
    is_file = uri.startswith(SQLITE) and not uri.startswith(f"{SQLITE}:")
    return f"{SQLITE}{os.path.normpath(folder.absolute() / uri.removeprefix(SQLITE))}" if is_file else uri


def uri_seen_from(folder: Path, uri: str) -> str:
    """Return the URI without its password; a file is relative to `folder` if both are in the working folder.

    So the working folder may be moved.
    """
    uri, here = absolute_uri(uri), Path.cwd()
    if uri.startswith(f"{SQLITE}{here}/") and folder.absolute().is_relative_to(here):
        return f"{SQLITE}{os.path.relpath(uri.removeprefix(SQLITE), folder.absolute())}"
    return hide_passwords(uri)


def is_hidden_by_old_store(uri: str) -> bool:
    """Return whether plain `mlflow ui` in this folder shows an old file store in `mlruns` instead of this store."""
    is_here = absolute_uri(uri) == absolute_uri(DEFAULT)
    return is_here and any(file.parent.name.isdigit() for file in Path("mlruns").glob("*/meta.yaml"))


def describe_store(uri: str) -> list[str]:
    """Return a line if MLflow's database will be made, or if the server is too old to show everything; else none."""
    file = database_file(uri)
    if file is not None and not file.exists():
        return [f"making MLflow's database {file}; this is done once and takes some seconds"]
    known = re.match(r"(\d+)\.(\d+)[\w.]*", _server_version(uri))
    if known is None or (int(known[1]), int(known[2])) >= _FIRST_WITH_VIEWS:
        return []
    return [
        f"the tracking server is MLflow {known[0]}: it records all, but links to ranked runs show them unranked; "
        f"MLflow {'.'.join(map(str, _FIRST_WITH_VIEWS))} ranks them"
    ]


def _server_version(uri: str) -> str:
    """Return the version that a tracking server states; empty if it does not, or asks for a password."""
    if not uri.startswith(_SERVERS):
        return ""
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/version", timeout=5) as answer:
            return str(answer.read(100), "ascii")
    except (OSError, ValueError, HTTPException):
        return ""


def database_file(uri: str) -> Path | None:
    """Return the file of an SQLite database; None for every other store."""
    name = uri.removeprefix(SQLITE).partition("?")[0] if uri.startswith(SQLITE) else ""
    return None if name in ("", ":memory:") else Path(name)
