"""Runs a sweep's jobs on a Dask cluster, one at a time on each worker."""

from __future__ import annotations

import math
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from tempfile import NamedTemporaryFile
from typing import Any

import cloudpickle
from distributed import Future as DaskFuture
from hydra.core.utils import JobReturn

from cnn_sweeps.errors import SweepError
from cnn_sweeps.sweep.jobs.dask_cluster import connected, local_cluster
from cnn_sweeps.sweep.jobs.dask_fleet import RESULT_S, Fleet, Worker
from cnn_sweeps.sweep.jobs.dask_worker import OtherSweepError, run_job
from cnn_sweeps.sweep.jobs.executor import POLL_S, JobsAhead
from cnn_sweeps.sweep.jobs.loss import LostWorkerError, is_lost_worker
from cnn_sweeps.sweep.jobs.machine import memory_share_mb, plan_workers
from cnn_sweeps.sweep.jobs.process import Program, answer, pack_setup, read_answer, run_one_job
from cnn_sweeps.sweep.jobs.settings import DaskSettings, WorkersSettings
from cnn_sweeps.sweep.settings import check_values
from cnn_sweeps.text.numbers import counted

_END_S = 10.0
_POLL_S = 0.05


def plan_dask_executor(values: Mapping[str, Any], jobs: JobsAhead, program: Program) -> DaskExecutor:
    """Connect to a cluster, or start one on this machine; return the executor once the cluster has a worker.

    Each worker must see the folders of the configuration, and share the folder that jobs write to, which may not exist
    yet. `values` are those of `hydra.launcher`.

    Raises:
        ConfigError: if a value is wrong, the cluster cannot be reached, it has no usable worker, or versions differ.
    """
    settings = check_values(DaskSettings, {**values}, "hydra.launcher")
    variables = {name: os.environ.get(name) for name in settings.environment}
    setup = pack_setup(program, jobs.worker_module, variables=variables, is_for_children=False)
    target = Path(program.config.hydra.sweep.dir).absolute()
    with ExitStack() as resources, ExitStack() as marks:
        place: Any = settings.address
        if place is None:
            shared = 1 if jobs.n_jobs == "auto" else jobs.n_jobs
            like = WorkersSettings(jobs.n_jobs, jobs_per_gpu=shared, max_worker_mb=settings.max_worker_mb)
            place = resources.enter_context(local_cluster(plan_workers(like, jobs.at_most), settings.resources))
        fleet = Fleet(resources.enter_context(connected(place)), settings, jobs.only_here)
        existing = next(folder for folder in (target, *target.parents) if folder.is_dir())
        fleet.needed = [*program.folders]
        with suppress(OSError):  # a later step says that the folder cannot be written
            mark = marks.enter_context(NamedTemporaryFile(dir=existing, prefix=".cnn_sweeps_"))
            fleet.needed.append(mark.name)  # another machine sees it only if it shares the folder
        fleet.assemble()
        fleet.needed = [*program.folders, str(target)]
        return DaskExecutor(fleet, jobs, setup, resources.pop_all())


@dataclass
class _Job:
    call: bytes
    timeout_s: float | None
    future: Future[Any]
    worker: Worker
    dask: DaskFuture


class DaskExecutor:
    """Gives the next job to a free worker; a lost worker fails only its own job."""

    def __init__(self, fleet: Fleet, jobs: JobsAhead, setup: bytes, resources: ExitStack) -> None:
        """Use the workers of `fleet`; `close` closes `resources`, too."""
        self._fleet, self._jobs, self._setup, self._resources = fleet, jobs, setup, resources
        self._limit = math.inf if jobs.n_jobs == "auto" else min(jobs.n_jobs, jobs.at_most)
        self._sweep_id = uuid.uuid4().hex
        self._waiting: SimpleQueue[tuple[Future[Any], bytes, float | None]] = SimpleQueue()
        self._running: list[_Job] = []  # only the watching thread changes it, and the fleet
        self._had_worker = time.monotonic()
        self._num_slots = self._count_slots()
        self._error: Exception | None = None
        self._news, self._is_closed = threading.Event(), False
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._say: Callable[[str], None] = print

    @property
    def num_slots(self) -> int:
        """How many jobs may run at once: those that do, and one for each free worker.

        Raises:
            SweepError: if the scheduler is gone, or there has been no worker for too long.
        """
        if self._error is not None:
            raise self._error
        return self._num_slots

    def _count_slots(self) -> int:
        return int(min(self._limit, len(self._running) + len(self._free_workers())))

    def _free_workers(self) -> list[Worker]:
        busy = [job.worker for job in self._running]
        return [worker for worker in self._fleet.usable if worker not in busy]

    def open(self, say: Callable[[str], None]) -> None:
        """Say where the jobs will run."""
        self._say, workers = say, self._fleet.usable
        hosts = ", ".join(sorted({worker.host for worker in workers}))
        limit = "one on each worker" if self._limit == math.inf else f"at most {self._limit}"
        workers_on = f"{counted(len(workers), 'worker')} on {hosts}"
        say(f"Dask cluster at {self._fleet.address}: {workers_on}; trials at once: {limit}")
        self._thread.start()

    def submit(self, overrides: Sequence[str], job_number: int) -> Future[JobReturn]:
        """Take a job; its future may raise a LostWorkerError or a JobTimeoutError."""
        return self._take(run_one_job, (list(overrides), job_number), self._jobs.timeout_s)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Call a function on a free worker."""
        return self._take(function, arguments, None)

    def _take(self, function: Callable[..., Any], arguments: tuple[Any, ...], timeout_s: float | None) -> Future[Any]:
        future: Future[Any] = Future()
        self._waiting.put((future, cloudpickle.dumps((function, arguments)), timeout_s))
        self._news.set()
        return future

    def _watch(self) -> None:
        """Look for workers, and start and end jobs, on every news and now and then."""
        while not self._is_closed:
            try:
                if self._error is None:
                    self._step()
            except Exception as error:
                self._error = error
            if self._error is not None:
                waiting = [self._waiting.get()[0] for _ in range(self._waiting.qsize())]
                for future in [*waiting, *(job.future for job in self._running)]:
                    if not future.done():
                        future.set_exception(self._error)
            self._news.wait(POLL_S)
            self._news.clear()

    def _step(self) -> None:
        for problem in self._fleet.look():
            self._say(f"{problem}; it gets no trials")
        self._running = [job for job in self._running if not self._is_over(job)]
        while len(self._running) < self._count_slots() and not self._waiting.empty():
            self._start(self._free_workers()[0], *self._waiting.get())
        self._num_slots = self._count_slots()
        if self._running or self._fleet.usable:
            self._had_worker = time.monotonic()
        elif time.monotonic() - self._had_worker > self._fleet.settings.wait_s:
            raise SweepError(f"{self._fleet.nobody()}, and run the same command (above) to go on")

    def _start(self, worker: Worker, future: Future[Any], call: bytes, timeout_s: float | None) -> None:
        run = partial(run_job, worker.folder, self._sweep_id, self._setup, call, timeout_s)
        dask = self._fleet.submit_to(worker, answer, run, resources=self._fleet.settings.resources)
        dask.add_done_callback(lambda _done: self._news.set())
        worker.is_used = True
        self._running.append(_Job(call, timeout_s, future, worker, dask))

    def _is_over(self, job: _Job) -> bool:
        """Settle a job's future if the job has ended; return whether it has."""
        if job.worker not in self._fleet.workers.values():
            job.future.set_exception(LostWorkerError(f"the Dask worker at {job.worker.address} is gone"))
            job.dask.cancel()
            return True
        if job.dask.status == "cancelled":
            raise self._fleet.scheduler_gone()
        if job.dask.status == "error":  # an error of Dask; errors of jobs are in their answers
            kind = type(job.dask.exception()).__name__
            job.future.set_exception(LostWorkerError(f"the Dask worker at {job.worker.address} died ({kind})"))
            self._fleet.dismiss(job.worker)
        elif job.dask.status == "finished":
            try:
                packed = job.dask.result(timeout=RESULT_S)
            except Exception:  # the worker or the scheduler may be gone; the next look finds out
                return False
            self._read_answer(job, packed)
        else:
            return False
        job.dask.release()  # else Dask runs it again when its worker dies
        return True

    def _read_answer(self, job: _Job, packed: bytes) -> None:
        limit_bytes = job.worker.about["memory_limit"] or math.inf
        try:
            result, worker_mb = read_answer(packed)
            job.future.set_result(result)
            is_spent = worker_mb > (self._fleet.settings.max_worker_mb or memory_share_mb(limit_bytes / 2**20))
        except OtherSweepError:
            self._waiting.put((job.future, job.call, job.timeout_s))
            is_spent = True
        except BaseException as error:  # of the job; SystemExit, too
            job.future.set_exception(error)
            is_spent = is_lost_worker(error)
        if is_spent:
            self._fleet.dismiss(job.worker)

    def close(self) -> None:
        """End the running jobs and their processes, and disconnect from the cluster."""
        self._is_closed = True
        self._news.set()
        if self._thread.is_alive():
            self._thread.join()
        busy, deadline = [job.worker for job in self._running], time.monotonic() + _END_S
        with self._resources, suppress(SweepError):
            self._fleet.look()
            for job in self._running:  # the process of a cancelled job ends itself
                job.dask.cancel()
            for worker in self._fleet.workers.values():
                if worker.is_used and worker not in busy:
                    self._fleet.dismiss(worker)
            while time.monotonic() < deadline and any(
                each.leaving is not None and each.leaving.status == "pending" for each in self._fleet.workers.values()
            ):  # until the workers know that they must leave
                time.sleep(_POLL_S)
                self._fleet.look()
