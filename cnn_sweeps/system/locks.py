"""Locks that end with the process that holds them, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cnn_sweeps.system.files import open_plain


@contextmanager
def file_lock(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a lock file while the block runs; yield whether it is held. With `wait` it always is.

    Raises:
        OSError: if the file cannot be made.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = open(path, "a", opener=open_plain)  # noqa: SIM115  closed below
        except FileNotFoundError:  # another process has just removed the folder
            continue
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            if os.fstat(file.fileno()).st_nlink:  # else its last holder removed it, and others may lock a new one
                yield True
                return
