"""The study of a sweep, on which several controllers may work, one after another or at once."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from cnn_sweeps.errors import StudyError, UserError
from cnn_sweeps.sweep.jobs.outcome import INTERRUPTED, Outcome
from cnn_sweeps.sweep.settings import SweepSettings
from cnn_sweeps.sweep.space import SearchSpace
from cnn_sweeps.sweep.study import definition, ledger
from cnn_sweeps.sweep.study.heartbeat import Heartbeat
from cnn_sweeps.sweep.study.ledger import TrialLedger
from cnn_sweeps.sweep.study.samplers import build_pruner, build_sampler, check_sampler
from cnn_sweeps.sweep.study.shared import SET_ASIDE, SharedStudy
from cnn_sweeps.sweep.study.storage import controllers_lock, open_storage
from cnn_sweeps.sweep.study.waiting import MARK, PatientStorage
from cnn_sweeps.system.owners import owner_tags


class SweepStudy(SharedStudy):
    """Hands out the trials of a sweep, records how they end, and recovers those of dead controllers."""

    def __init__(
        self, space: SearchSpace, settings: SweepSettings, total: int, shared_settings: dict[str, Any]
    ) -> None:
        """Open the study, or make it.

        Args:
            space: what is searched.
            settings: name and storage of the study, sampler, pruner, directions, retries.
            total: number of trials of the study, earlier ones included.
            shared_settings: settings that are equal in all trials, and that results depend on.

        Raises:
            StudyError: if the storage cannot be used, or the study was made for another space, direction or settings.
            ConfigError: if sampler or pruner cannot be built.
        """
        self._space, self._settings, self.total = space, settings, total
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        check_sampler(settings, space)
        pruner, address = build_pruner(settings.pruner), settings.address
        storage = open_storage(address)
        patient_storage = PatientStorage(storage, address.shown)  # type: ignore[abstract]
        known: dict[str, Any] = {"study_name": address.name, "storage": patient_storage, "pruner": pruner}
        with controllers_lock(address):
            try:  # create_study would refuse other directions before `_check_definition` can explain it
                study = optuna.load_study(**known)
            except KeyError:
                study = optuna.create_study(**known, directions=settings.direction, load_if_exists=True)
            super().__init__(study, address)
            defined = definition.define_study(space, settings.direction, shared_settings)
            self._check_definition(defined)
            ledger.check_trials(self.name, self.trials)
        self._settings_id = definition.settings_id_of(defined["settings"])
        minimize = settings.direction[0] == "minimize" if len(settings.direction) == 1 else None
        self._ledger = TrialLedger(minimize=minimize, settings_id=self._settings_id)
        self._heartbeat = Heartbeat(storage, study._study_id)

    def _check_definition(self, now: definition.StudyDefinition) -> None:
        study = self.optuna_study
        before = definition.read_definition(study, now)
        if reason := definition.why_not_continued(before, now, self._settings.on_change):
            raise StudyError(f"hydra.sweeper.study_name={self.name}: {reason}")
        self.is_changed = before != now
        if study.user_attrs.get(definition.DEFINITION) != now:
            study.set_user_attr(definition.DEFINITION, now)

    def set_aside(self, numbers: Sequence[int]) -> None:
        """Count failed trials as tried again, and queue them: the user will correct their cause."""
        with self.exclusively():
            self.optuna_study.set_user_attr(SET_ASIDE, [*self._set_aside, *numbers])
            self._queue_what_is_left_to_retry()

    @property
    def failed(self) -> list[FrozenTrial]:
        """The failed trials that no other trial repeats."""
        known = self._set_aside
        failed = [trial for trial in self.trials if trial.state == TrialState.FAIL]
        return [trial for trial in failed if not trial.user_attrs.get(ledger.RETRIED) and trial.number not in known]

    @property
    def ledger(self) -> TrialLedger:
        """The ledger of the study, up to date."""
        self._ledger.read(self.trials)
        return self._ledger

    def enqueue(self, points: Iterable[dict[str, Any]]) -> None:
        """Queue the points that are not in the study yet; they are tried before the sampler chooses."""
        with self.exclusively():
            looks = [look(trial) for trial in self.trials for look in (ledger.known_params, ledger.queued_params)]
            known = set(map(ledger.point_key, looks))
            for point in points:
                if (key := ledger.point_key(point)) not in known:
                    self.optuna_study.enqueue_trial(point)
                    known.add(key)

    def claim(self) -> Trial | FrozenTrial | None:
        """Start and return the next trial; None if the study's total has been started.

        A trial that somebody else has queued with values that this sweep does not search is returned as failed.
        """
        searched = self._space.distributions
        while True:
            with self.exclusively():
                num_started = self.ledger.num_started
                if num_started >= self.total:
                    return None
                if (refused := self._refuse_next()) is not None:
                    return refused
                self.optuna_study.sampler = build_sampler(self._settings.sampler, num_started)
                self._heartbeat.begin()  # before it owns a trial, so that no trial is without signs of life
                trial = self._ask()
                if self._drop_if_doubled(trial):
                    continue
                if trial.params.keys() - searched.keys():  # somebody queued it at this moment
                    return self._refuse(trial, ledger.unsearched(self._frozen(trial), searched))
                try:
                    trial.set_user_attr(ledger.OWNER, owner_tags() | {ledger.SETTINGS_ID: self._settings_id})
                except UpdateFinishedTrialError:  # the lock ended with the server, and another controller failed it
                    continue
                if self.ledger.num_started <= self.total:
                    return trial
                self._fail_and_queue_again(self._frozen(trial), "another controller was faster")
            time.sleep(random.uniform(0.1, 1.0))

    def _refuse_next(self) -> FrozenTrial | None:
        """Fail the next waiting trial, and return it, if the sweep does not search its parameters or values."""
        for trial in self.optuna_study.get_trials(deepcopy=False, states=(TrialState.WAITING,))[:1]:
            wrong = ledger.unsearched(trial, self._space.distributions)
            if wrong and self.optuna_study._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                return self._refuse(trial, wrong)
        return None

    def _refuse(self, trial: Trial | FrozenTrial, wrong: Sequence[str]) -> FrozenTrial:
        """Fail a trial that somebody else has queued: its parameters could become any overrides of a command."""
        reason = f"it was queued with {', '.join(wrong)}, which this sweep does not search"
        storage = self.optuna_study._storage
        storage.set_trial_user_attr(trial._trial_id, ledger.ERROR, f"{reason}; queue it without that"[:2000])
        return self._tell(trial.number, TrialState.FAIL, None)

    def extend(self, trial: Trial, suggest: Callable[[Trial], None]) -> FrozenTrial | None:
        """Let a function suggest further parameters; return the trial as failed if it was queued with wrong ones."""
        queued = self._frozen(trial).system_attrs.get("fixed_params", {})
        try:
            suggest(trial)
            frozen = self._frozen(trial)
            wrong = ledger.unsearched(frozen, frozen.distributions)
        except UserError:
            raise
        except Exception:  # Optuna or the user's function met such a value
            wrong = [f"{key}={queued[key]!r:.40}" for key in queued.keys() - self._space.distributions.keys()]
            if not wrong:
                raise
        return self._refuse(trial, wrong) if queued and wrong else None

    def _drop_if_doubled(self, trial: Trial) -> bool:
        """Fail a trial that Optuna has made twice, since the database's answer to the first request was lost."""
        mark = self._frozen(trial).system_attrs.get(MARK)
        first = next((each.number for each in self.trials if each.system_attrs.get(MARK) == mark), trial.number)
        if mark is None or first == trial.number:
            return False
        trial.set_user_attr(ledger.DUPLICATE_OF, first)
        trial.set_user_attr(ledger.RETRIED, value=True)
        trial.set_user_attr(ledger.ERROR, f"the request for trial {first} was sent twice")
        self._tell(trial, TrialState.FAIL, None)
        return True

    def _ask(self) -> Trial:
        try:
            return self.optuna_study.ask(dict(self._space.distributions))
        except Exception as error:  # else a trial would be left that nobody runs
            for trial in self.trials:
                if trial.state == TrialState.RUNNING and ledger.OWNER not in trial.user_attrs:
                    self._fail_and_queue_again(trial, "the sampler failed")
            if isinstance(error, ValueError) and "distribution" in str(error):
                raise StudyError(
                    f"hydra.sweeper.study_name={self.name}: the study holds trials of another search space ({error}); "
                    "choose another hydra.sweeper.study_name"
                ) from error
            raise

    def finished_duplicate(self, trial: Trial) -> FrozenTrial | None:
        """Return a finished trial with the same parameters and settings, if there is one."""
        number = self.ledger.finished_with(trial.params)
        return None if number is None else self._frozen(number)

    def tell_duplicate(self, trial: Trial, original: FrozenTrial) -> FrozenTrial:
        """End the trial in the same way as the finished one that it repeats."""
        trial.set_user_attr(ledger.DUPLICATE_OF, original.number)
        if original.state == TrialState.PRUNED and original.last_step is not None:
            trial.report(original.intermediate_values[original.last_step], original.last_step)
        values = original.values if original.state == TrialState.COMPLETE else None
        return self._tell(trial, original.state, values)

    def tell(self, trial: Trial, outcome: Outcome) -> FrozenTrial:
        """End the trial; if it was lost, and not too often before, queue it again as a new one.

        A trial that another controller has taken over stays as it is.
        """
        if (known := self._frozen(trial)).state.is_finished():
            return known
        if outcome.error:
            trial.set_user_attr(ledger.ERROR, outcome.error[:2000])
        is_left = outcome.is_lost and ledger.attempt_of(trial.user_attrs) < self._settings.max_retries
        if (is_interrupted := outcome is INTERRUPTED) or is_left:
            with self.exclusively():
                return self._fail_and_queue_again(self._frozen(trial), outcome.error, is_lost=not is_interrupted)
        return self._tell(trial, outcome.state, outcome.values)

    def _tell(self, trial: Trial | int, state: TrialState, values: list[float] | None) -> FrozenTrial:
        try:
            return super()._tell(trial, state, values)
        except RuntimeError as error:
            if "Study.stop" not in str(error):
                raise
            self.total = self.ledger.num_started  # the sampler has tried everything, and asks to stop
            return self._frozen(trial)

    def ranking(self) -> list[FrozenTrial]:
        """Return the completed trials with these settings, best first; for several objectives, the Pareto front."""
        signs = [1 if direction == "minimize" else -1 for direction in self._settings.direction]

        def losses(trial: FrozenTrial) -> list[float]:  # lower is better
            return [sign * value for sign, value in zip(signs, trial.values, strict=True)]

        completed = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        completed = [trial for trial in completed if ledger.has_settings(trial, self._settings_id)]
        completed.sort(key=lambda trial: (losses(trial)[0], trial.number))
        if len(signs) == 1:
            return completed
        every = [losses(trial) for trial in completed]
        is_beaten = [any(_dominates(each, own) for each in every) for own in every]
        return [trial for trial, beaten in zip(completed, is_beaten, strict=True) if not beaten]


def _dominates(losses: Sequence[float], others: Sequence[float]) -> bool:
    """Return whether a trial is better than another one in some objective, and worse in none."""
    return losses != others and all(mine <= its for mine, its in zip(losses, others, strict=True))
