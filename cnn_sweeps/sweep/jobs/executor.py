"""Who runs a sweep's jobs: one protocol, and the executor whose jobs run in slots, each served by a thread."""

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

POLL_S = 0.5  # longer, and a signal may have to wait
_END_S = 10.0
_NUM_CALLS = 3  # of a function whose worker is lost each time


@dataclass(frozen=True)
class JobsAhead:
    """What an executor is asked to be good for.

    Attributes:
        n_jobs: at once; "auto": as many as the place is good for.
        at_most: number of jobs there are.
        timeout_s: seconds after which a job is ended; None: no limit.
        worker_module: what each process imports before its first job.
        only_here: settings that name what only this machine has, each with what to name instead for jobs elsewhere.
    """

    n_jobs: NumJobs
    at_most: int
    timeout_s: float | None = None
    worker_module: str | None = None
    only_here: Sequence[tuple[str, str]] = ()


class Executor(Protocol):
    """Runs jobs, and gives a future for each, which a SweepError ends if there will be no slot any more.

    A launcher of this project gives one with `plan_executor(jobs: JobsAhead)`, or raises a UserError if it cannot do
    what it is asked for; until it is opened, it leaves no trace.
    """

    def open(self, say: Callable[[str], None]) -> None:
        """Begin; `say` takes what a person should know of it."""

    @property
    def num_slots(self) -> int:
        """How many jobs may be under way at once, for now; those that are under way included.

        Raises:
            SweepError: if there will be no slot any more.
        """

    def submit(self, overrides: Sequence[str], job_number: int) -> Future[JobReturn]:
        """Take a job; where all slots are taken, it waits."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Have a function called where jobs run."""

    def close(self) -> None:
        """End everything, running jobs included."""


class Slot(Protocol):
    """Runs one job at a time, in a thread that is its own."""

    def open(self) -> None:
        """Make ready for the first job."""

    def run(self, overrides: Sequence[str], job_number: int) -> JobReturn:
        """Run a job."""

    def call(self, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        """Call a function where jobs run."""

    def close(self) -> None:
        """End what runs, if that can be; called from another thread, and nothing runs from then on."""


class SlotExecutor:
    """A free slot gets the next job at once."""

    def __init__(self, slots: Sequence[Slot], about: str = "") -> None:
        """Use the slots; `about` is said when they are opened, if there is something to say."""
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
        """Take a job; where all slots are taken, it waits."""
        return self._take(lambda slot: slot.run(overrides, job_number))

    def call(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Have a function called in a free slot."""
        return self._take(lambda slot: slot.call(function, arguments))

    def _take(self, act: Callable[[Slot], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self._work.put((future, act))
        return future

    def close(self) -> None:
        """End the slots, as far as they can be."""
        for slot in self._slots:
            slot.close()
            self._work.put(None)
        for thread in self._threads:
            thread.join(_END_S)


def settle(future: Future[Any], act: Callable[[], Any]) -> None:
    """End a future with what a call gives or raises: SystemExit, too, which may be a job's own."""
    try:
        future.set_result(act())
    except BaseException as error:
        future.set_exception(error)


def call_until_worker_lasts(executor: Executor, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function where jobs run, and again if its worker died or got no memory; give its result.

    Raises:
        SweepError: if that happens each time, or there will be no worker any more.
    """
    for _ in range(_NUM_CALLS):
        future = executor.call(function, *arguments)
        error = future.exception()
        if error is None or not (is_lost_worker(error) or isinstance(error, SystemExit)):  # some code's that ran there
            return future.result()
        last = " ".join(f"{type(error).__name__}: {error}".split())
    raise SweepError(
        f"after all trials were told, {_NUM_CALLS} workers were lost, one after another (the last one: {last}); "
        "if a machine has too little memory, free some; then give the same command"
    )


def launch(
    plan_executor: Callable[[JobsAhead], Executor],
    n_jobs: NumJobs,
    job_overrides: Sequence[Sequence[str]],
    first_job_number: int,
) -> list[JobReturn]:
    """Do what Hydra asks of a launcher: run jobs, each as soon as there is a slot, and give their results in order.

    What ends a process fails its own job.

    Raises:
        CompactHydraException: which Hydra shows in one line, if the jobs cannot be run.
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
