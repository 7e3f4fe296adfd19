"""Who runs a sweep's jobs: this project's worker processes, or any Hydra launcher."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.types import TaskFunction

from cnn_sweeps.errors import ConfigError, SweepError, UserError
from cnn_sweeps.sweep.jobs.machine import NumJobs, WorkerPlan
from cnn_sweeps.sweep.jobs.outcome import is_lost_worker
from cnn_sweeps.sweep.jobs.workers import WorkerPool
from cnn_sweeps.system.output import outlive_display
from cnn_sweeps.system.signals import is_exit_on_signal

_POLL_S = 1.0
_ONE_AT_A_TIME = "BasicLauncher"  # by name: Hydra, when it looks for plugins, makes the class anew
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
    """Runs jobs and tells, job by job or batch by batch, when they are done.

    A launcher of this project gives one with `plan_executor(jobs: JobsAhead)`, or raises a UserError if it cannot do
    what it is asked for; until it is opened, it leaves no trace.
    """

    @property
    def num_slots(self) -> int:
        """How many jobs may be under way at once, for now; those that are under way included."""

    def open(self, say: Callable[[str], None]) -> None:
        """Begin; `say` takes what a person should know of it."""

    def submit(self, overrides: Sequence[str], job_number: int) -> Future[JobReturn]:
        """Take a job; there must be a free slot."""

    def wait(self, timeout_s: float) -> None:
        """Return as soon as a job is done, at the latest after `timeout_s` where that is possible."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function where jobs run, and give its result."""

    def close(self) -> None:
        """End everything, running jobs included."""


def call_until_worker_lasts(call: Callable[[], Any]) -> Any:
    """Call again if the worker died or got no memory.

    Raises:
        SweepError: if that happens each time.
    """
    for _ in range(_NUM_CALLS):
        try:
            return call()
        except (Exception, SystemExit) as error:  # some code's that ran there
            if is_exit_on_signal(error) or not (is_lost_worker(error) or isinstance(error, SystemExit)):
                raise
            last = " ".join(f"{type(error).__name__}: {error}".split())
    raise SweepError(
        f"after all trials were told, {_NUM_CALLS} workers were lost, one after another (the last one: {last}); "
        "if a machine has too little memory, free some; then give the same command"
    )


def choose_executor(
    build_launcher: Callable[[TaskFunction], Launcher], task_function: TaskFunction, jobs: JobsAhead
) -> Executor:
    """Give what is to run the trials, not yet opened.

    Args:
        build_launcher: gives the launcher, which runs a function with each job's configuration.
        task_function: of the trials.
        jobs: what is asked for.

    Raises:
        UserError: if the launcher cannot do what it is asked for.
    """
    launcher = build_launcher(task_function)
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
    return BatchExecutor(launcher, jobs.n_jobs, None if kind == _ONE_AT_A_TIME else build_launcher)


class WorkerExecutor:
    """A free worker gets the next job at once."""

    def __init__(self, plan: WorkerPlan, setup: bytes, jobs: JobsAhead) -> None:
        """Run jobs in the planned workers, each of which gets `setup`, as `job_process.pack_setup` gives it."""
        self.num_slots = plan.num_workers
        self._plan, self._setup, self._jobs = plan, setup, jobs
        self._futures: list[Future[JobReturn]] = []
        self._opened: WorkerPool | None = None

    def open(self, say: Callable[[str], None]) -> None:
        """Start the workers."""
        if self._jobs.n_jobs == "auto":
            say(self._plan.reason)
        self._opened = WorkerPool(self._plan, self._setup, self._jobs.worker_module)

    @property
    def _pool(self) -> WorkerPool:
        assert self._opened is not None
        return self._opened

    def submit(self, overrides: Sequence[str], job_number: int) -> Future[JobReturn]:
        """Start a job."""
        future = self._pool.submit(overrides, job_number, self._jobs.timeout_s)
        self._futures.append(future)
        return future

    def wait(self, timeout_s: float) -> None:
        """Return when the first job is done, or after `timeout_s`."""
        concurrent.futures.wait(self._futures, timeout_s, concurrent.futures.FIRST_COMPLETED)
        self._pool.fail_forgotten()
        self._futures = [future for future in self._futures if not future.done()]

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function in a worker, and again if the worker is lost.

        Raises:
            SweepError: if each one is lost.
        """

        def call_once() -> Any:
            future = self._pool.call(function, *arguments)
            self._futures.append(future)
            while not future.done():
                self.wait(_POLL_S)
            return future.result()

        return call_until_worker_lasts(call_once)

    def close(self) -> None:
        """End the workers."""
        if self._opened is not None:
            self._opened.close()


class BatchExecutor:
    """Any Hydra launcher: jobs are collected until all slots are taken, then launched together."""

    def __init__(
        self, launcher: Launcher, num_slots: int, build_launcher: Callable[[TaskFunction], Launcher] | None
    ) -> None:
        """Launch batches of at most `num_slots` jobs; what else is called, too, if a launcher can be built for it."""
        self.num_slots = num_slots
        self._launcher, self._build_launcher = launcher, build_launcher
        self._batch: list[tuple[Sequence[str], int, Future[JobReturn]]] = []

    def open(self, say: Callable[[str], None]) -> None:
        """Have nothing to begin."""

    def submit(self, overrides: Sequence[str], job_number: int) -> Future[JobReturn]:
        """Put a job into the next batch."""
        future: Future[JobReturn] = Future()
        self._batch.append((overrides, job_number, future))
        return future

    def wait(self, timeout_s: float) -> None:  # noqa: ARG002 - a launcher cannot be waited for in part
        """Launch what was submitted and wait for all of it."""
        for jobs in _with_consecutive_numbers(self._batch):
            first_number = jobs[0][1]
            try:
                results = self._launcher.launch([overrides for overrides, _, _ in jobs], initial_job_idx=first_number)
            except (Exception, SystemExit) as error:  # a job's own, which ends that job
                if is_exit_on_signal(error):
                    raise
                for _, _, future in jobs:
                    future.set_exception(error)
            else:
                for (_, _, future), result in zip(jobs, results, strict=True):
                    future.set_result(result)
        self._batch = []

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function as a job of its own, if a launcher can be built for it; else in this process."""
        if self._build_launcher is None:
            return function(*arguments)
        launcher = self._build_launcher(lambda _config: function(*arguments))
        (result,) = launcher.launch([["hydra.sweep.subdir=selection", "hydra.job.chdir=false"]], initial_job_idx=0)
        return result.return_value

    def close(self) -> None:
        """Leave nothing to end."""


def _with_consecutive_numbers(
    batch: list[tuple[Sequence[str], int, Future[JobReturn]]],
) -> list[list[tuple[Sequence[str], int, Future[JobReturn]]]]:
    """Divide a batch, since a launcher numbers its jobs itself, from the first one on."""
    parts: list[list[tuple[Sequence[str], int, Future[JobReturn]]]] = []
    for job in sorted(batch, key=lambda job: job[1]):
        if parts and job[1] == parts[-1][-1][1] + 1:
            parts[-1].append(job)
        else:
            parts.append([job])
    return parts


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
        return _run_batch(plan_executor(JobsAhead(n_jobs, len(job_overrides))), job_overrides, first_job_number)
    except UserError as error:
        raise CompactHydraException(str(error)) from error


def _run_batch(executor: Executor, job_overrides: Sequence[Sequence[str]], first_job_number: int) -> list[JobReturn]:
    futures: list[Future[JobReturn]] = []
    try:
        executor.open(print)
        for job_number, overrides in enumerate(job_overrides, first_job_number):
            while sum(not future.done() for future in futures) >= executor.num_slots:
                executor.wait(_POLL_S)
            futures.append(executor.submit(overrides, job_number))
        while not all(future.done() for future in futures):
            executor.wait(_POLL_S)
    finally:
        executor.close()
    return [_result_or_failure(future) for future in futures]


def _result_or_failure(future: Future[JobReturn]) -> JobReturn:
    error = future.exception()
    return future.result() if error is None else JobReturn(status=JobStatus.FAILED, _return_value=error)
