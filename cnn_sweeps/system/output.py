"""What is shown while work is done: a closed pipe or a full disk ends the display, never the work."""

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
        """Write, and say that all of it was written if nothing could be."""
        try:
            return super().write(content) or len(content)
        except OSError:
            return len(content)


def open_lossy(file: str | int, encoding: str = "utf-8", errors: str = "backslashreplace") -> io.TextIOWrapper:
    """Open a text file, by path or by the number of an open one, to append to; it loses what it cannot take."""
    raw = _LossyFile(file, "a") if isinstance(file, str) else _LossyFile(file, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=True)


def outlive_display(*names: str) -> None:
    """Let this process go on when its standard output and error, or one of them, cannot be written any more.

    What somebody has put in their place, as a test does, is left alone.
    """
    for name in names or ("stdout", "stderr"):
        before = getattr(sys, name)
        if before is None:  # closed by who started the process: `>&-`
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
    """Write what the block shows; a reader that goes, as in `... | head`, ends it, and all is well.

    Raises:
        SystemExit: in one line, if standard output is on a full disk.
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
        sys.exit(f"error: standard output cannot be written ({error.strerror}); make space, or show it elsewhere")


def _discard() -> None:
    """Have what is still to be written go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
