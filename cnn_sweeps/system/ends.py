"""What has been begun is ended, all of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

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
