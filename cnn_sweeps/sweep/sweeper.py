"""The controller of a sweep: asks the study for trials, keeps every slot busy, tells what became of each."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.errors import InstantiationException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_method, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict, read_write
from optuna.trial import FrozenTrial, Trial, TrialState

from cnn_sweeps.errors import ConfigError, SweepError
from cnn_sweeps.sweep.application import SweepApplication
from cnn_sweeps.sweep.executors import BatchExecutor, Executor, WorkerExecutor
from cnn_sweeps.sweep.outcome import INTERRUPTED, Outcome, read_outcome
from cnn_sweeps.sweep.progress import (
    Progress,
    describe_command,
    describe_counts,
    describe_ranking,
    describe_trial,
)
from cnn_sweeps.sweep.settings import DEFAULT_NUM_TRIALS, SweepSettings, check_settings
from cnn_sweeps.sweep.space import SearchSpace, extreme_values, find_value, override_text, parse_search_space
from cnn_sweeps.sweep.study import SweepStudy, describe_study

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
        KeyboardInterrupt: after Ctrl-C, once the running trials are done.
    """
    given = OmegaConf.to_container(config.hydra.overrides, resolve=False)
    assert isinstance(given, dict)
    overrides = [*given["hydra"], *given["task"]]
    _pin_study(config)
    settings = check_settings(OmegaConf.to_container(config.hydra.sweeper, resolve=True))  # type: ignore[arg-type]
    loader = hydra_context.config_loader
    is_preset_chosen = any(override.startswith("search=") for override in overrides)
    arguments = [argument for argument in arguments if not argument.startswith("search=")]
    space = parse_search_space(arguments, settings.params, loader, is_preset_chosen=is_preset_chosen)
    extend = _load_extension(settings, space, config)
    points = _points_to_try_first(settings, space, extend is not None)
    application = _build_application(settings)
    kept_settings = _check_trials(space, application, loader, config, settings.direction)

    folder = Path(config.hydra.sweep.dir)
    total = settings.n_trials or DEFAULT_NUM_TRIALS
    launcher = _build_launcher(settings, hydra_context, task_function, config)
    study = SweepStudy(space, settings, total, kept_settings)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / "multirun.yaml")
    progress = Progress(folder / "sweep.log")
    executor = _open_executor(launcher, settings)
    sweep = _Sweep(study, space, settings, executor, application, progress, folder, extend)
    status = "FAILED"
    try:
        about = describe_study(settings, space)
        application.begin(study, about, folder)
        study.enqueue(points or _current_point(space, loader, config))
        progress.say(f"study {study.name} in {about['storage']}: {total} trials of {about['search space']}")
        with _signals_end_in_order(sweep):
            sweep.run()
            ranking = _report(sweep, application, folder, overrides)
        status = "KILLED" if sweep.is_stopping else "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        progress.close()
        executor.close()
        sweep.abandon_running_trials()
        application.end(status)
    if sweep.is_stopping:
        raise KeyboardInterrupt
    return ranking


def _pin_study(config: DictConfig) -> None:
    """Write name and storage of the study into the configuration, from which every job composes its own again."""
    sweeper = config.hydra.sweeper
    if sweeper.study_name is None:
        _pin(config, "study_name", f"sweep_{datetime.now().astimezone():%Y-%m-%d_%H-%M-%S-%f}")
    storage = sweeper.storage or f"studies/{sweeper.study_name}.journal"
    if isinstance(storage, str) and "://" not in storage:
        _pin(config, "storage", str(Path(storage).absolute()))


def _pin(config: DictConfig, key: str, value: str) -> None:
    with read_write(config), open_dict(config):
        config.hydra.sweeper[key] = value
        quoted = QuotedString(value, Quote.single).with_quotes()
        config.hydra.overrides.hydra.append(f"hydra.sweeper.{key}={quoted}")


def _load_extension(settings: SweepSettings, space: SearchSpace, config: DictConfig) -> Callable[[Trial], None] | None:
    if settings.custom_search_space is None:
        if not space.distributions:
            raise ConfigError(
                "nothing to search; name values, e.g. model.l2=1e-4,1e-3, or an interval, "
                "e.g. 'model.l2=tag(log,interval(1e-6,1e-2))', or choose a preset with search=..."
            )
        return None
    try:
        extend = get_method(settings.custom_search_space)
    except Exception as error:
        raise ConfigError(
            f"hydra.sweeper.custom_search_space={settings.custom_search_space}: cannot be imported "
            f"({' '.join(str(error).split())}); give the dotted path of a function of a configuration and a trial"
        ) from error
    return lambda trial: extend(config, trial)


def _points_to_try_first(settings: SweepSettings, space: SearchSpace, is_extended: bool) -> list[dict[str, Any]]:
    """Give the grid, if the sweep is one, and what the user enqueues; set the number of trials of a grid."""
    points = [_known_point(index, point, space) for index, point in enumerate(settings.enqueue)]
    is_grid_asked = str(settings.sampler.get("_target_")).endswith(".GridSampler")
    if is_grid_asked:
        settings.sampler = {"_target_": "optuna.samplers.RandomSampler"}  # never asked: every point is enqueued
    num_points = space.num_points
    is_small_enough = num_points is not None and num_points <= (settings.n_trials or num_points)
    if is_grid_asked or (space.is_named and is_small_enough and not is_extended):
        points += list(space.grid())
        settings.n_trials = min(settings.n_trials or len(points), len(points))
    return points


def _known_point(index: int, point: dict[str, Any], space: SearchSpace) -> dict[str, Any]:
    known = {}
    for key, value in point.items():
        if key not in space.distributions:
            raise ConfigError(
                f"hydra.sweeper.enqueue[{index}].{key}: is not searched; "
                f"allowed: {', '.join(space.distributions) or 'nothing'}"
            )
        try:
            known[key] = find_value(value, space.distributions[key])
        except ValueError as error:
            raise ConfigError(
                f"hydra.sweeper.enqueue[{index}].{key}: {error}; change it or the search space"
            ) from error
    return known


def _current_point(space: SearchSpace, loader: ConfigLoader, config: DictConfig) -> list[dict[str, Any]]:
    """Give the configuration as it stands, if it is a point of the space."""
    composed = loader.load_sweep_config(config, list(space.fixed))
    point = {}
    for key, distribution in space.distributions.items():
        current = composed.hydra.runtime.choices.get(key) or OmegaConf.select(composed, key.lstrip("+"))
        if isinstance(current, (DictConfig, ListConfig)):
            current = OmegaConf.to_container(current, resolve=True)
        try:
            point[key] = find_value(current, distribution)
        except ValueError:
            return []
    return [point] if point else []


def _build_application(settings: SweepSettings) -> SweepApplication:
    if settings.application is None:
        return SweepApplication()
    try:
        application = instantiate(settings.application)
    except InstantiationException as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ConfigError(f"hydra.sweeper.application: cannot be built ({reason})") from error
    if not isinstance(application, SweepApplication):
        raise ConfigError(
            f"hydra.sweeper.application._target_={settings.application.get('_target_')}: is no SweepApplication"
        )
    return application


def _check_trials(
    space: SearchSpace,
    application: SweepApplication,
    loader: ConfigLoader,
    config: DictConfig,
    directions: Sequence[str],
) -> dict[str, Any]:
    """Compose and check each key's first and, one at a time, other values; give the settings that all share."""
    extremes = {key: extreme_values(distribution) for key, distribution in space.distributions.items()}
    first = {key: values[0] for key, values in extremes.items()}
    points = [first, *({**first, key: value} for key, values in extremes.items() for value in values[1:])]
    for point in points:
        overrides = [*(override_text(key, value) for key, value in point.items()), *space.fixed]
        composed = loader.load_sweep_config(config, overrides)
        with read_write(composed), open_dict(composed):
            del composed["hydra"]
        settings = application.check(composed, directions)
    kept = {key: value for key, value in settings.items() if not _is_searched(key, space)}
    return kept | {"overrides": sorted(space.fixed)} if not settings else kept


def _is_searched(key: str, space: SearchSpace) -> bool:
    """Tell whether a setting follows from what is searched: itself, a part of it, or of a group that is chosen."""
    names = [name.lstrip("+").partition("@")[0].replace("/", ".") for name in space.distributions]
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _build_launcher(
    settings: SweepSettings, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
) -> Launcher:
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=hydra_context, task_function=task_function, config=config
    )
    if settings.trial_timeout_s is not None and not hasattr(launcher, "open_workers"):
        raise ConfigError(
            f"hydra.sweeper.trial_timeout_s={settings.trial_timeout_s}: a {type(launcher).__name__} cannot end a job; "
            "use hydra/launcher=workers"
        )
    return launcher


def _open_executor(launcher: Launcher, settings: SweepSettings) -> Executor:
    open_workers = getattr(launcher, "open_workers", None)
    if open_workers is not None:
        return WorkerExecutor(open_workers(settings.n_jobs), settings.n_jobs, settings.trial_timeout_s)
    is_serial = isinstance(launcher, BasicLauncher)
    return BatchExecutor(launcher, 1 if is_serial else settings.n_jobs)


@contextmanager
def _signals_end_in_order(sweep: _Sweep) -> Iterator[None]:
    """Let the first Ctrl-C finish running trials, and a second one, or SIGTERM, leave through all `finally` clauses."""

    def on_ctrl_c(_number: int, _frame: FrameType | None) -> None:
        if sweep.is_stopping:
            raise KeyboardInterrupt
        sweep.stop()

    def on_end(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    handlers: dict[int, Callable[[int, FrameType | None], None]] = {signal.SIGINT: on_ctrl_c}
    handlers |= {end: on_end for end in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(end) == signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Sweep:
    """The trials that this controller has under way."""

    def __init__(
        self,
        study: SweepStudy,
        space: SearchSpace,
        settings: SweepSettings,
        executor: Executor,
        application: SweepApplication,
        progress: Progress,
        folder: Path,
        extend: Callable[[Trial], None] | None,
    ) -> None:
        self.study, self.space, self.executor, self.progress = study, space, executor, progress
        self.is_stopping = False
        self._settings, self._application, self._folder, self._extend = settings, application, folder, extend
        self._running: dict[int, tuple[Trial, Future[JobReturn]]] = {}
        self._started = self._recorded = time.monotonic()
        self._shown = 0.0
        self._last_failures: list[str] = []

    def run(self) -> None:
        """Run trials until the study has its total, the time is over, or Ctrl-C was pressed."""
        self._recover()
        while True:
            self._fill_slots()
            self._show()
            if self._running:
                self.executor.wait(_POLL_S)
                self._collect()
            elif self._may_go_on() and self.study.ledger.counts["RUNNING"]:
                time.sleep(_POLL_S)  # another controller's trials, which may yet be left to this one
                self._recover()
            else:
                return

    def stop(self) -> None:
        """Start no more trials."""
        self.is_stopping = True
        self.progress.say(f"finishing {len(self._running)} running trials; press Ctrl-C again to stop them now")

    def abandon_running_trials(self) -> None:
        """Tell what was under way as interrupted, to be tried again when the sweep is continued."""
        trials = [self.study.tell(trial, INTERRUPTED) for trial, _ in self._running.values()]
        self._running = {}
        if trials:
            self._application.close_lost(trials)

    def _may_go_on(self) -> bool:
        limit_s = self._settings.timeout_s
        is_time_left = limit_s is None or time.monotonic() - self._started < limit_s
        return is_time_left and not self.is_stopping

    def _recover(self) -> None:
        if recovered := self.study.recover():
            self._application.close_lost(recovered)
            for trial in recovered:
                self.progress.say(describe_trial(trial))

    def _fill_slots(self) -> None:
        while len(self._running) < self.executor.num_slots and self._may_go_on():
            trial = self.study.claim()
            if trial is None:
                return
            self._start(trial)

    def _start(self, trial: Trial) -> None:
        never_run: Future[JobReturn] = Future()
        self._running[trial.number] = (trial, never_run)
        if self._extend is not None:
            self._extend(trial)
        original = self.study.finished_duplicate(trial) if self._settings.deterministic else None
        if original is not None:
            self._application.record_duplicate(trial, original)
            told = self.study.tell_duplicate(trial, original)
            del self._running[trial.number]
            self.progress.say(describe_trial(told))
            return
        overrides = [*(override_text(key, value) for key, value in trial.params.items()), *self.space.fixed]
        self._running[trial.number] = (trial, self.executor.submit(overrides, trial.number))

    def _collect(self) -> None:
        for trial, future in [job for job in self._running.values() if job[1].done()]:
            try:
                result: JobReturn | BaseException = future.exception() or future.result()
            except CancelledError as error:
                result = error
            outcome = read_outcome(result, len(self._settings.direction))
            told = self.study.tell(trial, outcome)
            del self._running[trial.number]
            if outcome.traceback:
                self._keep_traceback(result, trial.number, outcome.traceback)
            if not isinstance(result, JobReturn):
                self._application.close_lost([told])
            self.progress.say(describe_trial(told))
            self._check_failures(outcome)
        if time.monotonic() - self._recorded > _RECORD_EVERY_S:
            self._application.update(self.study)
            self._recorded = time.monotonic()

    def _keep_traceback(self, result: JobReturn | BaseException, number: int, text: str) -> None:
        folder = self._folder / str(number)
        if isinstance(result, JobReturn) and result.hydra_cfg is not None:
            folder = Path(result.hydra_cfg.hydra.runtime.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.txt").write_text(text, encoding="utf-8", errors="backslashreplace")

    def _check_failures(self, outcome: Outcome) -> None:
        """Stop the sweep if its failures show that going on makes no sense."""
        limit = self._settings.max_identical_failures
        self._last_failures = [*self._last_failures, outcome.failure_id][-limit:]
        if outcome.failure_id and self._last_failures == [outcome.failure_id] * limit:
            self.progress.say(outcome.traceback.rstrip())
            raise SweepError(
                f"{limit} trials in a row failed at the same place ({outcome.error}); correct the cause and give the "
                f"same command with hydra.sweeper.study_name={self.study.name}, or raise "
                "hydra.sweeper.max_identical_failures"
            )
        num_failed, rate = self.study.ledger.counts["FAIL"], self._settings.max_failure_rate
        if outcome.state == TrialState.FAIL and num_failed > rate * self.study.total:
            self.progress.say(outcome.traceback.rstrip())
            raise SweepError(
                f"{num_failed} of {self.study.total} trials failed, more than "
                f"hydra.sweeper.max_failure_rate={rate} allows; the last one: {outcome.error}"
            )

    def _show(self) -> None:
        if time.monotonic() - self._shown < _SHOW_EVERY_S:
            return
        self._shown, ledger = time.monotonic(), self.study.ledger
        left = self.study.total - ledger.num_started + ledger.counts["RUNNING"]
        mean_s = ledger.total_duration_s / ledger.num_durations if ledger.num_durations else None
        left_s = None if mean_s is None else left * mean_s / self.executor.num_slots
        self.progress.show(ledger.counts, self.study.total, ledger.best, left_s)


def _report(sweep: _Sweep, application: SweepApplication, folder: Path, overrides: Sequence[str]) -> list[FrozenTrial]:
    """Say what came out, and leave it in `optimization_results.yaml`."""
    study, say = sweep.study, sweep.progress.say
    ranking, num_objectives = study.ranking(), len(study.optuna_study.directions)
    say(f"{describe_counts(study.ledger.counts)}; the study has {study.total} trials")
    is_over = study.ledger.num_started - study.ledger.counts["RUNNING"] >= study.total
    if not is_over:
        kept = [each for each in overrides if not each.startswith(("hydra.mode=", "hydra.sweeper.study_name="))]
        say(f"To go on:\n  {describe_command([*kept, f'hydra.sweeper.study_name={study.name}'], [], multirun=True)}")
    if not ranking:
        say("no trial completed; the reasons are above and in the trials' folders")
        return ranking
    say(describe_ranking(ranking, num_objectives))
    best = [override_text(key, value) for key, value in ranking[0].params.items()]
    say(f"The best configuration, to run by itself:\n  {describe_command(best, sweep.space.fixed)}")
    _write_results(ranking, num_objectives, folder / "optimization_results.yaml")
    if is_over:
        for line in application.finish(study, sweep.executor):
            say(line)
    return ranking


def _write_results(ranking: list[FrozenTrial], num_objectives: int, file: Path) -> None:
    results: dict[str, Any] = {"name": "optuna"}
    if num_objectives == 1:
        results |= {"best_params": ranking[0].params, "best_value": ranking[0].value, "best_trial": ranking[0].number}
    else:
        results["solutions"] = [{"params": trial.params, "values": list(trial.values)} for trial in ranking]
    OmegaConf.save(OmegaConf.create(results), file)
