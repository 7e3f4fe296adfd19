"""Signs of life of running trials, for controllers on other hosts, which cannot see whether a process lives."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from datetime import UTC, datetime

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

HEARTBEAT = "heartbeat"  # user attribute of a trial: UTC, for people; no clocks are compared
EVERY_S = 30.0
_SILENT_AFTER = 5  # beats that were missed


class Heartbeat:
    """Writes the time to the trials that this process runs, again and again, while there are any."""

    def __init__(self, storage: BaseStorage) -> None:
        """Have no trials yet."""
        self._storage = storage
        self._trial_ids: set[int] = set()
        self._changes = threading.Lock()
        self._is_beating = False

    def begin(self, trial_id: int) -> None:
        """Write the first sign of a trial, and go on."""
        self._beat(trial_id)
        with self._changes:
            self._trial_ids.add(trial_id)
            if not self._is_beating:
                self._is_beating = True
                threading.Thread(target=self._go_on, daemon=True, name="heartbeat").start()

    def end(self, trial_id: int) -> None:
        """Leave a trial."""
        with self._changes:
            self._trial_ids.discard(trial_id)

    def _go_on(self) -> None:
        while True:
            time.sleep(EVERY_S)
            with self._changes:
                trial_ids = list(self._trial_ids)
                self._is_beating = bool(trial_ids)
            if not trial_ids:
                return
            for trial_id in trial_ids:
                self._beat(trial_id)

    def _beat(self, trial_id: int) -> None:
        now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f} UTC"
        with suppress(Exception):  # a server that does not answer now may do so in time for the next beat
            try:
                self._storage.set_trial_user_attr(trial_id, HEARTBEAT, now)
            except UpdateFinishedTrialError:  # another controller took it over
                self.end(trial_id)


class Listener:
    """Tells which trials have been silent for as long as several beats, by its own clock alone."""

    def __init__(self) -> None:
        """Begin to listen."""
        self._heard: dict[int, tuple[str, float]] = {}
        self._last_look = -float("inf")

    def silent(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """Give those of the running trials that are silent, to be asked for at least once in a beat.

        After a longer break, as when the server was away for all, the counting begins anew.
        """
        now = time.monotonic()
        known = self._heard if now - self._last_look < EVERY_S else {}
        self._last_look, self._heard = now, {}
        for trial in trials:
            sign, before = trial.user_attrs.get(HEARTBEAT, ""), known.get(trial.number)
            self._heard[trial.number] = before if before is not None and before[0] == sign else (sign, now)
        return [trial for trial in trials if now - self._heard[trial.number][1] > EVERY_S * _SILENT_AFTER]
