"""Runs the jobs of one sweep, one at a time, in a Dask worker's process; its nanny replaces it if it dies."""

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
_LEAVE_S = 1.0  # time to fetch the last results
_jobs = ThreadPoolExecutor(1)  # one thread for all jobs: Keras keeps its state by thread
_sweep_id = ""  # of the sweep that this process works for
_taken: set[str] = set()


class OtherSweepError(Exception):
    """The process has run jobs of another sweep and must be replaced; the job has not begun."""


def report(needed: Sequence[str] = ()) -> tuple[str, list[str], dict[str, str]]:
    """Return the host, those of the needed paths that it lacks, and the versions that results depend on, by name."""
    code, folder = hashlib.blake2b(digest_size=4), Path(cnn_sweeps.__file__).parent
    for file in sorted(folder.rglob("*.py")):
        code.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    versions = {"python": "{}.{}".format(*sys.version_info), "the code of cnn_sweeps": code.hexdigest()}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return socket.gethostname(), [path for path in needed if not Path(path).exists()], versions


def run_job(process: str, sweep_id: str, setup: bytes, call: bytes, timeout_s: float | None) -> Any:
    """Run a job as a Dask task, and watch it; if the task is cancelled, this process ends.

    Args:
        process: the temporary folder of the process that must run the job.
        sweep_id: of the job's sweep; a process works for one sweep.
        setup: from `process.pack_setup`.
        call: the function and its arguments, pickled.
        timeout_s: seconds that the job may run; None: no limit.

    Raises:
        LostWorkerError: Dask has started the job before, here or elsewhere.
        OtherSweepError: the process works for another sweep.
        JobTimeoutError: the time is over; the job still runs.
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
        _sweep_id = "another"  # no job of either sweep begins here from now on
        raise OtherSweepError
    if not _sweep_id:
        multiprocessing.current_process().daemon = False  # nannies set it, and a daemon may not have children
        os.environ |= thread_settings(worker.state.nthreads)  # a nanny sets one thread
        worker.memory_manager.memory_pause_fraction = False  # a paused worker would never get the call to leave
        start_process(setup, dict(os.environ))
        _sweep_id = sweep_id
    begun.set_result(time.monotonic())
    return make_call(call)


def leave(process: str) -> None:
    """End this process soon, if `process` is its temporary folder; its nanny then starts another one."""
    if process == get_worker().local_directory:
        threading.Timer(_LEAVE_S, _end_process).start()


def _end_process() -> None:
    if os.getpgrp() == os.getpid():  # `start_process` made the group: it holds all that jobs have started
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
