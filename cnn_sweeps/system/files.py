"""Files and folders that are there whole or not at all, and what is said where a disk is full."""

from __future__ import annotations

import errno
import io
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cnn_sweeps.errors import ConfigError, DiskError
from cnn_sweeps.system.output import open_lossy


def check_target(target: Path, setting: str, *, may_exist: bool) -> None:
    """Look whether a file, or with `may_exist` false a folder, can be made there.

    Raises:
        ConfigError: naming the setting that says where.
    """
    if target.is_dir() or (target.exists() and not may_exist):
        raise ConfigError(f"{setting}={target}: is there already; name a new place, or remove it")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"{setting}={target}: the folder {target.parent} is not there, or cannot be written to")


def is_disk_full(error: BaseException | None) -> bool:
    """Tell whether an error, of Python or of a library, says that a disk or one's share of it is full."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, OSError) and (error.errno in full or os.strerror(errno.ENOSPC) in str(error))


class LogFile(logging.FileHandler):
    """A log that loses lines while the disk is full, without a traceback on the terminal for each."""

    def _open(self) -> io.TextIOWrapper:
        return open_lossy(self.baseFilename)


@contextmanager
def disk_errors(target: Path, what: str) -> Iterator[None]:
    """Tell in one line that the disk cannot take `target`.

    Args:
        target: file or folder that the block writes.
        what: is to be given again, e.g. "the same command".

    Raises:
        DiskError: for what the machine could not write.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise DiskError(
            f"{target}: cannot be written ({error.strerror or error}); make space there and give {what} again"
        ) from error


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Give a path beside `target` to write to; it is renamed when the block ends well, and removed otherwise.

    Raises:
        ConfigError: if the machine cannot write it.
    """
    unfinished = target.with_name(f".{target.name}-{uuid.uuid4().hex}.unfinished")
    try:
        yield unfinished
        unfinished.replace(target)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise ConfigError(f"{target}: cannot be written ({error.strerror or error}); name another place") from error
    finally:
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        else:
            unfinished.unlink(missing_ok=True)


def append_whole(target: Path, content: bytes) -> None:
    """Append to a file, which is made if it is not there: all of the content or, if the disk is full, nothing.

    Args:
        target: the file; no link is followed.
        content: is handed to the system in one call, so that no signal cuts it in two.

    Raises:
        OSError: if it cannot be written.
    """
    file = os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        size = os.fstat(file).st_size
        if os.write(file, content) < len(content):
            os.ftruncate(file, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
    finally:
        os.close(file)


def replace_whole(target: Path, content: bytes | memoryview, *, is_kept_at_once: bool = True) -> None:
    """Give a file new content, all of it or, if that fails or is cut off, none.

    Args:
        target: the file.
        content: all of it.
        is_kept_at_once: whether to wait until it is on the disk, where a power cut cannot take it.

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
