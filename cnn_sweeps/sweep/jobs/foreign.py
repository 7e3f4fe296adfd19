"""Hydra's launchers that know nothing of this project: each slot has one of its own, so that none waits for another."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import TaskFunction

from cnn_sweeps.system.ends import is_exit_on_signal

_OF_A_CALL = ["hydra.sweep.subdir=selection", "hydra.job.chdir=false"]
BuildLauncher = Callable[[TaskFunction], Launcher]


class LauncherSlot:
    """Launches one job at a time."""

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
            (result,) = launcher.launch([list(overrides)], initial_job_idx=job_number)
        finally:
            self._is_busy = False
        return result

    def close(self) -> None:
        """Have the launcher end as by a signal, which comes to the main thread alone; some leave their jobs running."""
        if self._is_busy:
            thread_id, error = ctypes.c_ulong(self._thread_id), ctypes.py_object(SystemExit)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread_id, error)


class InThisProcess:
    """Hydra's basic launcher: a job is run as it is submitted, in the main thread, which gets the signals."""

    num_slots = 1

    def __init__(self, launcher: Launcher) -> None:
        """Take the launcher."""
        self._launcher = launcher

    def open(self, say: Callable[[str], None]) -> None:
        """Have nothing to begin."""

    def submit(self, overrides: Sequence[str], job_number: int) -> Future[JobReturn]:
        """Run a job."""
        return _done(lambda: self._launcher.launch([list(overrides)], initial_job_idx=job_number)[0])

    def call(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Call a function."""
        return _done(lambda: function(*arguments))

    def close(self) -> None:
        """Have nothing to end."""


def _done(act: Callable[[], Any]) -> Future[Any]:
    future: Future[Any] = Future()
    try:
        future.set_result(act())
    except (Exception, SystemExit) as error:  # a job's own, which ends that job
        if is_exit_on_signal(error):
            raise
        future.set_exception(error)
    return future
