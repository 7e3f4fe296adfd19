"""A project's folder that was moved or copied: MLflow's database names the files of its runs by absolute places."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

from cnn_sweeps.system.databases import keep_copy
from cnn_sweeps.system.locks import file_lock

_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
)
_FOLDER_OF_MLFLOW = 2  # `mlruns/1`: what it adds to the folder that is moved
_MOST_RUNS = 100  # that are looked for


class Move(NamedTuple):
    """Below which folder a database names the files of its runs, and below which one they are."""

    before: Path
    now: Path

    def describe(self) -> str:
        """Say it."""
        return f"names the files of its runs below {self.before}, from where it was moved or copied"


def local_path(place: str) -> Path | None:
    """Give the folder that MLflow names so; None if it is no folder of a disk."""
    parts = urlsplit(place)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    return Path(place) if place.startswith("/") else None


def move_of(file: Path) -> Move | None:
    """Do what `find_move` does."""
    with create_engine(f"sqlite:///{file}", poolclass=NullPool).connect() as connection:
        return find_move(connection, file)


def find_move(connection: Connection, file: Path) -> Move | None:
    """Find out whether an SQLite database was moved or copied together with files of its runs, or to where none are.

    They are looked for beside the database, and in the working folder: at the same place below that, with folders named
    as its runs are. What is there by two names, as links or mounts give it, was not moved.
    """
    query = "SELECT DISTINCT experiment_id, artifact_location FROM experiments JOIN runs USING (experiment_id)"
    for experiment_id, place in connection.execute(text(query)).all():
        if (recorded := local_path(str(place))) is None:
            continue
        for before, now, here in _candidates(recorded, file):
            if here.is_dir() and not _is_same(here, recorded) and _has_runs(connection, experiment_id, here):
                return Move(before, now)
        if recorded.parts[-_FOLDER_OF_MLFLOW:] == ("mlruns", str(experiment_id)):
            before = recorded.parents[_FOLDER_OF_MLFLOW - 1]
            if not os.path.lexists(before):
                return Move(before, file.absolute().parent)
    return None


def _candidates(recorded: Path, file: Path) -> Iterator[tuple[Path, Path, Path]]:
    """Give what may have been moved, where that may be now, and the folder of files there; the longest way first."""
    for now in dict.fromkeys([file.absolute().parent, Path.cwd()]):
        for before in reversed(recorded.parents[_FOLDER_OF_MLFLOW - 1 :]):
            yield before, now, now / recorded.relative_to(before)


def _is_same(here: Path, recorded: Path) -> bool:
    with suppress(OSError):
        return here.samefile(recorded)
    return False


def _has_runs(connection: Connection, experiment_id: int, folder: Path) -> bool:
    query = text("SELECT run_uuid FROM runs WHERE experiment_id = :id ORDER BY start_time DESC LIMIT :most")
    newest = connection.scalars(query, {"id": experiment_id, "most": _MOST_RUNS})
    return any((folder / str(run_id)).is_dir() for run_id in newest)


def bring_along(file: Path, move: Move) -> Path:
    """Have a database name the files of its runs where they are now; give the copy that was made of it before."""
    with file_lock(file.with_name(f"{file.name}.lock"), wait=True):
        copy = keep_copy(file, "move")
        engine = create_engine(f"sqlite:///{file}", poolclass=NullPool)
        forms = ((str(each) for each in move), (each.as_uri() for each in move))
        with engine.begin() as connection:
            for before, now in forms:
                for table, column in _PLACES:
                    connection.execute(
                        text(
                            f"UPDATE {table} SET {column} = :now || substr({column}, length(:before) + 1) "
                            f"WHERE substr({column}, 1, length(:before) + 1) = :before || '/'"
                        ),
                        {"before": before, "now": now},
                    )
    return copy
