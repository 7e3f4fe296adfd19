"""A study that several controllers share: the living recover the trials of the dead."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from cnn_sweeps.sweep.study import ledger
from cnn_sweeps.sweep.study.address import StudyAddress
from cnn_sweeps.sweep.study.heartbeat import Listener
from cnn_sweeps.sweep.study.storage import controllers_lock, selection_lock
from cnn_sweeps.system.owners import owner_state

SET_ASIDE = "set_aside"  # user attribute of a study: numbers of failed trials that count as tried again

_OWNERLESS_GRACE = timedelta(seconds=60)  # without a lock, a new trial's owner may be about to sign


class SharedStudy:
    """Recovers the trials of controllers that died."""

    def __init__(self, optuna_study: optuna.Study, address: StudyAddress) -> None:
        """Take Optuna's study and its address."""
        self.optuna_study, self._address = optuna_study, address
        self._listener = Listener()

    @property
    def name(self) -> str:
        """The study's name."""
        return self.optuna_study.study_name

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials by number; do not change them."""
        return self.optuna_study.get_trials(deepcopy=False)

    def exclusively(self) -> AbstractContextManager[bool]:
        """Make the study's other controllers wait while the block runs, if the storage has a lock."""
        return controllers_lock(self._address)

    def selecting(self) -> AbstractContextManager[bool]:
        """Keep other controllers from testing the best trials during the block; False if one of them is doing so."""
        return selection_lock(self._address)

    @property
    def _set_aside(self) -> list[int]:
        return ledger.numbers_in(self.optuna_study.user_attrs.get(SET_ASIDE))

    def recover(self, dead_hosts: Collection[str] = ()) -> list[FrozenTrial]:
        """Fail the running trials of dead controllers, and queue them again as new ones; return the failed trials.

        All controllers on a host in `dead_hosts` count as dead. Those on other hosts that cannot be seen count as dead
        when they are silent.
        """
        with self.exclusively():
            running = [trial for trial in self.trials if trial.state == TrialState.RUNNING]
            elsewhere = [trial for trial in running if owner_state(ledger.owner_of(trial)) == "elsewhere"]
            silent = self._listener.silent(elsewhere, self.optuna_study.user_attrs if elsewhere else {})
            causes = {trial.number: "its controller has stopped giving signs of life" for trial in silent}
            abandoned = [trial for trial in running if is_abandoned(trial, self._address, dead_hosts)]
            causes |= {trial.number: "its controller died" for trial in abandoned}
            recovered = [self._fail_and_queue_again(self._frozen(number), cause) for number, cause in causes.items()]
            self._queue_what_is_left_to_retry()
        return recovered

    def _queue_what_is_left_to_retry(self) -> None:
        trials, set_aside = self.trials, self._set_aside
        tried_again = set(map(ledger.retry_of, trials))
        for trial in trials:
            if ledger.is_to_be_retried(trial, set_aside) and trial.number not in tried_again:
                self._queue_again(trial, 0 if trial.number in set_aside else ledger.attempt_of(trial.user_attrs))

    def _fail_and_queue_again(self, trial: FrozenTrial, error: str, *, is_lost: bool = False) -> FrozenTrial:
        """Work in an order that loses nothing, and does nothing twice, if this process is killed in between."""
        storage = self.optuna_study._storage
        storage.set_trial_user_attr(trial._trial_id, ledger.RETRIED, value=True)
        storage.set_trial_user_attr(trial._trial_id, ledger.ERROR, error)
        if trial.number not in map(ledger.retry_of, self.trials):
            self._queue_again(trial, ledger.attempt_of(trial.user_attrs) + is_lost)
        return self._tell(trial.number, TrialState.FAIL, None)

    def _queue_again(self, trial: FrozenTrial, attempt: int) -> None:
        attributes = {ledger.RETRY_OF: trial.number, ledger.ATTEMPT: attempt}
        self.optuna_study.enqueue_trial(ledger.known_params(trial), attributes)

    def _tell(self, trial: Trial | int, state: TrialState, values: list[float] | None) -> FrozenTrial:
        return self.optuna_study.tell(trial, values, state, skip_if_finished=True)

    def _frozen(self, trial: Trial | int) -> FrozenTrial:
        return self.trials[trial if isinstance(trial, int) else trial.number]


def is_abandoned(trial: FrozenTrial, address: StudyAddress, dead_hosts: Collection[str] = ()) -> bool:
    """Return whether a trial is running and its controller is dead; the caller holds the controllers' lock."""
    if trial.state != TrialState.RUNNING:
        return False
    state = owner_state(ledger.owner_of(trial), dead_hosts)
    if state != "unknown":
        return state == "dead"
    if trial.datetime_start is None:
        return True
    started = trial.datetime_start.astimezone()  # Optuna gives local times
    return address.has_lock or datetime.now(UTC) - started > _OWNERLESS_GRACE
