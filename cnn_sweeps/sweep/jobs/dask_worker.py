"""Inside a Dask worker's process: it runs one sweep's jobs, one at a time, and its nanny replaces it if it dies."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from distributed import get_worker

import cnn_sweeps
from cnn_sweeps.sweep.jobs.loss import JobTimeoutError, LostWorkerError
from cnn_sweeps.sweep.jobs.process import make_call, start_process
from cnn_sweeps.system.libraries import thread_settings

_PACKAGES = ("distributed", "hydra-core", "keras", "numpy", "optuna", "tensorflow")
_POLL_S = 0.2
_LEAVE_S = 1.0  # in which the last results are fetched
_jobs = ThreadPoolExecutor(1)  # one thread for all: Keras keeps its state by thread
_sweep_id = ""  # of the sweep that this process is for
_taken: set[str] = set()


class OtherSweepError(Exception):
    """A process has run jobs of another sweep, and is to be replaced; this job was not begun."""


def report(needed: Sequence[str] = ()) -> tuple[str, list[str], dict[str, str]]:
    """Tell the host, which of the needed paths are missing there, and the versions that bear on results, by name."""
    code, folder = hashlib.blake2b(digest_size=4), Path(cnn_sweeps.__file__).parent
    for file in sorted(folder.rglob("*.py")):
        code.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    versions = {"python": "{}.{}".format(*sys.version_info), "the code of cnn_sweeps": code.hexdigest()}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return socket.gethostname(), [path for path in needed if not Path(path).exists()], versions


def run_job(process: str, sweep_id: str, setup: bytes, call: bytes, timeout_s: float | None) -> Any:
    """Run a job as a Dask task, and watch it: one that is no longer wanted ends with this process.

    Args:
        process: the temporary folder of the one that the job is meant for.
        sweep_id: a process is for one sweep.
        setup: what `process.pack_setup` gave.
        call: the function and its arguments, pickled.
        timeout_s: seconds that it may run; None: no limit.

    Raises:
        LostWorkerError: Dask has started the job before, here or elsewhere.
        OtherSweepError: the process is for another sweep.
        JobTimeoutError: the job still runs.
    """
    worker = get_worker()
    key = worker.get_current_task()
    if process != worker.local_directory or key in _taken:
        raise LostWorkerError(f"the Dask worker at {worker.address} died")
    _taken.add(key)
    begun: Future[float] = Future()
    running = _jobs.submit(_run, worker, sweep_id, setup, call, begun)
    while not wait([running], _POLL_S).done:
        task = worker.state.tasks.get(key)
        is_wanted = task is not None and task.state in ("executing", "long-running")
        is_open = worker.status.name in ("running", "paused", "closing_gracefully")
        if not (is_wanted and is_open) and not running.cancel():
            _end_process()
        if timeout_s is not None and begun.done() and time.monotonic() - begun.result() > timeout_s:
            raise JobTimeoutError
    return running.result()


def _run(worker: Any, sweep_id: str, setup: bytes, call: bytes, begun: Future[float]) -> Any:
    global _sweep_id  # noqa: PLW0603 - a process serves one sweep
    if _sweep_id not in ("", sweep_id):
        _sweep_id = "another"  # so that nobody begins a job while this process is about to leave
        raise OtherSweepError
    if not _sweep_id:
        multiprocessing.current_process().daemon = False  # as nannies start it, and then it may not have children
        os.environ |= thread_settings(worker.state.nthreads)  # a nanny says one
        worker.memory_manager.memory_pause_fraction = False  # a worker that pauses would never be asked to leave
        start_process(setup, dict(os.environ))
        _sweep_id = sweep_id
    begun.set_result(time.monotonic())
    return make_call(call)


def leave(process: str) -> None:
    """Have this process end soon, if it is the one that is meant, for its nanny to start another one."""
    if process == get_worker().local_directory:
        threading.Timer(_LEAVE_S, _end_process).start()


def _end_process() -> None:
    if os.getpgrp() == os.getpid():  # as `start_process` has it, with all that jobs have started
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
