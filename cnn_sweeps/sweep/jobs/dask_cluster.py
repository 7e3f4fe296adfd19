"""A Dask cluster as the place where a sweep's jobs run, one at a time on each worker."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
from distributed import Future as DaskFuture
from hydra.core.utils import JobReturn

from cnn_sweeps.errors import SweepError
from cnn_sweeps.sweep.jobs.dask_connection import connected, local_cluster, silence_dask, submit_to, wait_for_dask
from cnn_sweeps.sweep.jobs.dask_fleet import Fleet
from cnn_sweeps.sweep.jobs.dask_settings import DaskSettings
from cnn_sweeps.sweep.jobs.dask_worker import DaskJob, end_sweep, run_job
from cnn_sweeps.sweep.jobs.executors import JobsAhead, call_until_worker_lasts
from cnn_sweeps.sweep.jobs.machine import plan_workers
from cnn_sweeps.sweep.jobs.process import run_one_job

_POLL_S = 0.1
_ANSWER_S = 10.0
_RESULT_S = 2.0  # during which all other jobs wait
_LOST = ("KilledWorker", "NoValidWorkerError", "NoWorkerError", "WrongWorkerError")


class LostWorkerError(BrokenExecutor):
    """A Dask worker was lost, with the job that it was running."""


@dataclass(frozen=True)
class _Running:
    worker: str
    dask: DaskFuture
    future: Future[Any]


def plan_dask_executor(
    settings: DaskSettings, jobs: JobsAhead, setup: bytes, sweep_folder: Path, needed: Sequence[str]
) -> DaskExecutor:
    """Connect to the cluster, or start one on this machine, and wait for a first worker.

    Args:
        settings: which cluster, which of its workers.
        jobs: what it is to be good for.
        setup: what `job_process.pack_setup` gave.
        sweep_folder: where jobs write; it need not exist yet.
        needed: further paths that a worker must see.

    Raises:
        ConfigError: if there is no such cluster, it has no fit worker, or versions differ.
    """
    silence_dask()
    with ExitStack() as resources:
        limit = None if jobs.n_jobs == "auto" else min(jobs.n_jobs, jobs.at_most)
        place: Any = settings.address
        if place is None:
            shared = 1 if jobs.n_jobs == "auto" else jobs.n_jobs
            plan = plan_workers(
                jobs.n_jobs,
                gpus=None,
                jobs_per_gpu=shared,
                gpus_per_job=1,
                max_worker_mb=settings.max_worker_mb,
                at_most=jobs.at_most,
            )
            place = resources.enter_context(local_cluster(plan, settings.resources))
        client = resources.enter_context(connected(place))
        with _mark(sweep_folder) as mark:
            fleet = Fleet(client, settings, [*needed, *mark], jobs.only_here)
            fleet.check_scheduler()
            fleet.assemble(lambda line: print(line, flush=True))
        fleet.needed = [*needed, str(sweep_folder)]
        return DaskExecutor(fleet, settings, jobs, setup, limit, resources.pop_all())


@contextmanager
def _mark(folder: Path) -> Iterator[list[str]]:
    """Put a file where another machine sees it only if it shares the folder; that cannot be written is told later."""
    while not folder.is_dir():
        folder = folder.parent
    try:
        file = tempfile.NamedTemporaryFile(dir=folder, prefix=".cnn_sweeps_")  # noqa: SIM115 - closed below
    except OSError:
        yield []
        return
    with file:
        yield [file.name]


class DaskExecutor:
    """A free worker gets the next job; a worker that is lost fails its own job alone."""

    def __init__(
        self,
        fleet: Fleet,
        settings: DaskSettings,
        jobs: JobsAhead,
        setup: bytes,
        limit: int | None,
        resources: ExitStack,
    ) -> None:
        """Use the workers of `fleet`, at most `limit` at once; closing ends what is in `resources`."""
        self._fleet, self._settings, self._jobs, self._setup, self._limit = fleet, settings, jobs, setup, limit
        self._resources = resources
        self._sweep_id = uuid.uuid4().hex
        self._running: list[_Running] = []
        self._warm: dict[str, None] = {}  # workers that were used, in order
        self._say: Callable[[str], None] = print
        self._had_worker = time.monotonic()

    @property
    def num_slots(self) -> int:
        """How many jobs may be under way: those that are, and one for each free worker."""
        slots = len(self._running) + len(self._free_workers())
        return slots if self._limit is None else min(self._limit, slots)

    def _free_workers(self) -> list[str]:
        busy = {job.worker for job in self._running}
        free = [worker for worker in self._fleet.usable() if worker not in busy]
        return sorted(free, key=lambda worker: worker not in self._warm)

    def open(self, say: Callable[[str], None]) -> None:
        """Say where the jobs will run."""
        self._say = say
        hosts = sorted({report.host for report in self._fleet.ready.values()})
        limit = "as many as there are" if self._limit is None else f"{self._limit} trials at once, at the most"
        number = len(self._fleet.ready)
        say(f"Dask cluster at {self._fleet.address}: {number} workers on {', '.join(hosts)}; {limit}")

    def submit(self, overrides: Sequence[str], job_number: int) -> Future[JobReturn]:
        """Start a job on a free worker.

        Raises (from the future):
            LostWorkerError: the Dask worker is gone.
            pebble.ProcessExpired: the job's process on the worker died.
            TimeoutError: the job ran too long and was killed.
        """
        return self._start(run_one_job, (list(overrides), job_number), self._jobs.timeout_s)

    def _start(self, function: Callable[..., Any], arguments: tuple[Any, ...], timeout_s: float | None) -> Future[Any]:
        worker = self._free_workers()[0]
        job = DaskJob(
            process_id=self._fleet.ready[worker].process_id,
            sweep_id=self._sweep_id,
            setup=self._setup,
            call=cloudpickle.dumps((function, arguments)),
            timeout_s=timeout_s,
            max_worker_mb=self._settings.max_worker_mb,
        )
        dask = submit_to(self._fleet.client, worker, run_job, job, resources=self._settings.resources)
        self._warm[worker] = None
        future: Future[Any] = Future()
        self._running.append(_Running(worker, dask, future))
        return future

    def wait(self, timeout_s: float) -> None:
        """Return when the first job is done, or after `timeout_s`; look which workers are there.

        Raises:
            SweepError: if the scheduler is gone, or there has been no worker for too long.
        """
        if self._running:
            futures = [job.dask for job in self._running]
            wait_for_dask(self._fleet.client, futures, timeout_s, for_all=False)
        else:
            time.sleep(timeout_s)
        for line in self._fleet.look():
            self._say(f"{line}; it gets no trials")
        self._running = [job for job in self._running if not self._is_over(job)]
        self._check_workers()

    def _is_over(self, job: _Running) -> bool:
        """Give a job's future its result, if it has one or will have none."""
        if not self._fleet.is_present(job.worker):
            job.dask.cancel()
            job.future.set_exception(LostWorkerError(f"the Dask worker at {job.worker} is gone"))
        elif job.dask.status == "finished":
            try:
                content = job.dask.result(timeout=_RESULT_S)
            except Exception:  # the worker or the scheduler may be gone, which the next look tells
                return False
            result = cloudpickle.loads(content)
            if isinstance(result, BaseException):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)
        elif job.dask.status == "error":
            error = job.dask.exception(timeout=_ANSWER_S)
            if type(error).__name__ in _LOST:
                self._fleet.forget(job.worker)
                error = LostWorkerError(f"the Dask worker at {job.worker} died")
            job.future.set_exception(error)
        elif job.dask.status == "cancelled":
            raise self._fleet.scheduler_gone()
        else:
            return False
        job.dask.release()  # else Dask would run it again when its worker dies
        return True

    def _check_workers(self) -> None:
        now = time.monotonic()
        if self._running or self._fleet.usable():
            self._had_worker = now
        elif now - self._had_worker > self._settings.wait_s:
            raise SweepError(f"{self._fleet.nobody()}, and give the same command (above) to go on")

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function in a worker's process, and again if it is lost.

        Raises:
            SweepError: if that happens each time, or the scheduler is gone.
        """

        def call_once() -> Any:
            while not self._free_workers():
                self.wait(_POLL_S)
            future = self._start(function, arguments, None)
            while not future.done():
                self.wait(_POLL_S)
            return future.result()

        return call_until_worker_lasts(call_once)

    def close(self) -> None:
        """End the jobs that are still running and their processes, and leave the cluster."""
        with self._resources:
            if self._fleet.client.status != "running":
                return
            for job in self._running:
                job.dask.cancel()
            present = [worker for worker in self._warm if self._fleet.is_present(worker)]
            ends = [submit_to(self._fleet.client, worker, end_sweep, self._sweep_id) for worker in present]
            wait_for_dask(self._fleet.client, ends, _ANSWER_S, for_all=True)
            self._running, self._warm = [], {}
