"""Folders with records: found, and one process at a time at work on each."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from cnn_sweeps.errors import TrackingError
from cnn_sweeps.system.files import disk_errors
from cnn_sweeps.system.locks import file_lock
from cnn_sweeps.system.plain_files import NotPlainError, copy_plain_files, opened_folder
from cnn_sweeps.tracking.address import is_run_id
from cnn_sweeps.tracking.entry import RECORD_FILE, senseless

log = logging.getLogger(__name__)

_LOCK_FILE = "record.lock"
_MOST_FILES_BYTES = 2**31


@contextmanager
def locked(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a record's lock while the block runs; tell whether it is held, which without `wait` it may not be.

    Raises:
        SenselessError: if the lock's file is a link.
        DiskError: if it cannot be made.
    """
    with ExitStack() as lock:
        try:
            is_held = lock.enter_context(file_lock(folder / _LOCK_FILE, wait=wait))
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise senseless(folder, f"{_LOCK_FILE} is a link, or no file") from error
            with disk_errors(folder / _LOCK_FILE, "the same command"):
                raise
        yield is_held


@contextmanager
def copies_of(folder: Path, files: list[str]) -> Iterator[Path]:
    """Give a folder with copies of a record's files, which nobody can replace while they are sent.

    Raises:
        SenselessError: if one is a link, or too large; one that is no longer there is told.
    """
    left = _MOST_FILES_BYTES
    with tempfile.TemporaryDirectory() as copies:
        for file in map(Path, files):
            try:
                with opened_folder(folder, *file.parent.parts) as opened:
                    left -= copy_plain_files(opened, file.name, Path(copies, file.name), left)
            except FileNotFoundError:
                log.warning("%s is no longer there; the run has no such file in MLflow", folder / file)
            except NotPlainError as error:
                raise senseless(folder, error) from error
        yield Path(copies)


def find_records(folder: Path) -> list[Path]:
    """Give the folders with a record, in a folder at any depth or the folder itself, by name.

    No link below the folder is followed.
    """
    return sorted(place for place in folders_below(folder) if (place / RECORD_FILE).is_file())


def folders_below(folder: Path) -> Iterator[Path]:
    """Give a folder and all below it, however deep; others may remove some meanwhile."""
    left = [folder]
    while left:
        place = left.pop()
        yield place
        with suppress(OSError), os.scandir(place) as found:
            left += [place / each.name for each in found if each.is_dir(follow_symlinks=False)]


def short_path(path: Path) -> Path:
    """Give a path as seen from the working folder if it is below that, which may be moved; else the absolute one."""
    path = path.absolute()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def refuse_outboxes(folder: Path) -> list[TrackingError]:
    """Say of each folder in which an earlier version has kept what the store did not get that it is not read."""
    places = [place for place in folders_below(folder) if place.parent.name == "outbox"]
    return [
        TrackingError(
            f"{place}: was kept by cnn-sweeps 0.1.0 before it wrote record.jsonl, in another form; deliver it with the "
            f"code that the page of run {place.name} names as git.commit, or remove it"
        )
        for place in sorted(places)
        if is_run_id(place.name) and (place / "about.json").is_file()
    ]
