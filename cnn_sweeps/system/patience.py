"""Waits for servers, databases and disks that are away for a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from cnn_sweeps.errors import OutageError

Result = TypeVar("Result")

PATIENCE_S = 60.0
"""How long to wait by default: a server may restart in this time."""
_LONGEST_PAUSE_S = 5.0


def patiently(act: Callable[[], Result], say: Callable[[str], None], patience_s: float | None = None) -> Result:
    """Call `act`; while it raises an OutageError, try again after longer and longer pauses (0.5 s to 5 s).

    Args:
        act: what to do; it must leave nothing behind if it fails.
        say: gets one message when the waiting begins.
        patience_s: the longest time to wait; None: PATIENCE_S.

    Raises:
        OutageError: the last one, when the time is over.
    """
    patience_s = PATIENCE_S if patience_s is None else patience_s
    deadline, pause_s = time.monotonic() + patience_s, 0.5
    while True:
        try:
            return act()
        except OutageError as error:
            if time.monotonic() + pause_s > deadline:
                raise
            if pause_s == 0.5:
                say(f"waiting up to {patience_s:.0f} s: {error}")
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


class Backoff:
    """Says when to ask a store again after an outage; asking takes at most 5 % of the time."""

    _LARGEST_SHARE, _SHORTEST_PAUSE_S = 0.05, 1.0

    def __init__(self) -> None:
        """Start without an outage."""
        self._next_try = 0.0

    @property
    def is_over(self) -> bool:
        """Whether it is time to ask."""
        return time.monotonic() >= self._next_try

    @contextmanager
    def noting_outages(self) -> Iterator[None]:
        """Ask in the block; after an OutageError, `is_over` stays false for some time."""
        started = time.monotonic()
        try:
            yield
        except OutageError:
            ended = time.monotonic()
            self._next_try = ended + max(self._SHORTEST_PAUSE_S, (ended - started) / self._LARGEST_SHARE)
            raise
