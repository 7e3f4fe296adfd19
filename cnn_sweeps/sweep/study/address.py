"""The address of a sweep's study: parsed once, and checked before any slow import."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal
from urllib.parse import urlsplit

from cnn_sweeps.errors import StudyError
from cnn_sweeps.system.files import at_home
from cnn_sweeps.text.passwords import hide_passwords

_SQLITE = "sqlite:///"
_SWEEPS = Path("outputs/sweeps")
_JOURNAL = "study.journal"
_LONGEST_NAME, _MOST_FOLDERS = 255, 10  # bytes, the limit of disks; folder levels, more than any sweep makes
_FIRST_OF_LINE = b'{"op_code":'
_NEW_STUDY = b'{"op_code":0,'
ENDS_OF_LINE = (b"}\n", b"}\r\n")


@dataclass(frozen=True)
class StudyAddress:
    """Where a study is; made by `parse_address`.

    Attributes:
        name: of the study; empty if the address is only that of a storage.
        kind: `database`: another database that SQLAlchemy knows; `target`: an Optuna storage to build.
        place: the journal's path, or a URL, if there is one.
        target: the configuration of a `target`.
    """

    name: str
    kind: Literal["journal", "sqlite", "grpc", "database", "target"]
    place: str
    target: dict[str, Any] | None = None

    @property
    def shown(self) -> str:
        """The storage in messages, without a password."""
        return str(self.target.get("_target_")) if self.target is not None else hide_passwords(self.place)

    @property
    def file(self) -> Path | None:
        """The journal or SQLite database, as it was named; None for a server."""
        if self.kind == "sqlite":
            return Path(self.place.removeprefix(_SQLITE).partition("?")[0])
        return Path(self.place) if self.kind == "journal" else None

    @property
    def absolute_place(self) -> str:
        """The place, with an absolute path."""
        scheme = _SQLITE if self.kind == "sqlite" else ""
        return self.place if self.file is None else f"{scheme}{Path(self.place.removeprefix(scheme)).absolute()}"

    def lock_file(self, purpose: str) -> Path | None:
        """Return the file that controllers lock to exclude each other; None for a server."""
        return None if self.file is None else Path(f"{self.file.absolute()}.{purpose}.lock")

    @property
    def is_postgresql(self) -> bool:
        """Whether the study is in PostgreSQL, which has locks for all hosts."""
        return self.place.startswith(("postgresql://", "postgresql+psycopg"))

    @property
    def has_lock(self) -> bool:
        """Whether the controllers of the study can exclude each other: with a file, or in PostgreSQL."""
        return self.file is not None or self.is_postgresql


def parse_address(storage: str | dict[str, Any] | None, name: str = "") -> StudyAddress:
    """Parse `hydra.sweeper.storage`; None means the journal in the sweep's folder."""
    if storage is None:
        storage = str(sweep_folder(name) / _JOURNAL)
    if isinstance(storage, dict):
        return StudyAddress(name, "target", str(storage.get("url", "")), storage)
    storage = at_home(storage)
    if storage.startswith((_SQLITE, "grpc://")):
        return StudyAddress(name, "sqlite" if storage.startswith(_SQLITE) else "grpc", storage)
    return StudyAddress(name, "database" if "://" in storage else "journal", storage)


def is_only_here(address: str) -> bool:
    """Return whether only this machine can use a path, or an address of a database or a server."""
    parts = urlsplit(address)
    return parts.scheme in ("", "file", "sqlite") or parts.hostname in ("localhost", "127.0.0.1", "::1")


def sweep_folder(study_name: str) -> Path:
    """Return the folder of a sweep's files, as in `conf/config.yaml`."""
    return _SWEEPS / study_name


def trial_subfolder(number: int, noted: Any) -> str:
    """Return the folder of a trial's files, relative to the sweep's: the `noted` one, or the trial's number.

    The folder that the study notes counts only if it is a valid name below the sweep's folder, since others may write
    to the study, too.
    """
    parts = PurePath(noted).parts if isinstance(noted, str) and noted.isprintable() else ()
    is_below = parts and ".." not in parts and not PurePath(noted).is_absolute()
    is_short = len(parts) <= _MOST_FOLDERS and all(len(part.encode()) <= _LONGEST_NAME for part in parts)
    return str(PurePath(noted)) if is_below and is_short else str(number)


def check_study_exists(address: StudyAddress) -> None:
    """Check that a journal file or an SQLite database holds the study; a server is not asked here.

    Raises:
        StudyError: if there is no such file, it is no storage of Optuna, or it holds no such study.
    """
    if address.file is None:
        return
    known = (_studies_in_journal if address.kind == "journal" else _studies_in_database)(address, address.file)
    if address.name not in known:
        there = f"name one of: {', '.join(known)}" if known else "it holds none"
        raise StudyError(f"{address.name}: there is no such study in {address.shown}; {there}")


def check_journal(journal: Path) -> None:
    """Check that an existing file is empty, or begins as a journal of Optuna.

    Raises:
        StudyError: if it is of another kind.
        OSError: if it cannot be read.
    """
    with journal.open("rb") as file:
        beginning = file.read(len(_FIRST_OF_LINE))
    if not _FIRST_OF_LINE.startswith(beginning):
        is_sqlite = beginning.startswith(b"SQLite")
        what = f"an SQLite database; did you mean {_SQLITE}{journal}?" if is_sqlite else "no journal of Optuna"
        raise StudyError(
            f"hydra.sweeper.storage={journal}: the file is {what}, and cannot be used; name the study's file, or "
            "choose another hydra.sweeper.study_name"
        )


def has_unfinished_end(journal: Path) -> bool:
    """Return whether the last line of a journal is blank, or unfinished by a kill, a power cut or a full disk."""
    with journal.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - len(ENDS_OF_LINE[-1])))
        return size > 0 and not file.read().endswith(ENDS_OF_LINE)


def _studies_in_journal(address: StudyAddress, journal: Path) -> list[str]:
    told = f"hydra.sweeper.storage={journal}"
    try:
        check_journal(journal)
        with journal.open("rb") as file:
            lines = [line for line in file if line.startswith(_NEW_STUDY) and line.endswith(b"\n")]
        return [str(json.loads(line)["study_name"]) for line in lines]
    except FileNotFoundError as error:
        known = sorted(file.parent.name for file in _SWEEPS.glob(f"*/{_JOURNAL}"))
        raise StudyError(
            f"{address.name}: there is no such sweep here, {journal} does not exist; go to the folder where the sweep "
            f"was started, or name its hydra.sweeper.storage; sweeps here: {', '.join(known) or 'none'}"
        ) from error
    except OSError as error:
        raise StudyError(f"{told}: the file cannot be read ({error.strerror}); name another file") from error
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise StudyError(f"{told}: the file makes no sense ({type(error).__name__}); name another file") from error


def _studies_in_database(address: StudyAddress, file: Path) -> list[str]:
    told = f"hydra.sweeper.storage={address.shown}"
    if not file.is_file():
        raise StudyError(f"{told}: there is no such file; name the study's file")
    try:
        connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
        try:
            return [name for (name,) in connection.execute("SELECT study_name FROM studies")]
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StudyError(f"{told}: the file holds no studies of Optuna ({error}); name the study's file") from error
