"""Finds and mends the absolute paths in MLflow's database after a project's folder was moved or copied."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from cnn_sweeps.errors import TrackingOutageError
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
_MOST_RUNS = 100  # of an experiment whose folders are looked for


class Move(NamedTuple):
    """The old folder of the files of runs, in the database, and the folder where they are now."""

    before: Path
    now: Path

    def describe(self) -> str:
        """Describe it as a predicate of the database."""
        return f"has paths of files below {self.before}, from where it was moved or copied"


def local_path(place: str) -> Path | None:
    """Return the folder of a path or file:// address; None for every other address."""
    parts = urlsplit(place)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    return Path(place) if place.startswith("/") else None


def find_move(file: Path) -> Move | None:
    """Find out whether an SQLite database was moved or copied, with or without the files of its runs.

    The files are looked for beside the database and in the working folder, at the same relative path, in folders with
    the ids of its runs. A database was not moved if old and new path are the same folder (by links or mounts), or if
    it holds several projects and only one of them is gone.
    """
    with closing(sqlite3.connect(file)) as database:
        places = database.execute(
            "SELECT DISTINCT experiment_id, artifact_location FROM experiments JOIN runs USING (experiment_id)"
        )
        known = [(each, path) for each, place in places.fetchall() if (path := local_path(str(place))) is not None]
        for experiment_id, recorded in known:
            for move, here in _candidates(recorded, file):
                if _is_folder(here) and not _is_same(here, recorded) and _has_runs(database, experiment_id, here):
                    return move
    for experiment_id, recorded in known:
        project = recorded.parent.parent
        is_of_project = recorded == project / "mlruns" / str(experiment_id)
        if is_of_project and not os.path.lexists(project) and not any(_is_folder(path) for _, path in known):
            return Move(project, file.absolute().parent)
    return None


def _candidates(recorded: Path, file: Path) -> Iterator[tuple[Move, Path]]:
    """Yield possible moves, each with the folder that an experiment's files would have now; the longest path first."""
    for now in dict.fromkeys([file.absolute().parent, Path.cwd()]):
        for before in reversed(recorded.parents):
            here = now / recorded.relative_to(before)
            is_all = before == before.parent  # then only the experiments' folder was moved
            yield Move(recorded.parent, here.parent) if is_all else Move(before, now), here


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112  returns False where Path.is_dir would raise


def _is_same(here: Path, recorded: Path) -> bool:
    with suppress(OSError):
        return here.samefile(recorded)
    return False


def _has_runs(database: sqlite3.Connection, experiment_id: int, folder: Path) -> bool:
    newest = "SELECT run_uuid FROM runs WHERE experiment_id = ? ORDER BY start_time DESC LIMIT ?"
    runs = database.execute(newest, (experiment_id, _MOST_RUNS)).fetchall()
    return any(_is_folder(folder / str(run_id)) for (run_id,) in runs)


def bring_along(file: Path, move: Move) -> Path:
    """Change the paths of files in a database to where they are now; return a copy of the old database.

    Raises:
        TrackingOutageError: if it cannot be written.
    """
    try:
        with file_lock(file.with_name(f"{file.name}.lock"), wait=True):
            copy = keep_copy(file, "move")
            with closing(sqlite3.connect(file)) as database, database:
                for before, now in ((str(each) for each in move), (each.as_uri() for each in move)):
                    for table, column in _PLACES:
                        begins = f"substr({column}, 1, {len(before) + 1}) = ?"
                        changed = (
                            f"UPDATE {table} SET {column} = ? || substr({column}, {len(before) + 1}) WHERE {begins}"
                        )
                        database.execute(changed, (now, f"{before}/"))
    except (OSError, sqlite3.Error) as error:
        raise TrackingOutageError(
            f"{file}: cannot be written ({error}); make it writable, and run the same command again"
        ) from error
    return copy
