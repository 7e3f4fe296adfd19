"""Chooses what runs a sweep's jobs: a launcher of this project, or any other launcher of Hydra in slots."""

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

_ONE_AT_A_TIME = "BasicLauncher"  # by name, since Hydra makes the class anew when it looks for plugins
_OF_A_CALL = ["hydra.sweep.subdir=selection", "hydra.job.chdir=false"]
BuildLauncher = Callable[[TaskFunction], Launcher]


def choose_executor(
    build_launcher: BuildLauncher, task_function: TaskFunction, jobs: JobsAhead, *, is_n_jobs_given: bool = True
) -> Executor:
    """Return the executor for the trials, not yet opened.

    Unless `is_n_jobs_given`, the launcher's usual number of jobs runs at once.

    Raises:
        UserError: if the launcher cannot do what the settings ask for.
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
            f"hydra.sweeper.trial_timeout_s={jobs.timeout_s}: a {kind} cannot end a job; use hydra/launcher=workers, "
            "or set no limit"
        )
    if jobs.n_jobs == "auto":
        raise ConfigError(
            f"hydra.sweeper.n_jobs=auto: a {kind} does not tell which machines run its jobs; "
            "set a number, or use hydra/launcher=workers"
        )
    if kind == _ONE_AT_A_TIME and jobs.n_jobs > 1:
        raise ConfigError(
            f"hydra.sweeper.n_jobs={jobs.n_jobs}: hydra/launcher=basic runs one trial at a time, in this process; "
            "set it to 1, or use hydra/launcher=workers"
        )
    number = min(jobs.n_jobs, jobs.at_most)
    slots = [LauncherSlot(build_launcher, task_function, number) for _ in range(number)]
    return InThisProcess(slots) if kind == _ONE_AT_A_TIME else SlotExecutor(slots)


class LauncherSlot:
    """A slot with a launcher from outside this project; each slot has its own, so that none waits for another."""

    def __init__(self, build_launcher: BuildLauncher, task_function: TaskFunction, num_slots: int) -> None:
        """Build a launcher for the jobs; `call` builds another one each time."""
        self._build, self._num_slots = build_launcher, num_slots
        self._launcher = self._build_one(task_function)
        self._thread_id, self._is_busy = 0, False

    def _build_one(self, function: TaskFunction) -> Launcher:
        launcher = self._build(function)
        if self._num_slots > 1 and isinstance(joblib := getattr(launcher, "joblib", None), dict):
            joblib["n_jobs"] = self._num_slots  # all slots share its processes; with 1 it would run jobs in this one
        return launcher

    def open(self) -> None:
        """Note the thread, in which launchers wait for their jobs."""
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
        """End the launcher as a signal does, which comes to the main thread only; some launchers leave jobs running."""
        if self._is_busy:
            thread_id, error = ctypes.c_ulong(self._thread_id), ctypes.py_object(SystemExit)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread_id, error)


class InThisProcess(SlotExecutor):
    """Hydra's basic launcher: `submit` runs the job, in the main thread, which gets the signals."""

    def open(self, say: Callable[[str], None]) -> None:
        """Start no thread."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Call a function."""
        return self._take(lambda _slot: function(*arguments))

    def _take(self, act: Callable[[Slot], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        settle(future, partial(act, self._slots[0]))
        error = future.exception()
        if isinstance(error, KeyboardInterrupt) or (error is not None and is_exit_on_signal(error)):
            raise error  # from a signal; an error of the job ends only that job
        return future
