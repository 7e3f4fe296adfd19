"""Who runs a sweep's jobs: this project's worker processes, or any Hydra launcher."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher

from cnn_sweeps.sweep.workers import WorkerPool


class Executor(Protocol):
    """Runs jobs and tells, job by job or batch by batch, when they are done."""

    num_slots: int
    """How many jobs may be under way at once."""

    def submit(self, overrides: Sequence[str], job_number: int) -> Future[JobReturn]:
        """Take a job; there must be a free slot."""

    def wait(self, timeout_s: float) -> None:
        """Return as soon as a job is done, at the latest after `timeout_s` where that is possible."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function where jobs run, and give its result."""

    def close(self) -> None:
        """End everything, running jobs included."""


class WorkerExecutor:
    """A free worker gets the next job at once."""

    def __init__(self, pool: WorkerPool, num_slots: int, job_timeout_s: float | None) -> None:
        """Run at most `num_slots` jobs at once, each for at most `job_timeout_s` seconds."""
        self.num_slots = num_slots
        self._pool, self._job_timeout_s = pool, job_timeout_s
        self._futures: list[Future[JobReturn]] = []

    def submit(self, overrides: Sequence[str], job_number: int) -> Future[JobReturn]:
        """Start a job."""
        future = self._pool.submit(overrides, job_number, self._job_timeout_s)
        self._futures.append(future)
        return future

    def wait(self, timeout_s: float) -> None:
        """Return when the first job is done, or after `timeout_s`."""
        concurrent.futures.wait(self._futures, timeout_s, concurrent.futures.FIRST_COMPLETED)
        self._futures = [future for future in self._futures if not future.done()]

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function in a worker."""
        return self._pool.call(function, *arguments).result()

    def close(self) -> None:
        """End the workers."""
        self._pool.close()


class BatchExecutor:
    """Any Hydra launcher: jobs are collected until all slots are taken, then launched together."""

    def __init__(self, launcher: Launcher, num_slots: int) -> None:
        """Launch batches of at most `num_slots` jobs."""
        self.num_slots = num_slots
        self._launcher = launcher
        self._batch: list[tuple[Sequence[str], int, Future[JobReturn]]] = []

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
            except Exception as error:
                for _, _, future in jobs:
                    future.set_exception(error)
            else:
                for (_, _, future), result in zip(jobs, results, strict=True):
                    future.set_result(result)
        self._batch = []

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function in this process."""
        return function(*arguments)

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
