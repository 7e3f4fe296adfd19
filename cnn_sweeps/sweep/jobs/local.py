"""Runs jobs in worker processes of this machine, one after another in each; a dead worker loses only its own job."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, ForkServerProcess, SpawnContext
from typing import Any

import cloudpickle
from hydra.core.utils import JobReturn

from cnn_sweeps.sweep.jobs.executor import JobsAhead, SlotExecutor
from cnn_sweeps.sweep.jobs.loss import JobTimeoutError, LostWorkerError, is_lost_worker
from cnn_sweeps.sweep.jobs.machine import plan_workers
from cnn_sweeps.sweep.jobs.process import Program, pack_setup, read_answer, run_one_job, serve, start_process
from cnn_sweeps.sweep.jobs.settings import WorkersSettings
from cnn_sweeps.sweep.settings import check_values
from cnn_sweeps.system.libraries import native_messages_off

_LOOK_EVERY_S = 1.0  # forks of a job hold the pipes of its dead worker open
_END_S = 10.0
_START_AGAIN_S = 0.05
_GPUS = "CUDA_VISIBLE_DEVICES"
_NOT_KNOWN = 255  # multiprocessing's exit code if the fork server was killed before it knew how the fork ended
_preparing = threading.Lock()


def plan_local_executor(values: Mapping[str, Any], jobs: JobsAhead, program: Program) -> SlotExecutor:
    """Return the executor for a program's jobs on this machine; `values` are those of `hydra.launcher`.

    Raises:
        ConfigError: if a value is wrong, or the machine lacks what it asks for.
    """
    settings = check_values(WorkersSettings, {**values, "n_jobs": jobs.n_jobs}, "hydra.launcher")
    plan, setup = plan_workers(settings, jobs.at_most), pack_setup(program, jobs.worker_module)
    slots = [LocalSlot(setup, environment, jobs, plan.max_worker_mb) for environment in plan.environments]
    return SlotExecutor(slots, plan.reason if jobs.n_jobs == "auto" else "")


class LocalSlot:
    """A slot that always has one worker process, and replaces it when it has ended."""

    def __init__(self, setup: bytes, environment: Mapping[str, str], jobs: JobsAhead, max_worker_mb: float) -> None:
        """Start no worker yet.

        Args:
            setup: from `process.pack_setup`.
            environment: environment variables for workers; those of this process win, except for the GPUs.
            jobs: how long one may run, and which module workers import before the first one.
            max_worker_mb: a worker that keeps more memory of its own, in megabytes, is replaced after its job.
        """
        own = {name: text for name, text in environment.items() if name not in os.environ or name == _GPUS}
        self._setup, self._environment, self._jobs, self._max_worker_mb = setup, own, jobs, max_worker_mb
        self._worker: _WorkerProcess | None = None
        self._starting, self._is_closed = threading.Lock(), False

    def open(self) -> None:
        """Start a worker; if it dies while it starts, the next job starts another one."""
        with suppress(Exception):
            self._ready_worker()

    def run(self, overrides: Sequence[str], job_number: int) -> JobReturn:
        """Run a job, at most for the allowed time."""
        result: JobReturn = self.call(run_one_job, (list(overrides), job_number), self._jobs.timeout_s)
        return result

    def call(self, function: Callable[..., Any], arguments: Sequence[Any], timeout_s: float | None = None) -> Any:
        """Call an importable function in the worker; replace the worker if it dies, takes too long or lacks memory.

        Raises:
            LostWorkerError: the worker died.
            JobTimeoutError: the worker did not answer in time, and was killed.
        """
        worker = self._ready_worker()
        try:
            result, worker_mb = worker.call(function, arguments, timeout_s)
        except BaseException as error:
            if is_lost_worker(error):
                self._end_worker()
            raise
        if worker_mb > self._max_worker_mb:
            self._end_worker()
        return result

    def _ready_worker(self) -> _WorkerProcess:
        with self._starting:  # else a worker that starts during `close` would outlive the slot
            if self._is_closed:
                raise CancelledError
            if self._worker is not None and self._worker.is_alive:
                return self._worker
            self._worker = worker = _start_worker(self._jobs.worker_module, self._environment)
        try:
            worker.call(start_process, (self._setup, dict(os.environ) | self._environment))
        except BaseException:
            self._end_worker()
            raise
        return worker

    def _end_worker(self) -> None:
        with self._starting:
            if self._worker is not None:
                self._worker.end()
            self._worker = None

    def close(self) -> None:
        """End the worker and its job."""
        with self._starting:
            self._is_closed = True
        self._end_worker()


class _WorkerProcess:
    """A process that answers one call after another."""

    def __init__(self, context: SpawnContext | ForkServerContext) -> None:
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs,))
        with without_ctrl_c():
            self._process.start()
        theirs.close()

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def call(
        self, function: Callable[..., Any], arguments: Sequence[Any], timeout_s: float | None = None
    ) -> tuple[Any, int]:
        """Call a function there; return its result and how many MB the process keeps, or raise its error."""
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        with suppress(OSError):  # the process may be dead, which is found below
            self._connection.send_bytes(cloudpickle.dumps((function, arguments)))
        ends: list[Any] = [self._connection, self._process.sentinel]
        while not wait(ends, min(_LOOK_EVERY_S, max(0.0, deadline - time.monotonic()))) and self._process.is_alive():
            if time.monotonic() >= deadline:
                raise JobTimeoutError
        try:
            packed = self._connection.recv_bytes() if self._connection.poll() else b""
        except (EOFError, OSError):
            packed = b""
        if packed:
            return read_answer(packed)
        self._process.join(_END_S)
        is_known = self._process.exitcode != _NOT_KNOWN or not isinstance(self._process, ForkServerProcess)
        how = f"exit code {self._process.exitcode}" if is_known else "killed, and its parent process, too"
        raise LostWorkerError(f"the worker process died ({how})")

    def end(self) -> None:
        """Kill the process and all processes that its jobs have started."""
        pid = self._process.pid
        if pid is not None and self._process.exitcode in (None, _NOT_KNOWN):
            with suppress(ProcessLookupError):  # it has no process group of its own yet, or not any more
                os.killpg(pid, signal.SIGKILL)
            self._process.kill()
        self._process.join()


def _start_worker(worker_module: str | None, environment: Mapping[str, str]) -> _WorkerProcess:
    """Start a worker; try again if the process that it is forked from is killed at that moment."""
    deadline = time.monotonic() + _END_S
    while True:
        try:
            return _WorkerProcess(_start_context(worker_module, environment))
        except (EOFError, ConnectionError) as error:
            if time.monotonic() > deadline:
                raise LostWorkerError(f"the worker process could not be started ({error})") from error
            time.sleep(_START_AGAIN_S)


def _start_context(worker_module: str | None, environment: Mapping[str, str]) -> SpawnContext | ForkServerContext:
    """Return the multiprocessing context that starts workers.

    On Linux, workers are forks of one process, which imports the module once for all of them. It has the environment
    of a worker, since libraries read the number of threads while they load. On other systems, and without a module,
    each worker is a new process: a fork may not work with what the user's script has imported.
    """
    if worker_module is None or sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    with _preparing, without_ctrl_c(), native_messages_off():  # the workers print the same messages
        context.set_forkserver_preload([worker_module])
        added = {name: text for name, text in environment.items() if name != _GPUS}
        os.environ.update(added)
        try:
            forkserver.ensure_running()
        finally:
            for name in added:
                del os.environ[name]
    return context


@contextmanager
def without_ctrl_c() -> Iterator[None]:
    """Start processes in the block that ignore Ctrl-C, which a terminal sends to all processes."""
    resource_tracker.ensure_running()  # its start would let Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
