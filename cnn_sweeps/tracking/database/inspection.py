"""Checks MLflow's database before MLflow is imported: its version, and where the files of its runs are."""

from __future__ import annotations

import re
import shlex
import sqlite3
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import Connection, text

from cnn_sweeps.errors import MovedError, TrackingError, TrackingOutageError
from cnn_sweeps.system.databases import is_unavailable, opened_database
from cnn_sweeps.system.files import why_not_writable
from cnn_sweeps.text.passwords import hide_passwords
from cnn_sweeps.tracking.database.moved import find_move, local_path

_REVISION = re.compile(r"""^(down_)?revision\b.*?=(.*)$""", re.MULTILINE)
_QUOTED = re.compile(r"""["'](\w+)["']""")


def check_store(uri: str, named: str | None, file: Path | None, experiment: str | None) -> None:
    """Check that MLflow can use a database, and that the files of its runs are where it says.

    An SQLite database of an older MLflow is upgraded, and a copy of it is kept.

    Args:
        uri: the address of the database.
        named: the address as the user gave it to this command; None if the user gave none.
        file: the file of an SQLite database; None for a server.
        experiment: the name of an experiment that will get new runs, with files; None if runs are only read.

    Raises:
        TrackingOutageError: if the server does not answer, or the files cannot be written.
        MovedError: if the database was moved.
        TrackingError: if it cannot be used for another reason.
    """
    try:
        with opened_database(uri, "MLflow") as connection:
            if connection is not None:
                _check_revision(connection, uri, file)
                if file is not None:
                    _check_not_moved(uri, named, file)
            if experiment is not None:
                _check_artifacts(uri, connection, experiment)
    except (ValueError, sqlite3.Error) as error:
        may_pass = is_unavailable(error) or isinstance(error, sqlite3.Error)
        kind = TrackingOutageError if may_pass else TrackingError
        raise kind(
            f"tracking.uri={uri}: cannot be used ({error}); start the server, correct the address, or give another"
        ) from error


def _check_not_moved(uri: str, named: str | None, file: Path) -> None:
    if (move := find_move(file)) is not None:
        setting = [f"tracking.uri={uri}"] if named else []
        command = shlex.join(["python", "-m", "cnn_sweeps.doctor", *setting, "--fix"])
        raise MovedError(f"tracking.uri={uri}: {move.describe()}; `{command}` changes these paths to {move.now}")


def _check_revision(connection: Connection, uri: str, file: Path | None) -> None:
    """Check that the tables are those of the installed MLflow; upgrade older ones in a file."""
    revision = connection.scalar(text("SELECT version_num FROM alembic_version"))
    known, newest = _revisions()
    if revision in newest or not known:
        return
    installed = f"the installed {version('mlflow')}"
    if revision not in known:
        raise TrackingError(
            f"tracking.uri={uri}: was made by a newer MLflow than {installed} (revision {revision}); "
            "run `pip install --upgrade mlflow` here, or give another tracking.uri"
        )
    if file is None:
        raise TrackingError(
            f"tracking.uri={uri}: was made by an older MLflow than {installed}; back it up, and run "
            f"`mlflow db upgrade {shlex.quote(hide_passwords(uri))}` while nobody uses it, or give another"
        )
    connection.rollback()  # else it would hold the file
    from cnn_sweeps.tracking.database.upgrade import upgrade  # imports MLflow, which is slow

    upgrade(file, newest)


@cache
def _revisions() -> tuple[set[str], set[str]]:
    """Return all table revisions that the installed MLflow knows, and the newest of them, from its scripts."""
    known: set[str] = set()
    before: set[str] = set()
    package = find_spec("mlflow")
    assert package is not None
    assert package.origin is not None
    for script in Path(package.origin).parent.glob("store/db_migrations/versions/*.py"):
        for is_before, value in _REVISION.findall(script.read_text(encoding="utf-8")):
            (before if is_before else known).update(_QUOTED.findall(value))
    return known, known - before


def _check_artifacts(uri: str, connection: Connection | None, experiment: str) -> None:
    """Check that files of new runs can be written, as far as that can be known beforehand."""
    place = None
    if connection is not None:
        query = text("SELECT artifact_location FROM experiments WHERE name = :name")
        place = connection.scalar(query, {"name": experiment})
    folder = Path("mlruns").absolute() if place is None else local_path(place)  # MLflow's default for a new experiment
    if folder is not None and (reason := why_not_writable(folder)) is not None:
        raise TrackingOutageError(
            f"tracking.uri={uri}: {folder}, the folder for files of experiment {experiment}, cannot be written "
            f"({reason}); make it a writable folder, or give another tracking.experiment_name"
        )
