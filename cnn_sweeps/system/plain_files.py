"""Reads files in folders that anybody may have written to: only plain names below a folder, and no links.

Folders are file descriptors, for `dir_fd`, so that replacing a path later changes nothing. All functions raise
NotPlainError for links and the like, and OSError if something cannot be opened, read or written.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a named pipe would be waited for
_NOT_PLAIN = (errno.ELOOP, errno.ENOTDIR, errno.EMLINK, errno.ENXIO)  # errors for links and sockets
_MOST_LEVELS = 20
_PART_BYTES = 2**20


class NotPlainError(Exception):
    """A name leads to a link, to no file or folder, or to something too large; the message says which."""


def check_plain_name(name: str) -> str:
    """Return the name if it is that of a file directly in a folder.

    Raises:
        ValueError: if it is not.
    """
    if name in ("", ".", "..") or {"/", "\\", "\0"} & set(name):
        raise ValueError("should be the plain name of a file")
    return name


@contextmanager
def opened_folder(path: Path, *names: str) -> Iterator[int]:
    """Open a folder by a trusted path, which may contain links, then by plain names a folder below it."""
    with ExitStack() as opened:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        opened.callback(os.close, folder)
        for name in names:
            folder = opened.enter_context(_opened(folder, name, _FOLDER))
        yield folder


def read_plain_file(folder: int, name: str, most_bytes: int, offset: int = 0) -> bytes:
    """Read a file of an opened folder from `offset` on; the whole file may have `most_bytes`."""
    return b"".join(_parts(folder, name, most_bytes, offset))


def copy_plain_files(folder: int, name: str, target: Path, most_bytes: int, _levels: int = _MOST_LEVELS) -> int:
    """Copy a file, or a folder with its content, from an opened folder; return the number of bytes.

    Args:
        folder: the folder's descriptor.
        name: the plain name of the file or folder in it.
        target: the path of the copy; it must not exist.
        most_bytes: the limit for all files together.
    """
    if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        with target.open("wb") as copy:
            return sum(map(copy.write, _parts(folder, name, most_bytes)))
    if not _levels:
        raise NotPlainError(f"{name} is more than {_MOST_LEVELS} folders deep")
    target.mkdir()
    size = 0
    with _opened(folder, name, _FOLDER) as inside:
        for each in sorted(os.listdir(inside)):  # noqa: PTH208  a descriptor
            size += copy_plain_files(inside, each, target / each, most_bytes - size, _levels - 1)
    return size


@contextmanager
def _opened(folder: int, name: str, flags: int) -> Iterator[int]:
    try:
        file = os.open(name, flags, dir_fd=folder)
    except OSError as error:
        if error.errno in _NOT_PLAIN:
            raise NotPlainError(f"{name} is a link, or no file or folder") from error
        raise
    try:
        yield file
    finally:
        os.close(file)


def _parts(folder: int, name: str, most_bytes: int, offset: int = 0) -> Iterator[bytes]:
    with _opened(folder, name, _FILE) as file:
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:  # a hard link may be somebody else's file
            raise NotPlainError(f"{name} is a link, or no file")
        os.lseek(file, offset, os.SEEK_SET)
        left = most_bytes if about.st_size <= most_bytes else 0  # do not begin to read a huge sparse file
        while part := os.read(file, min(_PART_BYTES, left + 1)):
            left -= len(part)
            if left < 0:
                raise NotPlainError(f"{name} has more than the allowed {most_bytes:,} bytes")
            yield part
