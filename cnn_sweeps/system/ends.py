"""Ends in order: of a process on a signal or with its parent, and of everything that a block has started."""

from __future__ import annotations

import fcntl
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing.connection import wait
from types import FrameType
from typing import NoReturn

log = logging.getLogger(__name__)

_ENDS = {128 + end: end for end in (signal.SIGTERM, signal.SIGHUP)}  # by exit code
_MOMENT_S, _THREADS = 2.0, "cnn_sweeps reads"


def exit_on_signals() -> None:
    """Exit with 143 on SIGTERM and 129 on SIGHUP by an exception, so that `with` and `finally` clean up."""
    for end in _ENDS.values():
        if signal.getsignal(end) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(end, _exit_on_signal)
    sys.unraisablehook = _exit_again


def is_exit_on_signal(error: BaseException) -> bool:
    """Return whether an exception is the exit that a signal asked for."""
    return isinstance(error, SystemExit) and error.code in _ENDS


def _exit_on_signal(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _exit_again(dropped: sys.UnraisableHookArgs) -> None:
    """Send the signal again if the exit came in a finalizer or a callback of the garbage collector, which drop it."""
    if isinstance(dropped.exc_value, SystemExit) and dropped.exc_value.code in _ENDS:
        threading.Timer(0.05, os.kill, (os.getpid(), _ENDS[dropped.exc_value.code])).start()
    else:
        sys.__unraisablehook__(dropped)


@contextmanager
def threads(num_threads: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Provide threads for a block. If an exception ends the block, do not wait for threads that still read.

    A read may never end, for example on a network mount that is gone. `end_process` then ends the process anyway.
    """
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix=_THREADS)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def end_process(code: int) -> NoReturn:
    """End this process; wait at most 2 s for blocked threads of `threads`."""
    deadline = time.monotonic() + _MOMENT_S
    for thread in threading.enumerate():
        if thread.name.startswith(_THREADS):
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                logging.shutdown()
                for stream in (sys.stdout, sys.stderr):
                    with suppress(OSError, ValueError):
                        stream.flush()
                os._exit(code)
    sys.exit(code)


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """Have Ctrl-C, SIGTERM or SIGHUP in the block end this process with 130, 143 or 129, as `end_process` does."""
    exit_on_signals()
    try:
        yield
    except KeyboardInterrupt:
        end_process(130)
    except SystemExit as end:
        if is_exit_on_signal(end):
            end_process(int(str(end.code)))
        raise


@contextmanager
def ended_after(*parts: Callable[[], None]) -> Iterator[None]:
    """Call every function after the block, in this order, even if some fail; the first error is raised."""
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
    """Kill this process and its children as soon as its parent has ended; on Linux even if they hang or are stopped."""
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
