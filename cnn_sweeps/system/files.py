"""Files and folders that are there whole or not at all, and what is said where a disk is full."""

from __future__ import annotations

import errno
import io
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeGuard

from cnn_sweeps.errors import ConfigError, DiskError, UserError, describe_error
from cnn_sweeps.system.output import open_lossy

_SCHEMES = ("sqlite:///", "file://")


def check_target(target: Path, setting: str, *, may_exist: bool) -> None:
    """Look whether a file, or with `may_exist` false a folder, can be made there.

    Raises:
        ConfigError: naming the setting that says where.
    """
    if target.is_dir() or (os.path.lexists(target) and not may_exist):
        raise ConfigError(f"{setting}={target}: is there already; name a new place, or remove it")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"{setting}={target}: the folder {target.parent} is not there, or cannot be written to")


def check_folder(folder: Path, setting: str) -> None:
    """Look whether a folder is there, empty, and can be written to, or can be made.

    Raises:
        ConfigError: naming the setting that says where.
    """
    if not folder.is_dir():
        check_target(folder, setting, may_exist=False)
    elif not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(f"{setting}={folder}: cannot be written to; name another folder, or a new one")
    elif any(folder.iterdir()):
        raise ConfigError(f"{setting}={folder}: is not empty; name an empty folder, or a new one")


def why_not_writable(folder: Path) -> str | None:
    """Say why files cannot be made in a folder that is there or will be made; None if nothing is known against it."""
    there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    if not there.is_dir():
        return os.strerror(errno.ENOTDIR)
    if os.access(there, os.W_OK | os.X_OK):
        return None
    return os.strerror(errno.EROFS if os.statvfs(there).f_flag & os.ST_RDONLY else errno.EACCES)


def at_home(place: str) -> str:
    """Give a path, or the address of a file, with the home folder for a `~` at its beginning."""
    scheme = next((each for each in _SCHEMES if place.startswith(each)), "")
    return scheme + os.path.expanduser(place.removeprefix(scheme))  # noqa: PTH111  takes any text


def seen_from_here(place: str) -> str:
    """Give a path below the working folder as seen from there, which stays the same where that is moved; else as is."""
    path = os.path.abspath(at_home(place))  # noqa: PTH100  without "..", and takes any text
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else place


def moved_here(place: str) -> str | None:
    """Give what an absolute path that is gone may be now, if the working folder was moved with it; None if nothing is.

    As long a part of it as there is, seen from the working folder.
    """
    path = Path(at_home(place))
    if not path.is_absolute() or os.path.lexists(path):
        return None
    below = (str(path.relative_to(before)) for before in reversed(path.parents))
    return next((each for each in below if os.path.exists(each)), None)  # noqa: PTH110  says no where Path raises


def is_disk_full(error: BaseException | None) -> TypeGuard[OSError]:
    """Tell whether an error, of Python or of a library, says that a disk or one's share of it is full."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, OSError) and (error.errno in full or os.strerror(errno.ENOSPC) in str(error))


@contextmanager
def told_in(failures: list[str], what: str) -> Iterator[None]:
    """Have an error of the block told in a list and no more, since it loses nothing that matters; not a full disk."""
    try:
        yield
    except Exception as error:
        if is_disk_full(error):
            raise
        failures.append(f"{what} ({describe_error(error)})")


class LogFile(logging.FileHandler):
    """A log that loses lines while the disk is full, without a traceback on the terminal for each."""

    def _open(self) -> io.TextIOWrapper:
        return open_lossy(self.baseFilename)


@contextmanager
def _told(target: Path, advice: str, kind: type[UserError]) -> Iterator[None]:
    """Tell in one line that `target` cannot be written; that a reader of what is shown has gone is another matter."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise kind(f"{target}: cannot be written ({error.strerror or error}); {advice}") from error


@contextmanager
def disk_errors(target: Path, what: str) -> Iterator[None]:
    """Tell in one line that the disk cannot take `target`, and that `what` is to be given again: "the same command".

    Raises:
        DiskError: for what the machine could not write.
    """
    with _told(target, f"make space there and give {what} again", DiskError):
        yield


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Give a path to write a file or folder to; it becomes `target` when the block ends well, and is removed otherwise.

    Raises:
        ConfigError: if the machine cannot write it.
    """
    names = {"prefix": f".{target.name}-", "suffix": ".unfinished"}
    with (
        _told(target, "name another place", ConfigError),
        tempfile.TemporaryDirectory(**names, dir=target.parent, ignore_cleanup_errors=True) as beside,
    ):
        unfinished = Path(beside, target.name)
        yield unfinished
        unfinished.replace(target)


def open_plain(path: str, flags: int) -> int:
    """Open no link, which may lead to another one's file, and wait for no named pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def append_whole(target: Path, content: bytes) -> None:
    """Append to a file, which is made if it is not there: all of the content or, if the disk is full, nothing.

    It is handed to the system in one call, so that no signal cuts it in two. No link is followed.

    Raises:
        OSError: if it cannot be written.
    """
    with open(target, "ab", buffering=0, opener=open_plain) as file:
        size = file.tell()
        if file.write(content) < len(content):
            file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))


def replace_whole(target: Path, content: bytes | memoryview, *, is_kept_at_once: bool = True) -> None:
    """Give a file new content, all of it or, if that fails or is cut off, none.

    With `is_kept_at_once` it waits until that is on the disk, where a power cut cannot take it.

    Raises:
        OSError: if it cannot be written; what was written of it is removed, so that it takes no space.
    """
    unfinished = target.with_suffix(".unfinished")
    try:
        unfinished.unlink(missing_ok=True)  # of a process that was killed, or a link, which would be followed
        with unfinished.open("xb") as file:
            file.write(content)
            file.flush()
            if is_kept_at_once:
                os.fsync(file.fileno())
        unfinished.replace(target)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
