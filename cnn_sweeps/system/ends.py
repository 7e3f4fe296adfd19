"""What has been begun is ended, all of it: the parts of a sweep, and processes with the one that started them."""

from __future__ import annotations

import fcntl
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import wait

log = logging.getLogger(__name__)


@contextmanager
def ended_after(*parts: Callable[[], None]) -> Iterator[None]:
    """End every part after the block, in this order, though some cannot be; the first error is what is told."""
    with ExitStack() as ends:
        for end in reversed(parts):
            ends.push(partial(_end_part, end))
        yield


def _end_part(end: Callable[[], None], _kind: object, error: BaseException | None, _traceback: object) -> None:
    try:
        end()
    except Exception as another:
        if error is None:
            raise
        log.warning("%s", another)


def end_with_parent() -> None:
    """End this process and its children as soon as its parent has ended; on Linux even if they are stuck or stopped."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel: int = parent.sentinel  # a pipe, which the kernel closes at the other end
    os.setpgid(0, 0)
    if sys.platform == "linux":
        fcntl.fcntl(sentinel, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(sentinel, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)

    def wait_for_end() -> None:
        wait([sentinel])
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait_for_end, daemon=True).start()
