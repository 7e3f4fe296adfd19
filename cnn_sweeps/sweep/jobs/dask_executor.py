"""A Dask cluster as the place where a sweep's jobs run, one at a time on each worker."""

from __future__ import annotations

import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import cloudpickle
from distributed import Future as DaskFuture
from hydra.core.utils import JobReturn

from cnn_sweeps.errors import SweepError
from cnn_sweeps.sweep.jobs.dask_connection import connected, local_cluster, silence_dask, submit_to, wait_for_dask
from cnn_sweeps.sweep.jobs.dask_fleet import Fleet
from cnn_sweeps.sweep.jobs.dask_settings import DaskSettings
from cnn_sweeps.sweep.jobs.dask_worker import DaskAnswer, DaskJob, leave, run_job
from cnn_sweeps.sweep.jobs.executor import JobsAhead
from cnn_sweeps.sweep.jobs.loss import JobTimeoutError, LostWorkerError, is_out_of_memory
from cnn_sweeps.sweep.jobs.machine import plan_workers
from cnn_sweeps.sweep.jobs.process import read_answer, run_one_job

_POLL_S = 0.5
_ANSWER_S = 10.0
_RESULT_S = 2.0  # during which all other jobs wait
_LOST = ("KilledWorker", "NoValidWorkerError", "NoWorkerError", "WrongWorkerError")


@dataclass
class _Job:
    """A call, and the worker and Dask's future that it has once it is started."""

    call: bytes
    timeout_s: float | None
    future: Future[Any]
    worker: str = ""
    dask: DaskFuture = None


def plan_dask_executor(
    settings: DaskSettings, jobs: JobsAhead, setup: bytes, sweep_folder: Path, needed: Sequence[str]
) -> DaskExecutor:
    """Connect to the cluster, or start one on this machine, and wait for a first worker.

    Args:
        settings: which cluster, which of its workers.
        jobs: what it is to be good for.
        setup: what `process.pack_setup` gave.
        sweep_folder: where jobs write; it need not exist yet.
        needed: further paths that a worker must see.

    Raises:
        ConfigError: if there is no such cluster, it has no fit worker, or versions differ.
    """
    silence_dask()
    with ExitStack() as resources:
        place: Any = settings.address
        if place is None:
            shared, max_mb = 1 if jobs.n_jobs == "auto" else jobs.n_jobs, settings.max_worker_mb
            plan = plan_workers(jobs.n_jobs, gpus=None, jobs_per_gpu=shared, max_worker_mb=max_mb, at_most=jobs.at_most)
            place = resources.enter_context(local_cluster(plan, settings.resources))
        client = resources.enter_context(connected(place))
        with _mark(sweep_folder) as mark:
            fleet = Fleet(client, settings, [*needed, *mark], jobs.only_here)
            fleet.check_scheduler()
            fleet.assemble(lambda line: print(line, flush=True))
        fleet.needed = [*needed, str(sweep_folder)]
        return DaskExecutor(fleet, jobs, setup, resources.pop_all())


@contextmanager
def _mark(folder: Path) -> Iterator[list[str]]:
    """Put a file where another machine sees it only if it shares the folder; that cannot be written is told later."""
    while not folder.is_dir():
        folder = folder.parent
    files = []
    with ExitStack() as opened:
        with suppress(OSError):
            files = [opened.enter_context(tempfile.NamedTemporaryFile(dir=folder, prefix=".cnn_sweeps_")).name]
        yield files


class DaskExecutor:
    """A free worker gets the next job; a worker that is lost fails its own job alone."""

    def __init__(self, fleet: Fleet, jobs: JobsAhead, setup: bytes, resources: ExitStack) -> None:
        """Use the workers of `fleet`; closing ends what is in `resources`."""
        self._fleet, self._jobs, self._setup, self._resources = fleet, jobs, setup, resources
        self._limit = None if jobs.n_jobs == "auto" else min(jobs.n_jobs, jobs.at_most)
        self._sweep_id = uuid.uuid4().hex
        self._waiting: SimpleQueue[_Job] = SimpleQueue()
        # What follows is the watching thread's.
        self._running: list[_Job] = []
        self._used: dict[str, None] = {}  # workers, in order
        self._leaving: list[DaskFuture] = []  # kept, since Dask drops what nobody wants to know
        self._had_worker = time.monotonic()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._news, self._is_closed = threading.Event(), False
        self._error: Exception | None = None
        self._num_slots = self._count_slots()
        self._say: Callable[[str], None] = print

    @property
    def num_slots(self) -> int:
        """How many jobs may be under way: those that are, and one for each free worker.

        Raises:
            SweepError: if the scheduler is gone, or there has been no worker for too long.
        """
        if self._error is not None:
            raise self._error
        return self._num_slots

    def _count_slots(self) -> int:
        num_slots = len(self._running) + len(self._free_workers())
        return num_slots if self._limit is None else min(self._limit, num_slots)

    def _free_workers(self) -> list[str]:
        busy = {job.worker for job in self._running}
        free = [worker for worker in self._fleet.usable() if worker not in busy]
        return sorted(free, key=lambda worker: worker not in self._used)

    def open(self, say: Callable[[str], None]) -> None:
        """Say where the jobs will run."""
        self._say = say
        hosts = sorted({report.host for report in self._fleet.ready.values()})
        limit = "as many as there are" if self._limit is None else f"{self._limit} trials at once, at the most"
        number = len(self._fleet.ready)
        say(f"Dask cluster at {self._fleet.address}: {number} workers on {', '.join(hosts)}; {limit}")
        self._thread.start()

    def submit(self, overrides: Sequence[str], job_number: int) -> Future[JobReturn]:
        """Start a job on a free worker.

        Raises (from the future):
            LostWorkerError: the Dask worker is gone, or the job's process on it died.
            JobTimeoutError: the job ran too long and was killed.
        """
        return self._take(run_one_job, (list(overrides), job_number), self._jobs.timeout_s)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Have a function called on a free worker."""
        return self._take(function, arguments, None)

    def _take(self, function: Callable[..., Any], arguments: tuple[Any, ...], timeout_s: float | None) -> Future[Any]:
        job = _Job(cloudpickle.dumps((function, arguments)), timeout_s, Future())
        self._waiting.put(job)
        self._news.set()
        return job.future

    def _watch(self) -> None:
        """Look which workers are there, and start and end jobs, whenever there is news, and now and then."""
        try:
            while not self._is_closed:
                for line in self._fleet.look():
                    self._say(f"{line}; it gets no trials")
                self._running = [job for job in self._running if not self._is_over(job)]
                self._leaving = [each for each in self._leaving if each.status == "pending"]
                while (free := self._free_workers()) and not self._waiting.empty():
                    self._start(self._waiting.get(), free[0])
                self._num_slots = self._count_slots()
                self._check_workers()
                self._news.wait(_POLL_S)
                self._news.clear()
        except Exception as error:
            self._error = error

    def _start(self, job: _Job, worker: str) -> None:
        process_id, settings = self._fleet.ready[worker].process_id, self._fleet.settings
        content = DaskJob(process_id, self._sweep_id, self._setup, job.call, job.timeout_s, settings.max_worker_mb)
        job.worker, self._used[worker] = worker, None
        job.dask = submit_to(self._fleet.client, worker, run_job, content, resources=settings.resources)
        job.dask.add_done_callback(lambda _done: self._news.set())
        self._running.append(job)

    def _is_over(self, job: _Job) -> bool:
        """Give a job's future its result, if it has one or will have none."""
        if not self._fleet.is_present(job.worker):
            job.dask.cancel()
            job.future.set_exception(LostWorkerError(f"the Dask worker at {job.worker} is gone"))
        elif job.dask.status == "finished":
            try:
                answer = job.dask.result(timeout=_RESULT_S)
            except Exception:  # the worker or the scheduler may be gone, which the next look tells
                return False
            self._take_answer(job, answer)
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

    def _take_answer(self, job: _Job, answer: DaskAnswer) -> None:
        is_spent = answer.is_spent
        if answer.kind == "not begun":  # another sweep has used the process
            self._waiting.put(job)
        elif answer.kind == "late":
            job.future.set_exception(JobTimeoutError())
        else:
            try:
                job.future.set_result(read_answer(answer.content))
            except BaseException as error:  # SystemExit, too: the job's own
                is_spent = is_spent or is_out_of_memory(error)
                job.future.set_exception(error)
        if is_spent:
            self._fleet.forget(job.worker)
            self._leaving.append(submit_to(self._fleet.client, job.worker, leave))

    def _check_workers(self) -> None:
        if self._running or self._fleet.usable():
            self._had_worker = time.monotonic()
        elif time.monotonic() - self._had_worker > self._fleet.settings.wait_s:
            raise SweepError(f"{self._fleet.nobody()}, and give the same command (above) to go on")

    def close(self) -> None:
        """End the jobs that are still running and their processes, and leave the cluster."""
        self._is_closed = True
        self._news.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._resources:
            if self._fleet.client.status == "running":
                for job in self._running:  # whose process ends itself then
                    job.dask.cancel()
                idle = self._used.keys() & self._fleet.ready.keys() - {job.worker for job in self._running}
                self._leaving += [submit_to(self._fleet.client, worker, leave) for worker in idle]
                wait_for_dask(self._fleet.client, self._leaving, _ANSWER_S)
