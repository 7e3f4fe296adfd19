"""The address of the MLflow store that records are brought to, and whether something answers; without MLflow."""

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
_DATABASES = ("sqlite", "postgres", "mysql", "mssql")  # how the addresses of those begin that MLflow takes
_FIRST_WITH_VIEWS = 3, 15  # MLflow, whose pages know views with a name
_HERE = Path()


def store_of(config: TrackingConfig) -> str:
    """Give the tracking URI, without a server's user and password: MLflow gets them as environment variables."""
    return _handed_over(user_uri(config.uri))


def find_store(config: TrackingConfig) -> str:
    """Do what `store_of` does, having looked whether something can answer there, and take files of runs.

    Raises:
        TrackingOutageError: if the server does not answer, or the folder of the files cannot be written.
        TrackingError: if the database cannot be used.
    """
    return _answering_uri(config.uri, config.experiment_name)


def find_existing_store(uri: str | None) -> str:
    """Do what `find_store` does for a store that is only read; `uri` None: the environment's, or the default.

    Raises:
        TrackingError: also if there is no such database, which MLflow would make.
    """
    found = _answering_uri(uri)
    if (database := database_file(found)) is not None and not database.is_file():
        raise TrackingError(
            f"tracking.uri={found}: there is no such database here; give the training's with tracking.uri=URI, "
            "or work in the training's folder"
        )
    return found


def user_uri(named: str | None) -> str:
    """Give the address of the store that the user gave: the named one, else the environment's, else the default."""
    return at_home(named or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT)


def _answering_uri(named: str | None, experiment: str | None = None) -> str:
    uri = user_uri(named)
    if uri.startswith(_SERVERS):
        try:
            uri = _handed_over(uri)
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
    elif uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).absolute().parent.is_dir():
        raise TrackingError(f"tracking.uri={uri}: the folder of the database does not exist; make it or name another")
    elif uri.startswith(_DATABASES):
        from cnn_sweeps.tracking.database.inspection import check_store  # and SQLAlchemy, which is slow

        check_store(uri, named, database_file(uri), experiment)
    return uri


def _handed_over(uri: str) -> str:
    """Hand user and password of a server's address to MLflow apart from it, which shows addresses."""
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
    """Tell whether an address, perhaps with a password, is the one that a record names without it."""
    uri, recorded = absolute_uri(uri), absolute_uri(recorded)
    return (_without_credentials if uri.startswith(_SERVERS) else hide_passwords)(uri) == recorded


def absolute_uri(uri: str, folder: Path = _HERE) -> str:
    """Give the URI, of which a file is named as seen from `folder`, as it is right in every working folder."""
    is_file = uri.startswith(SQLITE) and not uri.startswith(f"{SQLITE}:")
    return f"{SQLITE}{os.path.normpath(folder.absolute() / uri.removeprefix(SQLITE))}" if is_file else uri


def uri_seen_from(folder: Path, uri: str) -> str:
    """Give the URI without its password; a file as seen from a folder if both are in the working one, which moves."""
    uri, here = absolute_uri(uri), Path.cwd()
    if uri.startswith(f"{SQLITE}{here}/") and folder.absolute().is_relative_to(here):
        return f"{SQLITE}{os.path.relpath(uri.removeprefix(SQLITE), folder.absolute())}"
    return hide_passwords(uri)


def is_hidden_by_old_store(uri: str) -> bool:
    """Tell whether `mlflow ui` alone, in this folder, shows the files of an experiment there instead of this store."""
    is_here = absolute_uri(uri) == absolute_uri(DEFAULT)
    return is_here and any(file.parent.name.isdigit() for file in Path("mlruns").glob("*/meta.yaml"))


def describe_store(uri: str) -> list[str]:
    """Say that MLflow's database is made first, or that the server is too old to show all; mostly nothing."""
    file = database_file(uri)
    if file is not None and not file.exists():
        return [f"making MLflow's database {file}, which is done once and takes some seconds"]
    known = re.match(r"(\d+)\.(\d+)[\w.]*", _server_version(uri))
    if known is None or (int(known[1]), int(known[2])) >= _FIRST_WITH_VIEWS:
        return []
    return [
        f"the tracking server is MLflow {known[0]}: it records all, but links to ranked runs show them unranked; "
        f"MLflow {'.'.join(map(str, _FIRST_WITH_VIEWS))} ranks them"
    ]


def _server_version(uri: str) -> str:
    """Give what a tracking server says of its version; nothing if it does not, or asks for a password."""
    if not uri.startswith(_SERVERS):
        return ""
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/version", timeout=5) as answer:
            return str(answer.read(100), "ascii")
    except (OSError, ValueError, HTTPException):
        return ""


def database_file(uri: str) -> Path | None:
    """Give the file that an SQLite database is; None for every other store."""
    name = uri.removeprefix(SQLITE).partition("?")[0] if uri.startswith(SQLITE) else ""
    return None if name in ("", ":memory:") else Path(name)
