"""How signals, from a person or a job scheduler, end a sweep."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Signals that end a sweep: the first Ctrl-C lets running trials finish; all others end it at a safe moment."""

    def __init__(self, on_first: Callable[[], None]) -> None:
        """Take a function that is called at a safe moment after the first Ctrl-C."""
        self.is_asked_for = False
        self._on_first, self._is_answered = on_first, False
        self._is_allowed, self._signal = False, 0

    @contextmanager
    def in_order(self) -> Iterator[None]:
        """Handle the process's signals in the block; a first Ctrl-C only sets `is_asked_for`.

        Raises:
            KeyboardInterrupt: after a second Ctrl-C.
            SystemExit: after SIGTERM or SIGHUP, with 128 plus the signal's number.
        """
        if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
            yield
            return
        noted = [number for number in _ENDING_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # by nohup, e.g.
        before = {number: signal.signal(number, self._note) for number in noted}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Let a signal end the block at once: the block must not leave the study half-changed."""
        self._is_allowed = True
        try:
            if self._signal:
                self._interrupt()
            yield
        finally:
            self._is_allowed = False
            if self.is_asked_for and not self._is_answered:
                self._is_answered = True
                self._on_first()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and not self.is_asked_for:
            self.is_asked_for = True
            return
        self._signal = number
        if self._is_allowed:
            self._interrupt()

    def _interrupt(self) -> None:
        self._is_allowed = False
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + self._signal)
