"""What runs a sweep's jobs: what a launcher of this project plans, or any other launcher of Hydra's, a slot each."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import TaskFunction

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.sweep.jobs.executor import Executor, JobsAhead, Slot, SlotExecutor, settle
from cnn_sweeps.system.ends import is_exit_on_signal

_ONE_AT_A_TIME = "BasicLauncher"  # by name: Hydra, when it looks for plugins, makes the class anew
_OF_A_CALL = ["hydra.sweep.subdir=selection", "hydra.job.chdir=false"]
BuildLauncher = Callable[[TaskFunction], Launcher]


def choose_executor(
    build_launcher: BuildLauncher, task_function: TaskFunction, jobs: JobsAhead, *, is_n_jobs_given: bool = True
) -> Executor:
    """Give what is to run the trials, not yet opened; unless `is_n_jobs_given`, as many at once as the launcher likes.

    Raises:
        UserError: if the launcher cannot do what it is asked for.
    """
    launcher = build_launcher(task_function)
    if not is_n_jobs_given:
        jobs = replace(jobs, n_jobs=getattr(launcher, "usual_n_jobs", 1))
    if hasattr(launcher, "plan_executor"):
        executor: Executor = launcher.plan_executor(jobs)
        return executor
    kind = type(launcher).__name__
    if jobs.timeout_s is not None:
        raise ConfigError(
            f"hydra.sweeper.trial_timeout_s={jobs.timeout_s}: a {kind} cannot end a job; use hydra/launcher=workers"
        )
    if jobs.n_jobs == "auto":
        raise ConfigError(
            f"hydra.sweeper.n_jobs=auto: is not known where a {kind} runs jobs; "
            "give a number or use hydra/launcher=workers"
        )
    if kind == _ONE_AT_A_TIME and jobs.n_jobs > 1:
        raise ConfigError(
            f"hydra.sweeper.n_jobs={jobs.n_jobs}: hydra/launcher=basic runs one trial at a time, in this process; "
            "leave it at 1 or use hydra/launcher=workers"
        )
    number = min(jobs.n_jobs, jobs.at_most)
    slots = [LauncherSlot(build_launcher, task_function, number) for _ in range(number)]
    return InThisProcess(slots) if kind == _ONE_AT_A_TIME else SlotExecutor(slots)


class LauncherSlot:
    """A launcher that knows nothing of this project: each slot has one of its own, so that none waits for another."""

    def __init__(self, build_launcher: BuildLauncher, task_function: TaskFunction, num_slots: int) -> None:
        """Have a launcher for the jobs, and build another one for whatever else is called."""
        self._build, self._num_slots = build_launcher, num_slots
        self._launcher = self._build_one(task_function)
        self._thread_id, self._is_busy = 0, False

    def _build_one(self, function: TaskFunction) -> Launcher:
        launcher = self._build(function)
        if self._num_slots > 1 and isinstance(joblib := getattr(launcher, "joblib", None), dict):
            joblib["n_jobs"] = self._num_slots  # processes, which all share; with one it would run jobs in this process
        return launcher

    def open(self) -> None:
        """Know in which thread launchers wait for their jobs."""
        self._thread_id = threading.get_ident()

    def run(self, overrides: Sequence[str], job_number: int) -> JobReturn:
        """Launch a job."""
        return self._launch(self._launcher, overrides, job_number)

    def call(self, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        """Launch a job that calls a function."""
        return self._launch(self._build_one(lambda _config: function(*arguments)), _OF_A_CALL, 0).return_value

    def _launch(self, launcher: Launcher, overrides: Sequence[str], job_number: int) -> JobReturn:
        self._is_busy = True
        try:
            return launcher.launch([list(overrides)], initial_job_idx=job_number)[0]
        finally:
            self._is_busy = False

    def close(self) -> None:
        """Have the launcher end as by a signal, which comes to the main thread alone; some leave their jobs running."""
        if self._is_busy:
            thread_id, error = ctypes.c_ulong(self._thread_id), ctypes.py_object(SystemExit)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread_id, error)


class InThisProcess(SlotExecutor):
    """Hydra's basic launcher: a job is run as it is submitted, in the main thread, which gets the signals."""

    def open(self, say: Callable[[str], None]) -> None:
        """Have no thread to begin."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Call a function."""
        return self._take(lambda _slot: function(*arguments))

    def _take(self, act: Callable[[Slot], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        settle(future, partial(act, self._slots[0]))
        error = future.exception()
        if isinstance(error, KeyboardInterrupt) or (error is not None and is_exit_on_signal(error)):
            raise error  # a signal's; a job's own ends that job
        return future
