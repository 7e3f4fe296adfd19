"""The controller of a sweep: runs its steps in order, and ends all its parts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial

from cnn_sweeps.errors import OutageError, StudyError, SweepError
from cnn_sweeps.sweep.confirming import describe_confirmation, open_confirmation
from cnn_sweeps.sweep.console import Console
from cnn_sweeps.sweep.failures import no_success
from cnn_sweeps.sweep.jobs.choice import choose_executor
from cnn_sweeps.sweep.jobs.executor import POLL_S, Executor
from cnn_sweeps.sweep.loop import TrialLoop
from cnn_sweeps.sweep.plan import SweepPlan, prepare_sweep
from cnn_sweeps.sweep.study.definition import describe_study
from cnn_sweeps.sweep.study.ledger import senseless_attributes, unsearched
from cnn_sweeps.sweep.study.study import SweepStudy
from cnn_sweeps.system.ends import ended_after
from cnn_sweeps.text.commands import command_to_repeat, describe_command
from cnn_sweeps.text.numbers import counted


def run_sweep(
    arguments: Sequence[str], hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
) -> list[FrozenTrial]:
    """Run or continue a sweep; return the completed trials, best first.

    Args:
        arguments: the command line's overrides, without those of Hydra itself.
        hydra_context: composes configurations.
        task_function: returns the objective, or several, of a composed configuration.
        config: composed for the whole sweep.

    Raises:
        UserError: before the first trial, for whatever the user can fix; or because too many trials failed.
        KeyboardInterrupt: after Ctrl-C, once the running trials are done, if the sweep has not finished.
    """
    plan = prepare_sweep(arguments, hydra_context.config_loader, config)

    def build_launcher(function: TaskFunction) -> Launcher:
        return Plugins.instance().instantiate_launcher(hydra_context, function, config)

    is_n_jobs_given = plan.settings.n_jobs is not None
    executor = choose_executor(build_launcher, task_function, plan.jobs_ahead, is_n_jobs_given=is_n_jobs_given)
    with ExitStack() as undone:
        undone.callback(executor.close)
        study = SweepStudy(plan.space, plan.settings, plan.total, plan.shared_settings)
        controller = Controller(study, plan, executor, Console(plan, _make_folder(config)))
        undone.pop_all()  # from here on the controller closes it
    return controller.run()


def _make_folder(config: DictConfig) -> Path:
    """Make the sweep's folder, with the composed configuration in it.

    Raises:
        StudyError: if the folder cannot be written.
    """
    folder = Path(config.hydra.sweep.dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(config, folder / "multirun.yaml")
    except OSError as error:
        raise StudyError(
            f"hydra.sweep.dir={folder}: the folder cannot be written ({error.strerror}); name another one"
        ) from error
    return folder


class Controller:
    """Runs a sweep from beginning to end: its trials, the report, the test of the best ones."""

    def __init__(self, study: SweepStudy, plan: SweepPlan, executor: Executor, console: Console) -> None:
        """Open nothing yet; `timeout_s` counts from here."""
        self._study, self._plan, self._executor, self._console = study, plan, executor, console
        self._loop = TrialLoop(study, plan, executor, console)
        self._interruption = self._loop.interruption
        self._status: Literal["FINISHED", "KILLED", "FAILED"] = "FAILED"
        self._confirmation: SweepStudy | None = None

    def run(self) -> list[FrozenTrial]:
        """Run the sweep, and end all its parts; return the ranking."""
        end = self._plan.application.end
        with ended_after(self._executor.close, self._loop.abandon, lambda: end(self._status), self._console.close):
            try:
                self._begin()
                with self._interruption.in_order():
                    ranking = self._run_and_report()
                self._status = "FINISHED" if self._is_over else "KILLED"
            except (KeyboardInterrupt, SystemExit):
                self._status = "KILLED"
                raise
            except OutageError as error:
                raise type(error)(f"{error}: {self._command_to_go_on}") from error
        if self._interruption.is_asked_for and not self._is_over:
            raise KeyboardInterrupt
        return ranking

    def _begin(self) -> None:
        plan, study, say = self._plan, self._study, self._console.say
        self._executor.open(say)
        about = describe_study(plan.settings, plan.space)
        command = command_to_repeat(describe_command([], multirun=True), plan.overrides)
        study.total += self._num_of_other_points()
        is_few = plan.num_points is not None and plan.num_points < plan.total
        points = counted(plan.num_points or 0, "point")
        few = f"; the search space has {points}, and each runs once" if is_few else ""
        place = about["storage"].removeprefix(f"{Path.cwd()}/")
        say(f"{counted(plan.total, 'trial')} of {about['search space']}{few}; the study is in {place}")
        plan.application.begin(study, about | {"command": command}, self._console.folder, say)
        study.enqueue(plan.points)
        if study.is_changed and study.ledger.num_started >= study.total:
            more = "" if plan.is_grid else "set a larger hydra.sweeper.n_trials, or "
            had = f"and had {study.ledger.num_started} before the change"
            told = f"the study is for {counted(study.total, 'trial')}, {had}"
            say(f"nothing is left to run: {told}; {more}choose another hydra.sweeper.study_name")
        elif ended := study.ledger.counts["COMPLETE"] + study.ledger.counts["PRUNED"]:
            more = "; a larger hydra.sweeper.n_trials adds some" if ended >= study.total and not plan.is_grid else ""
            say(f"going on: {ended} of {counted(study.total, 'trial')} ended before{more}")
        for trial in study.trials:
            if wrong := senseless_attributes(trial):
                say(f"trial {trial.number}: its {' and '.join(wrong)} make no sense, and are ignored")

    def _num_of_other_points(self) -> int:
        """Count the trials from before a change that are no points of the grid: the whole grid runs beside them."""
        if not self._plan.is_grid:
            return 0
        study, searched = self._study, self._plan.space.distributions
        started = [trial for trial in study.trials if trial.state.name in ("COMPLETE", "PRUNED", "RUNNING")]
        return sum(
            trial.params.keys() != searched.keys() or bool(unsearched(trial, searched))
            for trial in [*study.failed, *started]
        )

    @property
    def _is_over(self) -> bool:
        """Whether the study has its total, or its time is over and no trial is running."""
        return self._has_total or (self._loop.is_time_over and not self._study.ledger.counts["RUNNING"])

    @property
    def _has_total(self) -> bool:
        studies = [self._study] if self._confirmation is None else [self._study, self._confirmation]
        return all(each.ledger.num_started - each.ledger.counts["RUNNING"] >= each.total for each in studies)

    @property
    def _command_to_go_on(self) -> str:
        return describe_command([*self._plan.overrides, f"hydra.sweeper.study_name={self._study.name}"], multirun=True)

    def _run_and_report(self) -> list[FrozenTrial]:
        """Run trials, report on them, and test the best ones; return the ranking."""
        stopped: SweepError | None = None
        confirmed: list[FrozenTrial] = []
        try:
            self._loop.run(self._study, self._plan)
            if self._is_over:
                confirmed = self._confirm()
        except SweepError as error:
            stopped = error
        marked = self._plan.application.rank(self._study, confirmed)
        ranking = [each.trial for each in marked]
        self._console.report(self._study, marked)
        try:
            if stopped is not None:
                raise stopped
            if self._is_over and not ranking:
                raise no_success(self._study, self._plan.settings)
            if self._is_over:
                self._finish()
        finally:
            best, to_go_on = ranking[0] if ranking else None, "" if self._has_total else self._command_to_go_on
            self._console.say_commands(best, to_go_on, self._plan.application.describe_next())
        return ranking

    def _confirm(self) -> list[FrozenTrial]:
        """Run the trials again that the application asks for; return the completed runs."""
        if (wanted := self._plan.application.to_confirm(self._study)) is None:
            return []
        self._confirmation, plan = open_confirmation(self._study, self._plan, wanted)
        if (told := describe_confirmation(self._study, self._confirmation, self._executor.num_slots)) is not None:
            self._console.say(told)
        self._loop.run(self._confirmation, plan)
        return self._confirmation.ranking()

    def _finish(self) -> None:
        """Test the best trials once no other controller is doing so; others may claim trials meanwhile."""
        is_waiting_told = False
        while True:
            with self._interruption.allowed():
                with self._study.selecting() as is_free:
                    if is_free:
                        for line in self._plan.application.finish(self._study, self._executor):
                            self._console.say(line)
                        return
                if self._interruption.is_asked_for:
                    raise KeyboardInterrupt
                if not is_waiting_told:
                    self._console.say("waiting while another controller tests the best trials; Ctrl-C stops waiting")
                is_waiting_told = True
                time.sleep(POLL_S)
