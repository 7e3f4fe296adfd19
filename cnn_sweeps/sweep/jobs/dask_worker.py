"""Inside a Dask worker: one job at a time, in a warm process of its own, which can die without the worker."""

from __future__ import annotations

import concurrent.futures
import hashlib
import multiprocessing
import platform
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import cloudpickle

import cnn_sweeps
from cnn_sweeps.sweep.jobs.machine import WorkerPlan, count_cores, memory_share_mb, own_memory_mb
from cnn_sweeps.sweep.jobs.workers import WorkerPool
from cnn_sweeps.system.threads import thread_settings

_PACKAGES = ("distributed", "hydra-core", "keras", "numpy", "optuna", "tensorflow")
_POLL_S = 0.2
_KEEP_IDLE_S = 60.0  # a controller that was killed tells nobody that its sweep is over
_PROCESS_ID = uuid.uuid4().hex


@dataclass(frozen=True)
class WorkerReport:
    """What a process tells of itself.

    Attributes:
        process_id: of this process alone, so that its successor at the same address is known as another one.
        host: name of its machine.
        missing: of the paths that it was asked for, those that it does not see.
        versions: by name, of Python, of this package with its code, and of the packages that bear on results.
    """

    process_id: str
    host: str
    missing: list[str]
    versions: dict[str, str]


def report(needed: Sequence[str] = ()) -> WorkerReport:
    """Tell what this process is, and which of the needed paths it does not see."""
    missing = [path for path in needed if not Path(path).exists()]
    return WorkerReport(_PROCESS_ID, socket.gethostname(), missing, _versions())


@cache
def _versions() -> dict[str, str]:
    versions = {"python": ".".join(platform.python_version_tuple()[:2]), "cnn_sweeps": cnn_sweeps.__version__}
    versions["the code of cnn_sweeps"] = _code_id()
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "none"
    return versions


def _code_id() -> str:
    digest = hashlib.blake2b(digest_size=4)
    folder = Path(cnn_sweeps.__file__).parent
    for file in sorted(folder.rglob("*.py")):
        digest.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class DaskJob:
    """A function call for the process of one Dask worker.

    Attributes:
        process_id: of the Dask worker that it is meant for; another one refuses it.
        sweep_id: calls of the same sweep share the warm process.
        setup: what `job_process.pack_setup` gave.
        call: the function and its arguments, pickled; unpickled in the warm process alone.
        timeout_s: seconds after which the process is killed; None: no limit.
        max_worker_mb: resident memory beyond which the process is replaced; None: 80 % of the Dask worker's limit.
    """

    process_id: str
    sweep_id: str
    setup: bytes
    call: bytes
    timeout_s: float | None
    max_worker_mb: int | None


class WrongWorkerError(Exception):
    """A job came to another Dask worker than it was meant for, or again; it was not run."""


@dataclass(frozen=True)
class _Answer:
    content: bytes
    worker_mb: int


def _answer(call: bytes) -> _Answer:
    """Run a call in the warm process."""
    function, arguments = cloudpickle.loads(call)
    return _Answer(cloudpickle.dumps(function(*arguments)), own_memory_mb())


class _Slot:
    """The one place for a job that a Dask worker has."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: WorkerPool | None = None
        self._sweep_id = ""
        self._idle: threading.Timer | None = None

    def run(self, job: DaskJob, plan: WorkerPlan, is_wanted: Callable[[], bool]) -> bytes:
        """Run a job in the warm process; give what it returned, pickled.

        Raises:
            CancelledError: if the job is no longer wanted; its process is killed.
            pebble.ProcessExpired: if the process died.
            TimeoutError: if the job ran too long and its process was killed.
        """
        while not self._lock.acquire(timeout=_POLL_S):
            if not is_wanted():
                raise CancelledError
        try:
            if self._idle is not None:
                self._idle.cancel()
            if self._pool is None or self._sweep_id != job.sweep_id:
                self._end_pool()
                self._pool, self._sweep_id = WorkerPool(plan, job.setup), job.sweep_id
            future = self._pool.call(_answer, job.call, timeout_s=job.timeout_s)
            while not future.done():
                concurrent.futures.wait([future], _POLL_S)
                self._pool.fail_forgotten()
                if not is_wanted():
                    self._end_pool()
                    raise CancelledError
            answer: _Answer = future.result()
            return answer.content
        finally:
            self._idle = threading.Timer(_KEEP_IDLE_S, self.end, [job.sweep_id])
            self._idle.daemon = True
            self._idle.start()
            self._lock.release()

    def end(self, sweep_id: str) -> None:
        """End the warm process of a sweep, if it is still there."""
        if self._sweep_id != sweep_id:  # another sweep's job may hold the lock for hours
            return
        with self._lock:
            if self._sweep_id == sweep_id:
                self._end_pool()

    def _end_pool(self) -> None:
        if self._pool is not None:
            self._pool.close()
        self._pool = None


_slot = _Slot()
_taken: set[str] = set()


def run_job(job: DaskJob) -> bytes:
    """Run a job as a Dask task; give the pickled result, or the pickled exception that ended its process.

    Raises:
        CancelledError: if the controller, or its interest in the job, is gone.
        WrongWorkerError: if Dask starts the job a second time.
    """
    from distributed import Status, get_worker  # noqa: PLC0415  installed by those who use it

    worker = get_worker()
    key = worker.get_current_task()
    if job.process_id != _PROCESS_ID or key in _taken:
        raise WrongWorkerError(f"{worker.address} is not the worker that {key} was meant for")
    _taken.add(key)

    def is_wanted() -> bool:
        task = worker.state.tasks.get(key)
        is_cancelled = task is None or task.state not in ("executing", "long-running")
        return not is_cancelled and worker.status in (Status.running, Status.paused, Status.closing_gracefully)

    # A nanny's worker is a daemon, which may not have children; these end with it all the same.
    multiprocessing.current_process().daemon = False
    try:
        return _slot.run(job, _plan(worker, job), is_wanted)
    except CancelledError:
        raise
    except BaseException as error:  # SystemExit, too, which would end the Dask worker's thread
        if error.__cause__ is not None:  # the traceback of the process, which pickling loses
            error.add_note(str(error.__cause__))
        return cloudpickle.dumps(error)  # type: ignore[no-any-return]


def _plan(worker: Any, job: DaskJob) -> WorkerPlan:
    """Give the process what the Dask worker has: as many threads as it, its GPUs, its memory."""
    num_threads = worker.state.nthreads
    environment = thread_settings(num_threads) if num_threads < count_cores() else {}
    limit_bytes = worker.memory_manager.memory_limit
    share_mb = memory_share_mb(limit_bytes // 2**20) if limit_bytes else sys.maxsize
    return WorkerPlan([environment], job.max_worker_mb or share_mb, reason="")


def end_sweep(sweep_id: str) -> None:
    """End the warm process of a sweep."""
    _slot.end(sweep_id)
