"""The loop of a sweep: claims trials from the study, keeps every slot busy, and tells the study how each one ended."""

from __future__ import annotations

import math
import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from functools import partial

from hydra.core.utils import JobReturn
from optuna.trial import FrozenTrial, Trial, TrialState

from cnn_sweeps.errors import OutageError
from cnn_sweeps.sweep.console import Console, describe_trial
from cnn_sweeps.sweep.failures import FailureLimits, why_to_stop
from cnn_sweeps.sweep.interruption import Interruption
from cnn_sweeps.sweep.jobs.executor import POLL_S, Executor
from cnn_sweeps.sweep.jobs.outcome import INTERRUPTED, Outcome, read_outcome
from cnn_sweeps.sweep.plan import SweepPlan
from cnn_sweeps.sweep.study.ledger import owner_of, unsearched
from cnn_sweeps.sweep.study.study import SweepStudy
from cnn_sweeps.system.patience import patiently
from cnn_sweeps.text.numbers import counted

_UPDATE_EVERY_S = 5.0


class TrialLoop:
    """The trials that a controller is running, of one study at a time."""

    def __init__(self, study: SweepStudy, plan: SweepPlan, executor: Executor, console: Console) -> None:
        """Start no trial yet; `timeout_s` counts from here."""
        self._executor, self._console = executor, console
        self._turn_to(study, plan)
        self.interruption = Interruption(self._say_what_is_finished)
        self._starting: list[Trial] = []  # one, or none
        self._running: dict[Future[JobReturn], Trial] = {}
        self._is_waiting_told = False
        self._updated = time.monotonic()
        self._deadline = self._updated + (plan.settings.timeout_s or math.inf)

    def _turn_to(self, study: SweepStudy, plan: SweepPlan) -> None:
        self._study, self._plan = study, plan
        self._application, self._limits = plan.application, FailureLimits(plan.settings)

    @property
    def is_time_over(self) -> bool:
        """Whether no more trials may be started."""
        return time.monotonic() >= self._deadline

    def abandon(self) -> None:
        """Tell the study that the running trials were interrupted; they run again when the sweep goes on."""
        with suppress(OutageError):  # whoever goes on with the study recovers them
            under_way = [*self._starting, *self._running.values()]
            self._application.close_lost([self._study.tell(trial, INTERRUPTED) for trial in under_way])

    def run(self, study: SweepStudy, plan: SweepPlan) -> None:
        """Run trials until the study has its total, the time is over, or Ctrl-C was pressed."""
        self._turn_to(study, plan)
        self._update_record()
        self._recover()
        while True:
            self._fill_slots()
            self._console.show(self._study, self._executor.num_slots)
            if self._running:
                with self.interruption.allowed():
                    wait(self._running, POLL_S, FIRST_COMPLETED)
            elif self._may_start() and (self._lacks_slots() or self._study.ledger.counts["RUNNING"]):
                self._wait_for_others()
            else:
                return
            self._update_record()
            self._tell_what_is_done()

    def _may_start(self) -> bool:
        return not self.is_time_over and not self.interruption.is_asked_for

    def _lacks_slots(self) -> bool:
        """Return whether there are trials to start, but no slot to run them for now."""
        return self._executor.num_slots == 0 and self._study.ledger.num_started < self._study.total

    def _update_record(self) -> None:
        """Show news, and now and then update the application's record."""
        for line in self._application.news(self._study):
            self._console.say(line)
        if time.monotonic() - self._updated > _UPDATE_EVERY_S:
            self._application.update(self._study)
            self._updated = time.monotonic()

    def _fill_slots(self) -> None:
        while len(self._running) < self._executor.num_slots and self._may_start():
            if self._is_all_known():
                self._study.total = min(self._study.total, self._study.ledger.num_started)
            trial = self._study.claim()
            if trial is None:
                return
            if isinstance(trial, FrozenTrial):
                self._say_of(trial)
            else:
                self._starting = [trial]
                self._start(trial)
                self._starting = []

    def _start(self, trial: Trial) -> None:
        plan, study = self._plan, self._study
        if plan.extend is not None and (refused := study.extend(trial, plan.extend)) is not None:
            self._say_of(refused)
        elif plan.settings.deterministic and (original := study.finished_duplicate(trial)) is not None:
            with self.interruption.allowed():
                patiently(partial(self._application.record_duplicate, trial, original), self._console.say)
            self._say_of(study.tell_duplicate(trial, original))
        else:
            with self.interruption.allowed():  # a job may run here, in this process
                future = self._executor.submit(plan.space.overrides_of(trial.params), trial.number)
            self._running[future] = trial

    def _tell_what_is_done(self) -> None:
        """Tell the study how finished jobs ended; only after all are told, decide whether to stop."""
        told = [self._tell(future) for future in list(self._running) if future.done()]
        for outcome, trial in told:
            if (error := why_to_stop(self._limits, self._study, outcome, trial)) is not None:
                if outcome.traceback and not outcome.is_told:
                    self._console.say(outcome.traceback.rstrip())
                raise error

    def _tell(self, future: Future[JobReturn]) -> tuple[Outcome, FrozenTrial]:
        result = future.exception() or future.result()
        outcome = read_outcome(result, len(self._plan.settings.direction))
        told = self._study.tell(self._running[future], outcome)
        del self._running[future]
        if outcome.traceback:
            self._console.keep_traceback(result, told.number, outcome.traceback)
        if not isinstance(result, JobReturn):
            self._application.close_lost([told])
        self._say_of(told)
        return outcome, told

    def _wait_for_others(self) -> None:
        """Wait for a slot, or for trials of another controller: if that dies, this one runs them."""
        running = [trial for trial in self._study.trials if trial.state == TrialState.RUNNING]
        if running and not self._is_waiting_told:
            owners = [owner_of(trial) for trial in running]
            where = {f"{owner.get('owner.host')}, process {owner.get('owner.pid')}" for owner in owners}
            trials = counted(len(running), "trial")
            self._console.say(f"waiting for {trials} of {'; '.join(sorted(where))}; Ctrl-C stops waiting")
            self._is_waiting_told = True
        with self.interruption.allowed():
            time.sleep(POLL_S)
        self._recover()

    def _recover(self) -> None:
        recovered = self._study.recover()
        self._application.close_lost(recovered)
        for trial in recovered:
            self._say_of(trial)

    def _is_all_known(self) -> bool:
        """Return whether every point of the space has finished; show it if that happens before the study's total."""
        study, num_points, finished = self._study, self._plan.num_points, self._study.ledger.finished
        if num_points is None or num_points > len(finished):
            return False
        trials, searched = study.trials, self._plan.space.distributions
        if num_points > sum(not unsearched(trials[number], searched) for number in finished):
            return False
        if study.ledger.num_started < study.total:
            have = "the only point of the search space has"
            if num_points > 1:
                have = f"all {num_points:,} points of the search space have"
            self._console.say(f"{have} run; no further trial starts")
        return True

    def _say_of(self, trial: FrozenTrial) -> None:
        self._console.say(describe_trial(trial, self._plan.called))

    def _say_what_is_finished(self) -> None:
        num_running = len(self._running) + len(self._starting)
        if num_running:  # there are none while the best trials are tested, or while this waits for another controller
            self._console.say(f"finishing {counted(num_running, 'running trial')}; press Ctrl-C again to stop them now")
