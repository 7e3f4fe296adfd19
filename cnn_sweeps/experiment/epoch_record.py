"""Keeps the finished epochs of a training while it goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from types import TracebackType

from cnn_sweeps.errors import DiskError, UserError
from cnn_sweeps.tracking.runs import EpochMetrics

log = logging.getLogger(__name__)


class EpochRecord:
    """Metrics go to the active MLflow run and the state to the checkpoint, of short epochs several at once.

    A context manager: when the block ends, the metrics of all epochs are recorded, also if it ends by an error or a
    signal. The checkpoint is then the last one that was saved: the network may be in the middle of the next epoch.
    """

    def __init__(self, save_checkpoint: Callable[[], None], max_share_of_time: float | None) -> None:
        """Write the first epoch at once, and later ones as often as takes this share of the time; None: each one."""
        self._save_checkpoint, self._max_share_of_time = save_checkpoint, max_share_of_time
        self._metrics = EpochMetrics()
        self._next_write = 0.0
        self._is_disk_full = False

    def __enter__(self) -> EpochRecord:
        """Begin."""
        return self

    def add(self, metrics: dict[str, float], epoch: int) -> None:
        """Take a finished epoch, counted from 1."""
        self._metrics.add(metrics, epoch)
        if time.monotonic() >= self._next_write:
            self._write()

    def _write(self) -> None:
        started = time.monotonic()
        self._keep()
        ended = time.monotonic()
        pause_s = (ended - started) / self._max_share_of_time if self._max_share_of_time is not None else 0
        self._next_write = ended + pause_s

    def _keep(self) -> None:
        try:
            self._metrics.write()
            self._save_checkpoint()
        except DiskError as error:
            if not self._is_disk_full:
                log.warning("%s; training goes on meanwhile, and could be resumed from an earlier epoch only", error)
            self._is_disk_full = True
        else:
            self._is_disk_full = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Write what is left."""
        with suppress(UserError) if error is not None else nullcontext():  # what ended the block is what is told
            self._metrics.write()
