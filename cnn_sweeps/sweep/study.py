"""A study that several controllers may work on, one after another or at once, and that loses nothing when they die."""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from cnn_sweeps.errors import StudyError
from cnn_sweeps.owners import owner_state, owner_tags
from cnn_sweeps.sweep.definition import DEFINITION, define_study, settings_id_of, why_not_continued
from cnn_sweeps.sweep.heartbeat import Heartbeat, Listener
from cnn_sweeps.sweep.ledger import (
    ATTEMPT,
    DUPLICATE_OF,
    ERROR,
    OWNER,
    RETRIED,
    RETRY_OF,
    SETTINGS_ID,
    TrialLedger,
    has_settings,
    is_to_be_retried,
    point_key,
)
from cnn_sweeps.sweep.outcome import INTERRUPTED, Outcome
from cnn_sweeps.sweep.patient_storage import PatientStorage
from cnn_sweeps.sweep.samplers import build_pruner, build_sampler, check_sampler
from cnn_sweeps.sweep.settings import SweepSettings
from cnn_sweeps.sweep.space import SearchSpace
from cnn_sweeps.sweep.storage import controllers_lock, describe_storage, has_lock, open_storage, server_address

SET_ASIDE = "set_aside"  # of a study

_OWNERLESS_GRACE = timedelta(seconds=60)  # where no lock tells whether a new trial's owner is about to sign


class SweepStudy:
    """The study of one sweep: hands out trials, is told what became of them, recovers those of dead controllers."""

    def __init__(self, space: SearchSpace, settings: SweepSettings, total: int, kept_settings: dict[str, Any]) -> None:
        """Open the study, or make it.

        Args:
            space: what is searched.
            settings: name and storage of the study, sampler, pruner, directions, retries.
            total: number of trials of the study, those before included.
            kept_settings: what every trial has in common and its result depends on, by key.

        Raises:
            StudyError: if the storage cannot be used, or the study was made for another space, direction or settings.
            ConfigError: if sampler or pruner cannot be built.
        """
        assert settings.storage is not None
        assert settings.study_name is not None
        self._space, self._settings, self.total = space, settings, total
        self._storage = settings.storage
        definition = define_study(space, settings.direction, kept_settings)
        self._settings_id = settings_id_of(definition["settings"])
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        check_sampler(settings, space)
        pruner = build_pruner(settings.pruner)
        storage = open_storage(settings.storage)
        patient_storage = PatientStorage(storage, describe_storage(settings.storage))  # type: ignore[abstract]
        with self.exclusively():
            self.optuna_study = optuna.create_study(
                study_name=settings.study_name,
                storage=patient_storage,
                directions=_known_directions(patient_storage, settings.study_name) or settings.direction,
                pruner=pruner,
                load_if_exists=True,
            )
            self._check_definition(definition)
            self._ledger = self._new_ledger()
        is_shared = server_address(settings.storage) is not None  # else a file, which would grow with every beat
        self._heartbeat = Heartbeat(storage) if is_shared else None
        self._listener = Listener()

    def _new_ledger(self) -> TrialLedger:
        is_single = len(self._settings.direction) == 1
        return TrialLedger(
            minimize=self._settings.direction[0] == "minimize" if is_single else None,
            set_aside=self._set_aside,
            settings_id=self._settings_id,
        )

    def _check_definition(self, definition: dict[str, Any]) -> None:
        study = self.optuna_study
        before = study.user_attrs.get(DEFINITION)
        if before is None:  # a new study, or one that another program made
            before = definition | {"directions": [each.name.lower() for each in study.directions]}
        if reason := why_not_continued(before, definition, self._settings.on_change):
            raise StudyError(f"hydra.sweeper.study_name={study.study_name}: {reason}")
        if study.user_attrs.get(DEFINITION) != definition:
            study.set_user_attr(DEFINITION, definition)

    @property
    def name(self) -> str:
        """The study's name."""
        return self.optuna_study.study_name

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials by number; not to be changed."""
        return self.optuna_study.get_trials(deepcopy=False)

    def exclusively(self) -> AbstractContextManager[None]:
        """Keep the study's other controllers waiting while the block runs, if the storage has a lock."""
        assert self._settings.study_name is not None
        return controllers_lock(self._storage, self._settings.study_name)

    @property
    def _set_aside(self) -> list[int]:
        return list(self.optuna_study.user_attrs.get(SET_ASIDE, []))

    def set_aside(self, numbers: Sequence[int]) -> None:
        """Count failed trials no longer, and queue them again: their cause is to be corrected."""
        with self.exclusively():
            self.optuna_study.set_user_attr(SET_ASIDE, [*self._set_aside, *numbers])
            self._queue_what_is_left_to_retry()
        self._ledger = self._new_ledger()

    @property
    def ledger(self) -> TrialLedger:
        """What the trials add up to now."""
        self._ledger.read(self.trials)
        return self._ledger

    def enqueue(self, points: Iterable[dict[str, Any]]) -> None:
        """Queue the points that are not in the study yet, to be tried before the sampler is asked."""
        with self.exclusively():
            known = {point_key(_known_params(trial)) for trial in self.trials}
            known |= {point_key(_queued_params(trial)) for trial in self.trials}
            for point in points:
                if point_key(point) not in known:
                    self.optuna_study.enqueue_trial(point)
                    known.add(point_key(point))

    def claim(self) -> Trial | None:
        """Start the next trial and give it; None if as many as the study's total have been started."""
        while True:
            with self.exclusively():
                num_started = self.ledger.num_started
                if num_started >= self.total:
                    return None
                self.optuna_study.sampler = build_sampler(self._settings.sampler, num_started)
                trial = self._ask()
                try:
                    trial.set_user_attr(OWNER, owner_tags() | {SETTINGS_ID: self._settings_id})
                except UpdateFinishedTrialError:  # the lock ended with the server, and another controller failed it
                    continue
                if self.ledger.num_started <= self.total:
                    if self._heartbeat is not None:
                        self._heartbeat.begin(trial._trial_id)
                    return trial
                self._fail_and_queue_again(self._frozen(trial), "another controller was faster")
            time.sleep(random.uniform(0.1, 1.0))

    def _ask(self) -> Trial:
        try:
            return self.optuna_study.ask(self._space.distributions)
        except Exception as error:  # leave no trial behind that nobody runs
            for trial in self.trials:
                if trial.state == TrialState.RUNNING and OWNER not in trial.user_attrs:
                    self._fail_and_queue_again(trial, "the sampler failed")
            if isinstance(error, ValueError) and "distribution" in str(error):
                raise StudyError(
                    f"hydra.sweeper.study_name={self.name}: holds trials of another search space ({error}); "
                    "choose another hydra.sweeper.study_name"
                ) from error
            raise

    def finished_duplicate(self, trial: Trial) -> FrozenTrial | None:
        """Give a finished trial of the same parameters and settings, if there is one."""
        number = self.ledger.finished_with(trial.params)
        return None if number is None else self._frozen(number)

    def tell_duplicate(self, trial: Trial, original: FrozenTrial) -> FrozenTrial:
        """End the trial as the finished one that it repeats."""
        trial.set_user_attr(DUPLICATE_OF, original.number)
        if original.state == TrialState.PRUNED and original.last_step is not None:
            trial.report(original.intermediate_values[original.last_step], original.last_step)
        values = original.values if original.state == TrialState.COMPLETE else None
        return self._tell(trial, original.state, values)

    def tell(self, trial: Trial, outcome: Outcome) -> FrozenTrial:
        """End the trial; if it was lost, and not too often before, queue it again as a new one.

        What another controller has taken over meanwhile stays as it is.
        """
        if self._heartbeat is not None:
            self._heartbeat.end(trial._trial_id)
        if (known := self._frozen(trial)).state.is_finished():
            return known
        if outcome.error:
            trial.set_user_attr(ERROR, outcome.error[:2000])
        attempt = trial.user_attrs.get(ATTEMPT, 0)
        if outcome is INTERRUPTED or (outcome.is_lost and attempt < self._settings.max_retries):
            with self.exclusively():
                is_lost = outcome is not INTERRUPTED
                return self._fail_and_queue_again(self._frozen(trial), outcome.error, is_lost=is_lost)
        return self._tell(trial, outcome.state, outcome.values)

    def recover(self, dead_hosts: Collection[str] = ()) -> list[FrozenTrial]:
        """Fail the running trials whose controller is dead and queue them again as new ones; give them.

        Of a host in `dead_hosts` all controllers are taken to be dead; those of other hosts are once they are silent.
        """
        with self.exclusively():
            running = [trial for trial in self.trials if trial.state == TrialState.RUNNING]
            elsewhere = [trial for trial in running if owner_state(trial.user_attrs.get(OWNER, {})) == "elsewhere"]
            silent = self._listener.silent(elsewhere)
            causes = {trial.number: "its controller gives no sign of life any more" for trial in silent}
            abandoned = [trial for trial in running if is_abandoned(trial, self._storage, dead_hosts)]
            causes |= {trial.number: "its controller died" for trial in abandoned}
            recovered = [self._fail_and_queue_again(self._frozen(number), cause) for number, cause in causes.items()]
            self._queue_what_is_left_to_retry()
        return recovered

    def _queue_what_is_left_to_retry(self) -> None:
        trials, set_aside = self.trials, self._set_aside
        tried_again = {trial.user_attrs.get(RETRY_OF) for trial in trials}
        for trial in trials:
            if is_to_be_retried(trial, set_aside) and trial.number not in tried_again:
                self._queue_again(trial, 0 if trial.number in set_aside else trial.user_attrs.get(ATTEMPT, 0))

    def _fail_and_queue_again(self, trial: FrozenTrial, error: str, *, is_lost: bool = False) -> FrozenTrial:
        """In an order in which nothing is lost, or done twice, if this process is killed in between."""
        storage = self.optuna_study._storage
        storage.set_trial_user_attr(trial._trial_id, RETRIED, value=True)
        storage.set_trial_user_attr(trial._trial_id, ERROR, error)
        self._queue_again(trial, trial.user_attrs.get(ATTEMPT, 0) + is_lost)
        return self._tell(trial.number, TrialState.FAIL, None)

    def _queue_again(self, trial: FrozenTrial, attempt: int) -> None:
        if all(other.user_attrs.get(RETRY_OF) != trial.number for other in self.trials):
            self.optuna_study.enqueue_trial(_known_params(trial), {RETRY_OF: trial.number, ATTEMPT: attempt})

    def _tell(self, trial: Trial | int, state: TrialState, values: list[float] | None) -> FrozenTrial:
        try:
            return self.optuna_study.tell(trial, values, state, skip_if_finished=True)
        except RuntimeError as error:
            if "Study.stop" not in str(error):
                raise
        self.total = self.ledger.num_started  # a sampler that has tried everything asks to stop
        return self._frozen(trial)

    def _frozen(self, trial: Trial | int) -> FrozenTrial:
        return self.trials[trial if isinstance(trial, int) else trial.number]

    def ranking(self) -> list[FrozenTrial]:
        """Give the completed trials of these settings, best first; of several objectives the Pareto front alone."""
        signs = [1 if direction == "minimize" else -1 for direction in self._settings.direction]
        losses = {  # lower is better
            trial.number: [sign * value for sign, value in zip(signs, trial.values, strict=True)]
            for trial in self.trials
            if trial.state == TrialState.COMPLETE and has_settings(trial, self._settings_id)
        }
        if len(signs) > 1:
            every = list(losses.values())
            losses = {number: own for number, own in losses.items() if not any(_dominates(each, own) for each in every)}
        trials = self.trials
        return [trials[number] for number in sorted(losses, key=lambda number: (losses[number][0], number))]


def _dominates(losses: Sequence[float], others: Sequence[float]) -> bool:
    """Tell whether a trial is nowhere worse than another one, and somewhere better."""
    return losses != others and all(mine <= its for mine, its in zip(losses, others, strict=True))


def is_abandoned(trial: FrozenTrial, storage: str | dict[str, Any], dead_hosts: Collection[str] = ()) -> bool:
    """Tell whether a trial is running and its controller dead, as seen by who holds the controllers' lock."""
    if trial.state != TrialState.RUNNING:
        return False
    if OWNER in trial.user_attrs:
        return owner_state(trial.user_attrs[OWNER], dead_hosts) == "dead"
    assert trial.datetime_start is not None
    started = trial.datetime_start.astimezone()  # Optuna gives local times
    return has_lock(storage) or datetime.now(UTC) - started > _OWNERLESS_GRACE


def _known_directions(storage: optuna.storages.BaseStorage, name: str) -> Sequence[StudyDirection] | None:
    """Give the directions of the study if it exists, since Optuna refuses others before the difference can be told."""
    for study in optuna.get_all_study_summaries(storage, include_best_trial=False):
        if study.study_name == name:
            return study.directions
    return None


def _known_params(trial: FrozenTrial) -> dict[str, Any]:
    """Give what is known of a trial's parameters, whether it was suggested or only queued."""
    return _queued_params(trial) | trial.params


def _queued_params(trial: FrozenTrial) -> dict[str, Any]:
    fixed: dict[str, Any] = trial.system_attrs.get("fixed_params", {})
    return fixed
