"""Waits for what is away for a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from cnn_sweeps.errors import OutageError

Result = TypeVar("Result")

PATIENCE_S = 60.0
"""How long a restart may take, by default."""
_LONGEST_PAUSE_S = 5.0


def patiently(act: Callable[[], Result], say: Callable[[str], None], patience_s: float | None = None) -> Result:
    """Do something; if it meets an outage, again and again, with longer and longer pauses.

    Args:
        act: leaves nothing behind if it fails.
        say: is told once that there is something to wait for.
        patience_s: of the whole wait; None: PATIENCE_S.

    Raises:
        OutageError: the last one, once the time is over.
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
    """Says when to ask again for something that is away, so seldom that asking takes a small share of the time."""

    _LARGEST_SHARE, _SHORTEST_PAUSE_S = 0.05, 1.0

    def __init__(self) -> None:
        """Have nothing away yet."""
        self._next_try = 0.0

    @property
    def is_over(self) -> bool:
        """Whether it is time to ask."""
        return time.monotonic() >= self._next_try

    @contextmanager
    def noting_outages(self) -> Iterator[None]:
        """Ask in the block; if it meets an outage, do not ask again for some time."""
        started = time.monotonic()
        try:
            yield
        except OutageError:
            ended = time.monotonic()
            self._next_try = ended + max(self._SHORTEST_PAUSE_S, (ended - started) / self._LARGEST_SHARE)
            raise
