"""Writes files whole or not at all, checks places before work begins, and reports full disks in one line."""

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
    """Check that a file can be written there (`may_exist`), or a new file or folder can be made.

    Raises:
        ConfigError: if not; the message names the setting.
    """
    if target.is_dir() or (os.path.lexists(target) and not may_exist):
        raise ConfigError(f"{setting}={target}: already exists; give a new path, or remove it")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{setting}={target}: the folder {target.parent} does not exist or cannot be written to; give another path"
        )


def check_folder(folder: Path, setting: str) -> None:
    """Check that a folder is empty and can be written to, or can be made.

    Raises:
        ConfigError: if not; the message names the setting.
    """
    if not folder.is_dir():
        check_target(folder, setting, may_exist=False)
    elif not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(f"{setting}={folder}: cannot be written to; give another folder, or a new one")
    elif any(folder.iterdir()):
        raise ConfigError(f"{setting}={folder}: is not empty; give an empty folder, or a new one")


def why_not_writable(folder: Path) -> str | None:
    """Return why files cannot be made in a folder, which may not exist yet; None if nothing seems to forbid it."""
    there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    if not there.is_dir():
        return os.strerror(errno.ENOTDIR)
    if os.access(there, os.W_OK | os.X_OK):
        return None
    return os.strerror(errno.EROFS if os.statvfs(there).f_flag & os.ST_RDONLY else errno.EACCES)


def at_home(place: str) -> str:
    """Replace a `~` at the beginning of a path, or of the path in a sqlite:/// or file:// address."""
    scheme = next((each for each in _SCHEMES if place.startswith(each)), "")
    return scheme + os.path.expanduser(place.removeprefix(scheme))  # noqa: PTH111  takes any text


def seen_from_here(place: str) -> str:
    """Return a path below the working folder relative to it, which stays the same if the folder moves; others as is."""
    path = os.path.abspath(at_home(place))  # noqa: PTH100  without "..", and takes any text
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else place


def moved_here(place: str) -> str | None:
    """Return where an absolute path that is gone may be now, if the working folder was moved with it; None if nowhere.

    As long a part of it as there is, seen from the working folder.
    """
    path = Path(at_home(place))
    if not path.is_absolute() or os.path.lexists(path):
        return None
    below = (str(path.relative_to(before)) for before in reversed(path.parents))
    return next((each for each in below if os.path.exists(each)), None)  # noqa: PTH110  says no where Path raises


def is_disk_full(error: BaseException | None) -> TypeGuard[OSError]:
    """Return whether an error, of Python or of a library, says that the disk or the user's quota is full."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, OSError) and (error.errno in full or os.strerror(errno.ENOSPC) in str(error))


@contextmanager
def collecting_failures(failures: list[str], what: str) -> Iterator[None]:
    """Add an error of the block to a list instead of raising it; the error of a full disk is raised."""
    try:
        yield
    except Exception as error:
        if is_disk_full(error):
            raise
        failures.append(f"{what} ({describe_error(error)})")


class LogFile(logging.FileHandler):
    """A log file that drops lines while the disk is full, without a traceback on the terminal for each."""

    def _open(self) -> io.TextIOWrapper:
        return open_lossy(self.baseFilename)


@contextmanager
def _reporting_errors(target: Path, advice: str, kind: type[UserError]) -> Iterator[None]:
    """Turn an OSError into an error of one line that `target` cannot be written; a broken pipe is raised as it is."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise kind(f"{target}: cannot be written ({error.strerror or error}); {advice}") from error


@contextmanager
def disk_errors(target: Path, what: str = "the same command") -> Iterator[None]:
    """Turn an OSError in the block into an error of one line: free space for `target`, then run `what` again.

    Raises:
        DiskError: if the machine could not write.
    """
    with _reporting_errors(target, f"free space there and run {what} again", DiskError):
        yield


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Yield a path for a new file or folder; it becomes `target` if the block succeeds, else it is removed.

    Raises:
        ConfigError: if it cannot be written.
    """
    names = {"prefix": f".{target.name}-", "suffix": ".unfinished"}
    with (
        _reporting_errors(target, "give another path", ConfigError),
        tempfile.TemporaryDirectory(**names, dir=target.parent, ignore_cleanup_errors=True) as beside,
    ):
        unfinished = Path(beside, target.name)
        yield unfinished
        unfinished.replace(target)


def open_plain(path: str, flags: int) -> int:
    """Open a file for `open(opener=...)`; follow no link, and do not wait on a named pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def append_whole(target: Path, content: bytes) -> None:
    """Append all of the content to a file or, if the disk is full, nothing; make the file if it does not exist.

    One system call writes it, so that no signal cuts it in two. Links are not followed.

    Raises:
        OSError: if it cannot be written.
    """
    with open(target, "ab", buffering=0, opener=open_plain) as file:
        size = file.tell()
        if file.write(content) < len(content):
            file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))


def replace_whole(target: Path, content: bytes | memoryview, *, is_kept_at_once: bool = True) -> None:
    """Replace the content of a file, all of it or, if that fails or is interrupted, nothing.

    With `is_kept_at_once`, wait until the content is on the disk and safe from a power cut.

    Raises:
        OSError: if it cannot be written; the unfinished file is removed, to free its space.
    """
    unfinished = target.with_suffix(".unfinished")
    try:
        unfinished.unlink(missing_ok=True)  # a killed process left it, or it is a link
        with unfinished.open("xb") as file:
            file.write(content)
            file.flush()
            if is_kept_at_once:
                os.fsync(file.fileno())
        unfinished.replace(target)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
