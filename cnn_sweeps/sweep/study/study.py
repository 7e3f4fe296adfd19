"""A study that several controllers may work on, one after another or at once, and that loses nothing when they die."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from cnn_sweeps.errors import StudyError, UserError
from cnn_sweeps.sweep.jobs.outcome import INTERRUPTED, Outcome
from cnn_sweeps.sweep.settings import SweepSettings
from cnn_sweeps.sweep.space import SearchSpace
from cnn_sweeps.sweep.study.definition import (
    DEFINITION,
    check_definition,
    define_study,
    settings_id_of,
    why_not_continued,
)
from cnn_sweeps.sweep.study.heartbeat import Heartbeat
from cnn_sweeps.sweep.study.ledger import (
    DUPLICATE_OF,
    ERROR,
    OWNER,
    RETRIED,
    SETTINGS_ID,
    TrialLedger,
    attempt_of,
    check_trials,
    has_settings,
    known_params,
    point_key,
    queued_params,
    unsearched,
)
from cnn_sweeps.sweep.study.recovery import SET_ASIDE, SharedStudy
from cnn_sweeps.sweep.study.samplers import build_pruner, build_sampler, check_sampler
from cnn_sweeps.sweep.study.storage import controllers_lock, open_storage
from cnn_sweeps.sweep.study.waiting import MARK, PatientStorage
from cnn_sweeps.system.owners import owner_tags

_CLAIMING = "claiming"  # what the heartbeat is told instead of a trial that has no number yet


class SweepStudy(SharedStudy):
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
        self._space, self._settings, self.total = space, settings, total
        definition = define_study(space, settings.direction, kept_settings)
        self._settings_id = settings_id_of(definition["settings"])
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        check_sampler(settings, space)
        pruner = build_pruner(settings.pruner)
        address = settings.address
        storage = open_storage(address)
        patient_storage = PatientStorage(storage, address.shown)  # type: ignore[abstract]
        with controllers_lock(address):
            optuna_study = optuna.create_study(
                study_name=address.name,
                storage=patient_storage,
                directions=_known_directions(patient_storage, address.name) or settings.direction,
                pruner=pruner,
                load_if_exists=True,
            )
            super().__init__(optuna_study, address)
            self._check_definition(definition)
            check_trials(self.name, self.trials)
            self._ledger = TrialLedger(
                minimize=settings.direction == ["minimize"] if len(settings.direction) == 1 else None,
                settings_id=self._settings_id,
            )
        self._heartbeat = Heartbeat(storage, optuna_study._study_id)

    def _check_definition(self, definition: dict[str, Any]) -> None:
        study = self.optuna_study
        before = study.user_attrs.get(DEFINITION)
        if before is None:  # a new study, or one that another program made
            before = definition | {"directions": [each.name.lower() for each in study.directions]}
        check_definition(study.study_name, before)
        if reason := why_not_continued(before, definition, self._settings.on_change):
            raise StudyError(f"hydra.sweeper.study_name={study.study_name}: {reason}")
        if study.user_attrs.get(DEFINITION) != definition:
            study.set_user_attr(DEFINITION, definition)

    def set_aside(self, numbers: Sequence[int]) -> None:
        """Count failed trials no longer, and queue them again: their cause is to be corrected."""
        with self.exclusively():
            self.optuna_study.set_user_attr(SET_ASIDE, [*self._set_aside, *numbers])
            self._queue_what_is_left_to_retry()

    @property
    def failed(self) -> list[FrozenTrial]:
        """The failed trials that are not tried again as others."""
        known = self._set_aside
        failed = [trial for trial in self.trials if trial.state == TrialState.FAIL]
        return [trial for trial in failed if not trial.user_attrs.get(RETRIED) and trial.number not in known]

    @property
    def ledger(self) -> TrialLedger:
        """What the trials add up to now."""
        self._ledger.read(self.trials)
        return self._ledger

    def enqueue(self, points: Iterable[dict[str, Any]]) -> None:
        """Queue the points that are not in the study yet, to be tried before the sampler is asked."""
        with self.exclusively():
            known = {point_key(known_params(trial)) for trial in self.trials}
            known |= {point_key(queued_params(trial)) for trial in self.trials}
            for point in points:
                if point_key(point) not in known:
                    self.optuna_study.enqueue_trial(point)
                    known.add(point_key(point))

    def claim(self) -> Trial | FrozenTrial | None:
        """Start the next trial and give it; None if as many as the study's total have been started.

        One that somebody else has queued with what this sweep does not search is given failed.
        """
        try:
            return self._claim()
        finally:
            self._heartbeat.end(_CLAIMING)

    def _claim(self) -> Trial | FrozenTrial | None:
        while True:
            with self.exclusively():
                num_started = self.ledger.num_started
                if num_started >= self.total:
                    return None
                if (refused := self._refuse_next()) is not None:
                    return refused
                self.optuna_study.sampler = build_sampler(self._settings.sampler, num_started)
                self._heartbeat.begin(_CLAIMING)  # before it signs, so that no trial is without signs of life
                trial = self._ask()
                if self._drop_if_doubled(trial):
                    continue
                if trial.params.keys() - self._space.distributions.keys():  # it was queued this very moment
                    return self._refuse(self._frozen(trial), unsearched(self._frozen(trial), self._space.distributions))
                try:
                    trial.set_user_attr(OWNER, owner_tags() | {SETTINGS_ID: self._settings_id})
                except UpdateFinishedTrialError:  # the lock ended with the server, and another controller failed it
                    continue
                if self.ledger.num_started <= self.total:
                    self._heartbeat.begin(trial.number)
                    return trial
                self._fail_and_queue_again(self._frozen(trial), "another controller was faster")
            time.sleep(random.uniform(0.1, 1.0))

    def _refuse_next(self) -> FrozenTrial | None:
        """Fail the next waiting trial if its values would end the sampler, or its parameters be others."""
        waiting = self.optuna_study.get_trials(deepcopy=False, states=(TrialState.WAITING,))[:1]
        for trial in waiting:
            wrong = unsearched(trial, self._space.distributions)
            if wrong and self.optuna_study._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                return self._refuse(trial, wrong)
        return None

    def _refuse(self, trial: FrozenTrial, wrong: Sequence[str]) -> FrozenTrial:
        """End a trial that somebody else has queued: its parameters would become any overrides of a command."""
        reason = f"was queued in the study with {', '.join(wrong)}, which this command does not search"
        self.optuna_study._storage.set_trial_user_attr(trial._trial_id, ERROR, f"{reason}; queue it without"[:2000])
        return self._tell(trial.number, TrialState.FAIL, None)

    def extend(self, trial: Trial, suggest: Callable[[Trial], None]) -> FrozenTrial | None:
        """Have a function suggest further parameters; give the trial failed if it was queued with values of them that
        are not searched.
        """
        queued = self._frozen(trial).system_attrs.get("fixed_params", {})
        try:
            suggest(trial)
            frozen = self._frozen(trial)
            wrong = unsearched(frozen, frozen.distributions)
        except UserError:
            raise
        except Exception:  # of Optuna or of the user's function, which asks for such a value
            wrong = [f"{key}={queued[key]!r:.40}" for key in queued.keys() - self._space.distributions.keys()]
            if not wrong:
                raise
        return self._refuse(self._frozen(trial), wrong) if queued and wrong else None

    def _drop_if_doubled(self, trial: Trial) -> bool:
        """Fail a trial that Optuna has made a second time, since a database's answer to the first request was lost."""
        frozen, trials = self._frozen(trial), self.trials
        mark = frozen.system_attrs.get(MARK)
        first = next((each.number for each in trials if each.system_attrs.get(MARK) == mark), trial.number)
        if mark is None or first == trial.number:
            return False
        trial.set_user_attr(DUPLICATE_OF, first)
        trial.set_user_attr(RETRIED, value=True)
        trial.set_user_attr(ERROR, f"the request for trial {first} was sent twice")
        self._tell(trial, TrialState.FAIL, None)
        return True

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
        if (known := self._frozen(trial)).state.is_finished():
            self._heartbeat.end(trial.number)
            return known
        if outcome.error:
            trial.set_user_attr(ERROR, outcome.error[:2000])
        attempt = attempt_of(trial.user_attrs)
        if outcome is INTERRUPTED or (outcome.is_lost and attempt < self._settings.max_retries):
            with self.exclusively():
                is_lost = outcome is not INTERRUPTED
                return self._fail_and_queue_again(self._frozen(trial), outcome.error, is_lost=is_lost)
        return self._tell(trial, outcome.state, outcome.values)

    def _tell(self, trial: Trial | int, state: TrialState, values: list[float] | None) -> FrozenTrial:
        try:
            told = super()._tell(trial, state, values)
        except RuntimeError as error:
            if "Study.stop" not in str(error):
                raise
            self.total = self.ledger.num_started  # a sampler that has tried everything asks to stop
            told = self._frozen(trial)
        self._heartbeat.end(told.number)
        return told

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


def _known_directions(storage: optuna.storages.BaseStorage, name: str) -> Sequence[StudyDirection] | None:
    """Give the directions of the study if it exists, since Optuna refuses others before the difference can be told."""
    for study in optuna.get_all_study_summaries(storage, include_best_trial=False):
        if study.study_name == name:
            return study.directions
    return None
