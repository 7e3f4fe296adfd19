"""The controller of a sweep: asks the study for trials, keeps every slot busy, tells what became of each."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial, Trial, TrialState

from cnn_sweeps.errors import OutageError, StudyOutageError, SweepError
from cnn_sweeps.sweep.console import Progress, describe_counts, describe_ranking, describe_trial
from cnn_sweeps.sweep.failures import FailureLimits
from cnn_sweeps.sweep.interruption import Interruption
from cnn_sweeps.sweep.jobs.executors import Executor, JobsAhead, choose_executor
from cnn_sweeps.sweep.jobs.outcome import INTERRUPTED, Outcome, read_outcome
from cnn_sweeps.sweep.plan import SweepPlan, make_folder, prepare_sweep
from cnn_sweeps.sweep.space import override_text
from cnn_sweeps.sweep.study.definition import describe_study
from cnn_sweeps.sweep.study.ledger import RETRIED, error_of, owner_of, senseless_attributes
from cnn_sweeps.sweep.study.storage import describe_storage, is_only_here
from cnn_sweeps.sweep.study.study import SweepStudy
from cnn_sweeps.system.output import outlive_display
from cnn_sweeps.system.patience import Backoff, patiently
from cnn_sweeps.text.commands import command_to_repeat, describe_command

log = logging.getLogger(__name__)

_RECORD_EVERY_S = 5.0
_SHOW_EVERY_S = 0.5
_POLL_S = 1.0


def run_sweep(
    arguments: Sequence[str], hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
) -> list[FrozenTrial]:
    """Run or continue a sweep; give the completed trials, best first.

    Args:
        arguments: the command line's overrides, without those of Hydra itself.
        hydra_context: composes configurations.
        task_function: gives the objective, or several, of a composed configuration.
        config: composed for the whole sweep.

    Raises:
        UserError: for whatever the user can fix, before the first trial; or because too many trials failed.
        KeyboardInterrupt: after Ctrl-C, once the running trials are done, if that leaves some to do.
    """
    outlive_display()
    plan = prepare_sweep(arguments, hydra_context.config_loader, config)

    def build_launcher(function: TaskFunction) -> Launcher:
        return Plugins.instance().instantiate_launcher(hydra_context, function, config)

    executor = choose_executor(build_launcher, task_function, _jobs_ahead(plan))
    with _ended_after(executor.close):
        return _run_plan(plan, executor, config)


@contextmanager
def _ended_after(*parts: Callable[[], None]) -> Iterator[None]:
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


def _run_plan(plan: SweepPlan, executor: Executor, config: DictConfig) -> list[FrozenTrial]:
    study = SweepStudy(plan.space, plan.settings, plan.total, plan.kept_settings)
    folder = make_folder(config)
    progress = Progress(folder / "sweep.log")
    sweep = _Sweep(study, plan, executor, progress, folder)
    status: Literal["FINISHED", "KILLED", "FAILED"] = "FAILED"
    parts = [progress.close, executor.close, sweep.abandon_running_trials, lambda: plan.application.end(status)]
    with _ended_after(*parts):
        try:
            executor.open(progress.say)
            about = describe_study(plan.settings, plan.space)
            command = command_to_repeat(describe_command([], multirun=True), plan.overrides)
            plan.application.begin(study, about | {"command": command}, folder)
            study.enqueue(plan.points)
            progress.say(f"study {study.name} in {about['storage']}: {plan.total} trials of {about['search space']}")
            with sweep.interruption.in_order():
                ranking = sweep.run()
            status = "FINISHED" if sweep.is_over else "KILLED"
        except (KeyboardInterrupt, SystemExit):
            status = "KILLED"
            raise
        except OutageError as error:
            raise type(error)(f"{error}: {sweep.command_to_go_on}") from error
    if sweep.interruption.is_asked_for and not sweep.is_over:
        raise KeyboardInterrupt
    return ranking


def _jobs_ahead(plan: SweepPlan) -> JobsAhead:
    settings, only_here = plan.settings, plan.application.only_here()
    if isinstance(settings.storage, str) and is_only_here(settings.storage):
        setting = f"hydra.sweeper.storage={describe_storage(settings.storage)}"
        fix = "name a database that both reach, e.g. postgresql+psycopg://USER@HOST/studies"
        only_here = [(setting, fix), *only_here]
    return JobsAhead(
        settings.n_jobs,
        at_most=plan.total,
        timeout_s=settings.trial_timeout_s,
        prepare=plan.application.prepare_worker,
        only_here=only_here,
    )


class _Sweep:
    """The trials that this controller has under way."""

    def __init__(
        self, study: SweepStudy, plan: SweepPlan, executor: Executor, progress: Progress, folder: Path
    ) -> None:
        self.interruption = Interruption()
        self._failure_limits = FailureLimits(plan.settings)
        self._study, self._plan, self._settings = study, plan, plan.settings
        self._executor, self._progress, self._folder, self._application = executor, progress, folder, plan.application
        self._running: dict[int, tuple[Trial, Future[JobReturn]]] = {}
        self._duplicates: list[tuple[Trial, FrozenTrial]] = []  # with what they repeat; not recorded yet
        self._backoff, self._is_outage_told = Backoff(), False
        self._started = self._recorded = time.monotonic()
        self._shown = 0.0
        self._is_waiting_told = False

    @property
    def is_over(self) -> bool:
        """Whether the study has its total, or the time for it is over, and no trial is running."""
        return self._has_total or (self._is_time_over and not self._study.ledger.counts["RUNNING"])

    @property
    def _has_total(self) -> bool:
        ledger = self._study.ledger
        return ledger.num_started - ledger.counts["RUNNING"] >= self._study.total

    @property
    def _is_time_over(self) -> bool:
        limit_s = self._settings.timeout_s
        return limit_s is not None and time.monotonic() - self._started >= limit_s

    def run(self) -> list[FrozenTrial]:
        """Run trials until the study has its total, the time is over, or Ctrl-C was pressed; give the ranking."""
        try:
            self._run_trials()
        except SweepError:
            self._say_commands(self._report())
            raise
        ranking = self._report()
        try:
            if self.is_over:
                self._check_success(ranking)
                self._finish()
        finally:
            self._say_commands(ranking)
        return ranking

    def _finish(self) -> None:
        """Have the best trials tested as soon as no other controller does so; others may claim trials meanwhile."""
        is_waiting_told = False
        while True:
            with self._interruptible():
                with self._study.selecting() as is_free:
                    if is_free:
                        for line in self._application.finish(self._study, self._executor):
                            self._progress.say(line)
                        return
                if self.interruption.is_asked_for:
                    raise KeyboardInterrupt
                if not is_waiting_told:
                    self._progress.say("waiting for another controller, which tests the best trials; Ctrl-C ends it")
                is_waiting_told = True
                time.sleep(_POLL_S)

    def _check_success(self, ranking: list[FrozenTrial]) -> None:
        """See that a trial has completed; those that failed are tried again when the sweep is continued."""
        if ranking:
            return
        counts, failed = self._study.ledger.counts, self._study.failed
        self._study.set_aside([trial.number for trial in failed])
        if failed:
            last = f"the last failure: {error_of(failed[-1]) or 'not known'}; "
            advice = f"{last}correct the cause and give the same command, which tries them again, with"
        elif counts["PRUNED"]:
            advice = "choose a more patient hydra/sweeper/pruner, and a larger hydra.sweeper.n_trials, to go on with"
        else:
            advice = f"give it more time than hydra.sweeper.timeout_s={self._settings.timeout_s} to go on with"
        raise SweepError(
            f"no trial completed: {describe_counts(counts)}; {advice} hydra.sweeper.study_name={self._study.name}"
        )

    def _run_trials(self) -> None:
        for trial in self._study.trials:
            if wrong := senseless_attributes(trial):
                self._progress.say(f"trial {trial.number}: its {' and '.join(wrong)} make no sense, and are not read")
        self._say_news()  # of a study that goes on
        self._recover()
        while True:
            self._fill_slots()
            self._record_duplicates()
            self._show()
            if self._running or self._lacks_slots():
                with self._interruptible():
                    self._executor.wait(_POLL_S)
                self._collect()
            elif self._duplicates:
                with self._interruptible():
                    patiently(self._record_first_duplicate, self._progress.say)
            elif self._may_go_on() and self._study.ledger.counts["RUNNING"]:
                self._wait_for_others()
            else:
                return

    def _lacks_slots(self) -> bool:
        """Tell whether there are trials to start and no place to run them, for now."""
        is_all_started = self._study.ledger.num_started >= self._study.total
        return self._executor.num_slots == 0 and not is_all_started and self._may_go_on()

    def _wait_for_others(self) -> None:
        """Wait for another controller's trials, which may yet be left to this one."""
        if not self._is_waiting_told:
            running = [trial for trial in self._study.trials if trial.state == TrialState.RUNNING]
            owners = [owner_of(trial) for trial in running]
            where = {f"{owner.get('owner.host')}, process {owner.get('owner.pid')}" for owner in owners}
            self._progress.say(f"waiting for {len(running)} trials of {'; '.join(sorted(where))}; Ctrl-C ends it")
            self._is_waiting_told = True
        with self._interruptible():
            time.sleep(_POLL_S)
        self._recover()

    def _interruptible(self) -> AbstractContextManager[None]:
        return self.interruption.allowed(self._say_what_is_finished)

    def _say_what_is_finished(self) -> None:
        running = len(self._running)
        self._progress.say(f"finishing {running} running trials; press Ctrl-C again to stop them now")

    def abandon_running_trials(self) -> None:
        """Tell what was under way as interrupted, to be tried again when the sweep is continued."""
        under_way = [*self._running.values(), *self._duplicates]
        with suppress(OutageError):  # who goes on with the study finds them left
            if trials := [self._study.tell(trial, INTERRUPTED) for trial, _ in under_way]:
                self._application.close_lost(trials)

    def _may_go_on(self) -> bool:
        return not self._is_time_over and not self.interruption.is_asked_for

    def _recover(self) -> None:
        if recovered := self._study.recover():
            self._application.close_lost(recovered)
            for trial in recovered:
                self._progress.say(describe_trial(trial))

    def _fill_slots(self) -> None:
        while len(self._running) < self._executor.num_slots and self._may_go_on():
            trial = self._study.claim()
            if trial is None:
                return
            if isinstance(trial, FrozenTrial):
                self._progress.say(describe_trial(trial))
            else:
                self._start(trial)

    def _start(self, trial: Trial) -> None:
        never_run: Future[JobReturn] = Future()
        self._running[trial.number] = (trial, never_run)
        if self._plan.extend is not None and (refused := self._study.extend(trial, self._plan.extend)) is not None:
            del self._running[trial.number]
            self._progress.say(describe_trial(refused))
            return
        original = self._study.finished_duplicate(trial) if self._settings.deterministic else None
        if original is not None:
            self._duplicates.append((trial, original))
            del self._running[trial.number]
            self._record_duplicates()
            return
        overrides = [*(override_text(key, value) for key, value in trial.params.items()), *self._plan.space.fixed]
        self._running[trial.number] = (trial, self._executor.submit(overrides, trial.number))

    def _record_duplicates(self) -> None:
        """Record and tell what repeats finished trials; while the record cannot be written, it waits for that."""
        while self._duplicates and self._backoff.is_over:
            try:
                with self._backoff.noting_outages():
                    self._record_first_duplicate()
            except StudyOutageError:
                raise
            except OutageError as error:
                if not self._is_outage_told:
                    self._progress.say(f"{error}; trials that equal others wait for it, those that run go on")
                self._is_outage_told = True

    def _record_first_duplicate(self) -> None:
        trial, original = self._duplicates[0]
        self._application.record_duplicate(trial, original)
        told = self._study.tell_duplicate(trial, original)
        del self._duplicates[0]
        self._is_outage_told = False
        self._progress.say(describe_trial(told))

    def _collect(self) -> None:
        """Tell what became of the jobs that are done, all of them before anything else is made of it."""
        self._say_news()
        told = [self._tell(*job) for job in list(self._running.values()) if job[1].done()]
        for outcome, trial in told:
            self._check_failures(outcome, trial)
        if time.monotonic() - self._recorded > _RECORD_EVERY_S:
            self._application.update(self._study)
            self._recorded = time.monotonic()

    def _say_news(self) -> None:
        for line in self._application.news(self._study):
            self._progress.say(line)

    def _tell(self, trial: Trial, future: Future[JobReturn]) -> tuple[Outcome, FrozenTrial]:
        try:
            result: JobReturn | BaseException = future.exception() or future.result()
        except CancelledError as error:
            result = error
        outcome = read_outcome(result, len(self._settings.direction))
        told = self._study.tell(trial, outcome)
        del self._running[trial.number]
        if outcome.traceback:
            self._keep_traceback(result, trial.number, outcome.traceback)
        if not isinstance(result, JobReturn):
            self._application.close_lost([told])
        self._progress.say(describe_trial(told))
        return outcome, told

    def _keep_traceback(self, result: JobReturn | BaseException, number: int, text: str) -> None:
        folder = self._folder / str(number)
        if isinstance(result, JobReturn) and result.hydra_cfg is not None:
            folder = Path(result.hydra_cfg.hydra.runtime.output_dir)
        with suppress(OSError):  # of which the line that is shown says enough
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "error.txt").write_text(text, encoding="utf-8", errors="backslashreplace")

    def _check_failures(self, outcome: Outcome, trial: FrozenTrial) -> None:
        """Stop the sweep if going on makes no sense; its failures are tried again when it is continued."""
        is_retried, counts = bool(trial.user_attrs.get(RETRIED)), self._study.ledger.counts
        told = self._failure_limits.check(
            outcome, trial.number, is_retried=is_retried, counts=counts, total=self._study.total
        )
        if told is None:
            return
        every = [each.number for each in self._study.failed]
        self._study.set_aside(told.to_try_again if counts["COMPLETE"] else every)
        if outcome.traceback and not outcome.is_told:
            self._progress.say(outcome.traceback.rstrip())
        advice = f"correct the cause and give the same command with hydra.sweeper.study_name={self._study.name}"
        raise SweepError(f"{told.reason}; {advice}{told.or_else}")

    def _show(self) -> None:
        if time.monotonic() - self._shown < _SHOW_EVERY_S:
            return
        self._shown, ledger = time.monotonic(), self._study.ledger
        left = self._study.total - ledger.num_started + ledger.counts["RUNNING"]
        mean_s = ledger.total_duration_s / ledger.num_durations if ledger.num_durations else None
        left_s = None if mean_s is None else left * mean_s / max(1, self._executor.num_slots)
        self._progress.show(ledger.counts, self._study.total, ledger.best, left_s)

    @property
    def command_to_go_on(self) -> str:
        return describe_command([*self._plan.overrides, f"hydra.sweeper.study_name={self._study.name}"], multirun=True)

    def _report(self) -> list[FrozenTrial]:
        """Say what came out, and leave it in `optimization_results.yaml`; give the ranking."""
        study, say = self._study, self._progress.say
        ranking, num_objectives = study.ranking(), len(self._settings.direction)
        say(f"{describe_counts(study.ledger.counts)}; the study is for {study.total} trials")
        if not ranking:
            say("no trial completed; the reasons are above and in the trials' folders")
            return ranking
        say(describe_ranking(ranking, num_objectives))
        if self._application.about_ranking:
            say(self._application.about_ranking)
        _write_results(ranking, num_objectives, self._folder / "optimization_results.yaml")
        return ranking

    def _say_commands(self, ranking: list[FrozenTrial]) -> None:
        """Say, below all that came out, which commands go on from here."""
        if not self._has_total:
            self._progress.say(f"To go on:\n  {self.command_to_go_on}")
        if ranking:
            params = ranking[0].params
            searched = params.keys() if self._plan.extend else self._plan.space.distributions.keys()
            best = [override_text(key, value) for key, value in params.items() if key in searched]
            command = describe_command([*self._plan.space.fixed, *best])
            self._progress.say(f"The best configuration, to run by itself:\n  {command}")


def _write_results(ranking: list[FrozenTrial], num_objectives: int, file: Path) -> None:
    results: dict[str, Any] = {"name": "optuna"}
    if num_objectives == 1:
        results |= {"best_params": ranking[0].params, "best_value": ranking[0].value, "best_trial": ranking[0].number}
    else:
        results["solutions"] = [{"params": trial.params, "values": list(trial.values)} for trial in ranking]
    OmegaConf.save(OmegaConf.create(results), file)
