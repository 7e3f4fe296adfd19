"""A process that is asked to end does so as after an error, so that what it has begun is closed and removed."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_ENDS = {128 + end: end for end in (signal.SIGTERM, signal.SIGHUP)}  # by exit code


def exit_on_signals() -> None:
    """Exit with 143 on SIGTERM and 129 on SIGHUP."""
    for end in _ENDS.values():
        if signal.getsignal(end) is not signal.SIG_IGN:  # as under nohup
            signal.signal(end, _exit_on_signal)
    sys.unraisablehook = _exit_again


def is_exit_on_signal(error: BaseException) -> bool:
    """Tell whether an exception ends this process because of a signal, not because some code wants it."""
    return isinstance(error, SystemExit) and error.code in _ENDS


def _exit_on_signal(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _exit_again(dropped: UnraisableHookArgs) -> None:
    """Ask again for an exit that came in a finalizer or a callback of the garbage collector, where Python drops it."""
    code = dropped.exc_value.code if isinstance(dropped.exc_value, SystemExit) else None
    if code in _ENDS:
        threading.Timer(0.05, os.kill, (os.getpid(), _ENDS[code])).start()
    else:
        sys.__unraisablehook__(dropped)
