"""Keeps work going when its output cannot be shown, because of a closed pipe or a full disk."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class _LossyFile(io.FileIO):
    def write(self, content: Any) -> int:
        """Write; if that fails, report success."""
        try:
            return super().write(content) or len(content)
        except OSError:
            return len(content)


def open_lossy(file: str | int, encoding: str = "utf-8", errors: str = "backslashreplace") -> io.TextIOWrapper:
    """Open a text file for appending, by path or file descriptor; what cannot be written is dropped."""
    raw = _LossyFile(file, "a") if isinstance(file, str) else _LossyFile(file, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=True)


def outlive_display(*names: str) -> None:
    """Let this process go on when its standard output or error can no longer be written.

    Args:
        names: "stdout" or "stderr"; default: both. Streams that somebody has replaced, as tests do, stay.
    """
    for name in names or ("stdout", "stderr"):
        before = getattr(sys, name)
        if before is None:  # the process was started with `>&-`
            setattr(sys, name, open_lossy(os.devnull))
        elif before is getattr(sys, f"__{name}__"):
            with suppress(OSError):
                before.flush()
            lossy = open_lossy(before.fileno(), before.encoding, before.errors)
            setattr(sys, name, lossy)
            for handler in logging.getLogger().handlers:
                if isinstance(handler, logging.StreamHandler) and handler.stream is before:
                    handler.setStream(lossy)


@contextmanager
def shown_whole() -> Iterator[None]:
    """Flush what the block prints; a reader that closes its pipe, as in `... | head`, ends the block without an error.

    Raises:
        SystemExit: with a message of one line, if standard output is on a full disk.
    """
    try:
        yield
        print(end="", flush=True)
    except BrokenPipeError:
        _discard()
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        _discard()
        sys.exit(f"error: standard output cannot be written ({error.strerror}); free space, or send it elsewhere")


def _discard() -> None:
    """Drop what standard output has not written yet."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
