"""The protocol of executors, which run a sweep's jobs, and an executor with slots, one thread for each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol

from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException

from cnn_sweeps.errors import SweepError, UserError
from cnn_sweeps.sweep.jobs.loss import is_lost_worker
from cnn_sweeps.sweep.settings import NumJobs
from cnn_sweeps.system.output import outlive_display

POLL_S = 0.5  # a signal may wait this long
_END_S = 10.0
_NUM_CALLS = 3  # tries of a function whose worker is lost each time


@dataclass(frozen=True)
class JobsAhead:
    """The jobs that an executor must be able to run.

    Attributes:
        n_jobs: jobs at once; "auto": as many as the machines allow.
        at_most: number of all jobs.
        timeout_s: seconds after which a job is ended; None: no limit.
        worker_module: module that each process imports before its first job.
        only_here: settings whose values jobs on other machines cannot use, each with what to set instead.
    """

    n_jobs: NumJobs
    at_most: int
    timeout_s: float | None = None
    worker_module: str | None = None
    only_here: Sequence[tuple[str, str]] = ()


class Executor(Protocol):
    """Runs jobs, and returns a future for each; futures raise a SweepError if there will be no slot any more.

    `plan_executor(jobs: JobsAhead)` of a launcher of this project returns one, or raises a UserError if the launcher
    cannot run such jobs. An executor changes nothing until it is opened.
    """

    def open(self, say: Callable[[str], None]) -> None:
        """Begin; `say` shows lines to the user."""

    @property
    def num_slots(self) -> int:
        """How many jobs may run at once for now, with those that are running.

        Raises:
            SweepError: if there will be no slot any more.
        """

    def submit(self, overrides: Sequence[str], job_number: int) -> Future[JobReturn]:
        """Take a job; it waits until a slot is free."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Call a function where jobs run."""

    def close(self) -> None:
        """End everything, running jobs, too."""


class Slot(Protocol):
    """Runs one job at a time, in its own thread."""

    def open(self) -> None:
        """Make ready for the first job."""

    def run(self, overrides: Sequence[str], job_number: int) -> JobReturn:
        """Run a job."""

    def call(self, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        """Call a function where jobs run."""

    def close(self) -> None:
        """End the running job, if possible, and take no more; called from another thread."""


class SlotExecutor:
    """Gives the next job to a free slot at once."""

    def __init__(self, slots: Sequence[Slot], about: str = "") -> None:
        """Use the slots; `open` shows `about`, if it is not empty."""
        self.num_slots = len(slots)
        self._slots, self._about = slots, about
        self._threads: list[threading.Thread] = []
        self._work: SimpleQueue[tuple[Future[Any], Callable[[Slot], Any]] | None] = SimpleQueue()

    def open(self, say: Callable[[str], None]) -> None:
        """Make the slots ready, without waiting for them."""
        if self._about:
            say(self._about)
        self._threads = [threading.Thread(target=self._serve, args=(slot,), daemon=True) for slot in self._slots]
        for thread in self._threads:
            thread.start()

    def _serve(self, slot: Slot) -> None:
        slot.open()
        for future, act in iter(self._work.get, None):
            settle(future, partial(act, slot))

    def submit(self, overrides: Sequence[str], job_number: int) -> Future[JobReturn]:
        """Take a job; it waits until a slot is free."""
        return self._take(lambda slot: slot.run(overrides, job_number))

    def call(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Call a function in a free slot."""
        return self._take(lambda slot: slot.call(function, arguments))

    def _take(self, act: Callable[[Slot], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self._work.put((future, act))
        return future

    def close(self) -> None:
        """End the slots, as far as possible."""
        for slot in self._slots:
            slot.close()
            self._work.put(None)
        for thread in self._threads:
            thread.join(_END_S)


def settle(future: Future[Any], act: Callable[[], Any]) -> None:
    """Settle a future with what a call returns or raises; a job may raise SystemExit, too."""
    try:
        future.set_result(act())
    except BaseException as error:
        future.set_exception(error)


def call_until_worker_lasts(executor: Executor, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function where jobs run, and return its result; try again if its worker died or ran out of memory.

    Raises:
        SweepError: if each of three tries fails in this way, or there will be no worker any more.
    """
    for _ in range(_NUM_CALLS):
        future = executor.call(function, *arguments)
        error = future.exception()
        if error is None or not (is_lost_worker(error) or isinstance(error, SystemExit)):  # called code may exit
            return future.result()
        last = " ".join(f"{type(error).__name__}: {error}".split())
    raise SweepError(
        f"after the last trial, {_NUM_CALLS} workers were lost, one after another (the last one: {last}); "
        "if a machine has too little memory, free some; then run the same command"
    )


def launch(
    plan_executor: Callable[[JobsAhead], Executor],
    n_jobs: NumJobs,
    job_overrides: Sequence[Sequence[str]],
    first_job_number: int,
) -> list[JobReturn]:
    """Run jobs for a launcher of Hydra, each as soon as a slot is free; return their results in order.

    If a worker dies, only its own job fails.

    Raises:
        CompactHydraException: if the jobs cannot run; Hydra shows it in one line.
    """
    outlive_display()
    try:
        with closing(plan_executor(JobsAhead(n_jobs, len(job_overrides)))) as executor:
            executor.open(print)
            futures = [executor.submit(each, number) for number, each in enumerate(job_overrides, first_job_number)]
            return [_result_or_failure(future) for future in futures]
    except UserError as error:
        raise CompactHydraException(str(error)) from error


def _result_or_failure(future: Future[JobReturn]) -> JobReturn:
    error = future.exception()
    if error is None or isinstance(error, SweepError):
        return future.result()
    return JobReturn(status=JobStatus.FAILED, _return_value=error)
