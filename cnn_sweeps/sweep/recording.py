"""The record that the application keeps of a sweep, while its trials run."""

from __future__ import annotations

import time
from collections.abc import Callable

from optuna.trial import FrozenTrial, Trial

from cnn_sweeps.errors import OutageError, StudyOutageError
from cnn_sweeps.sweep.application import SweepApplication
from cnn_sweeps.sweep.console import describe_trial
from cnn_sweeps.sweep.study.study import SweepStudy
from cnn_sweeps.system.patience import Backoff, patiently

_EVERY_S = 5.0


class Recording:
    """Keeps the record up to date, and no trial waiting for it but those that repeat others."""

    def __init__(self, application: SweepApplication, study: SweepStudy, say: Callable[[str], None]) -> None:
        """Have nothing to record yet."""
        self._application, self._study, self._say = application, study, say
        self._duplicates: list[tuple[Trial, FrozenTrial]] = []  # with what they repeat; not recorded yet
        self._backoff, self._is_outage_told = Backoff(), False
        self._updated = time.monotonic()

    @property
    def waiting(self) -> list[Trial]:
        """Trials that repeat others, and are told once that is recorded."""
        return [trial for trial, _ in self._duplicates]

    def update(self) -> None:
        """Say what is new, and now and then bring the record up to date."""
        for line in self._application.news(self._study):
            self._say(line)
        if time.monotonic() - self._updated > _EVERY_S:
            self._application.update(self._study)
            self._updated = time.monotonic()

    def add_duplicate(self, trial: Trial, original: FrozenTrial) -> None:
        """Take a trial that repeats a finished one."""
        self._duplicates.append((trial, original))
        self.tell_duplicates()

    def tell_duplicates(self) -> None:
        """Record and tell what repeats finished trials; while the record cannot be written, it waits for that."""
        while self._duplicates and self._backoff.is_over:
            try:
                with self._backoff.noting_outages():
                    self._tell_first()
            except StudyOutageError:
                raise
            except OutageError as error:
                if not self._is_outage_told:
                    self._say(f"{error}; trials that equal others wait for it, those that run go on")
                self._is_outage_told = True

    def wait_for_first(self) -> None:
        """Record and tell the first one that waits, as soon as that can be done."""
        patiently(self._tell_first, self._say)

    def _tell_first(self) -> None:
        trial, original = self._duplicates[0]
        self._application.record_duplicate(trial, original)
        told = self._study.tell_duplicate(trial, original)
        del self._duplicates[0]
        self._is_outage_told = False
        self._say(describe_trial(told))
