"""Files of a folder that anybody may have written into: by plain names below it, and no link is followed.

A folder is a descriptor, for `dir_fd`: what is moved or replaced later does not change where it leads. All functions
raise NotPlainError for what a name may not lead to, and OSError for what cannot be opened, read or written.
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
_NOT_PLAIN = (errno.ELOOP, errno.ENOTDIR, errno.EMLINK, errno.ENXIO)  # what systems say of a link, a socket
_MOST_LEVELS = 20
_PART_BYTES = 2**20


class NotPlainError(Exception):
    """What a name leads to is a link, no file or folder, or too large; the message says which."""


def check_plain_name(name: str) -> str:
    """Give the name of a file in a folder back.

    Raises:
        ValueError: if it leads somewhere else.
    """
    if name in ("", ".", "..") or {"/", "\\", "\0"} & set(name):
        raise ValueError("should be the plain name of a file")
    return name


@contextmanager
def opened_folder(path: Path, *names: str) -> Iterator[int]:
    """Open a folder, whose path is trusted and may hold links, or one below it: by plain names, from the top."""
    with ExitStack() as opened:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        opened.callback(os.close, folder)
        for name in names:
            folder = opened.enter_context(_opened(folder, name, _FOLDER))
        yield folder


def read_plain_file(folder: int, name: str, most_bytes: int, offset: int = 0) -> bytes:
    """Read a file of an opened folder from `offset` on; it may have `most_bytes` as a whole."""
    return b"".join(_parts(folder, name, most_bytes, offset))


def copy_plain_files(folder: int, name: str, target: Path, most_bytes: int, _levels: int = _MOST_LEVELS) -> int:
    """Copy a file, or a folder with all that is in it, from an opened folder; give the number of bytes.

    Args:
        folder: the descriptor.
        name: plain, of the file or folder in it.
        target: what the copy is to be called; it does not exist yet.
        most_bytes: of all files together.
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
    """Read a file, part by part."""
    with _opened(folder, name, _FILE) as file:
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:  # a hard link: the file may be another one's
            raise NotPlainError(f"{name} is a link, or no file")
        os.lseek(file, offset, os.SEEK_SET)
        left = most_bytes if about.st_size <= most_bytes else 0  # of a sparse file not even so much
        while part := os.read(file, min(_PART_BYTES, left + 1)):
            left -= len(part)
            if left < 0:
                raise NotPlainError(f"{name} is larger than the {most_bytes:,} bytes that it may have")
            yield part
