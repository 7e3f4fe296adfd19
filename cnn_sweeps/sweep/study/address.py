"""Where a sweep's study is by its name, looked up before anything slow is imported."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path, PurePath
from typing import Any

from cnn_sweeps.errors import StudyError
from cnn_sweeps.text.passwords import hide_passwords

_SQLITE = "sqlite:///"
_SWEEPS = Path("outputs/sweeps")
_JOURNAL = "study.journal"
_LONGEST_NAME, _MOST_FOLDERS = 255, 10  # bytes, as disks have it; more levels no sweep makes
_FIRST_OF_LINE = b'{"op_code":'
_NEW_STUDY = b'{"op_code":0,'


def sweep_folder(study_name: str) -> Path:
    """Give the folder of a sweep's files, as `conf/config.yaml` has it."""
    return _SWEEPS / study_name


def trial_subfolder(number: int, noted: Any) -> str:
    """Give the folder of a trial's files, relative to the sweep's.

    Args:
        number: of the trial, which names its folder.
        noted: another name that the study says; it counts only if it can be one, and lies below the sweep's folder,
            wherever that is: others may write to the study, too.
    """
    parts = PurePath(noted).parts if isinstance(noted, str) and noted.isprintable() else ()
    is_below = parts and ".." not in parts and not PurePath(noted).is_absolute()
    is_short = len(parts) <= _MOST_FOLDERS and all(len(part.encode()) <= _LONGEST_NAME for part in parts)
    return str(PurePath(noted)) if is_below and is_short else str(number)


def default_storage(study_name: str) -> str:
    """Give the journal file of a study, as `conf/config.yaml` has it."""
    return str(sweep_folder(study_name) / _JOURNAL)


def check_study_exists(storage: str, study_name: str) -> None:
    """See that a journal file or an SQLite database holds the study; what a server holds is not looked up here.

    Raises:
        StudyError: if there is no such file, or it is no storage of Optuna's, or holds no such study.
    """
    if storage.startswith(_SQLITE):
        known = _studies_in_database(storage, Path(storage.removeprefix(_SQLITE).partition("?")[0]))
    elif "://" not in storage:
        known = _studies_in_journal(Path(storage), study_name)
    else:
        return
    if study_name not in known:
        raise StudyError(f"{study_name}: no such study in {storage}; there are: {', '.join(known) or 'none'}")


def journal_file(storage: str) -> Path | None:
    """Give the journal file that a storage is; None for a database."""
    return None if "://" in storage else Path(storage)


def has_unfinished_line(journal: Path) -> bool:
    """Tell whether a power cut, or a full disk, left the last line of a journal unfinished."""
    with journal.open("rb") as file:
        if file.seek(0, 2) == 0:
            return False
        file.seek(-1, 2)
        return file.read() != b"\n"


def _studies_in_journal(journal: Path, study_name: str) -> list[str]:
    try:
        with journal.open("rb") as file:
            lines = [line for line in file if line.startswith(_NEW_STUDY) and line.endswith(b"\n")]
            file.seek(0)
            start = file.read(len(_FIRST_OF_LINE))
    except FileNotFoundError as error:
        known = sorted(file.parent.name for file in _SWEEPS.glob(f"*/{_JOURNAL}"))
        raise StudyError(
            f"{study_name}: no such sweep here, {journal} is not there; work in the folder where it was started, or "
            f"name its hydra.sweeper.storage; there are: {', '.join(known) or 'none'}"
        ) from error
    except OSError as error:
        raise StudyError(f"hydra.sweeper.storage={journal}: cannot be read ({error.strerror}); name another") from error
    if start and start != _FIRST_OF_LINE:
        hint = f"an SQLite database; did you mean sqlite:///{journal}?" if start[:6] == b"SQLite" else "no journal"
        raise StudyError(f"hydra.sweeper.storage={journal}: is {hint}; name the study's")
    try:
        return [str(json.loads(line)["study_name"]) for line in lines]
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise StudyError(
            f"hydra.sweeper.storage={journal}: makes no sense ({type(error).__name__}); name another"
        ) from error


def _studies_in_database(storage: str, file: Path) -> list[str]:
    told = f"hydra.sweeper.storage={hide_passwords(storage)}"
    if not file.is_file():
        raise StudyError(f"{told}: there is no such file; name the study's")
    try:
        connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
        try:
            return [name for (name,) in connection.execute("SELECT study_name FROM studies")]
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StudyError(f"{told}: holds no studies of Optuna's ({error}); name the study's") from error
