"""Inside a Dask worker's process: it runs one sweep's jobs, one at a time, and its nanny replaces it if it dies."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import platform
import signal
import socket
import threading
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import cnn_sweeps
from cnn_sweeps.sweep.jobs.machine import memory_share_mb, own_memory_mb
from cnn_sweeps.sweep.jobs.process import answer, start_process
from cnn_sweeps.system.libraries import thread_settings

_PACKAGES = ("distributed", "hydra-core", "keras", "numpy", "optuna", "tensorflow")
_POLL_S = 0.2
_LEAVE_S = 1.0  # in which the last results are fetched
_PROCESS_ID = uuid.uuid4().hex
_jobs = ThreadPoolExecutor(1)  # one thread for all: Keras keeps its state by thread
_sweep_id = ""  # of the sweep that this process is for
_taken: set[str] = set()


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
    digest, folder = hashlib.blake2b(digest_size=4), Path(cnn_sweeps.__file__).parent
    for file in sorted(folder.rglob("*.py")):
        digest.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    versions = {"python": ".".join(platform.python_version_tuple()[:2]), "cnn_sweeps": cnn_sweeps.__version__}
    versions["the code of cnn_sweeps"] = digest.hexdigest()
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


@dataclass(frozen=True)
class DaskJob:
    """A function call for one process.

    Attributes:
        process_id: of the process that it is meant for; another one refuses it.
        sweep_id: a process runs the jobs of one sweep.
        setup: what `process.pack_setup` gave.
        call: the function and its arguments, pickled.
        timeout_s: seconds that it may run; None: no limit.
        max_worker_mb: resident memory beyond which the process is replaced; None: 80 % of the Dask worker's limit.
    """

    process_id: str
    sweep_id: str
    setup: bytes
    call: bytes
    timeout_s: float | None
    max_worker_mb: int | None


@dataclass(frozen=True)
class DaskAnswer:
    """What became of a job: done, still running beyond its time, or not begun since the process is another sweep's."""

    kind: Literal["done", "late", "not begun"]
    content: bytes = b""
    is_spent: bool = True  # the process is to be replaced


class WrongWorkerError(Exception):
    """A job came to another process than it was meant for, or again; it was not run."""


def run_job(job: DaskJob) -> DaskAnswer:
    """Run a job as a Dask task, and watch it: one that is no longer wanted ends with this process.

    Raises:
        WrongWorkerError: if Dask starts the job a second time.
    """
    from distributed import get_worker  # noqa: PLC0415  installed by those who use it

    worker = get_worker()
    key = worker.get_current_task()
    if job.process_id != _PROCESS_ID or key in _taken:
        raise WrongWorkerError(f"{worker.address} is not the worker that {key} was meant for")
    _taken.add(key)
    begun: Future[float] = Future()
    running = _jobs.submit(_run, job, worker, begun)
    while not wait([running], _POLL_S).done:
        if not _is_wanted(worker, key) and not running.cancel():
            _end_process()
        if job.timeout_s is not None and begun.done() and time.monotonic() - begun.result() > job.timeout_s:
            return DaskAnswer("late")
    return running.result()


def _run(job: DaskJob, worker: Any, begun: Future[float]) -> DaskAnswer:
    global _sweep_id  # noqa: PLW0603 - a process serves one sweep
    if _sweep_id not in ("", job.sweep_id):
        _sweep_id = "another"  # so that nobody begins a job while this process is about to leave
        return DaskAnswer("not begun")
    if not _sweep_id:
        multiprocessing.current_process().daemon = False  # as nannies start it, and then it may not have children
        os.environ |= thread_settings(worker.state.nthreads)  # a nanny says one
        worker.memory_manager.memory_pause_fraction = False  # a worker that pauses would never be asked to leave
        start_process(job.setup, dict(os.environ))
        _sweep_id = job.sweep_id
    begun.set_result(time.monotonic())
    content = answer(job.call)
    limit_bytes = worker.memory_manager.memory_limit
    max_mb = job.max_worker_mb or (memory_share_mb(limit_bytes // 2**20) if limit_bytes else None)
    return DaskAnswer("done", content, is_spent=max_mb is not None and own_memory_mb() > max_mb)


def _is_wanted(worker: Any, key: str) -> bool:
    task = worker.state.tasks.get(key)
    is_cancelled = task is None or task.state not in ("executing", "long-running")
    return not is_cancelled and worker.status.name in ("running", "paused", "closing_gracefully")


def leave() -> None:
    """Have this process end soon, for its nanny to start another one."""
    threading.Timer(_LEAVE_S, _end_process).start()


def _end_process() -> None:
    if os.getpgrp() == os.getpid():  # as `start_process` has it, with all that jobs have started
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
