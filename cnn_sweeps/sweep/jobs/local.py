"""Local worker processes: each runs one job after another, and can die without taking more than its own job along."""

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
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any

import cloudpickle
from hydra.core.utils import JobReturn

from cnn_sweeps.sweep.jobs.executor import JobsAhead, SlotExecutor
from cnn_sweeps.sweep.jobs.loss import JobTimeoutError, LostWorkerError, is_out_of_memory
from cnn_sweeps.sweep.jobs.machine import WorkerPlan
from cnn_sweeps.sweep.jobs.process import read_answer, run_one_job, serve, start_process
from cnn_sweeps.system.libraries import native_messages_off

_LOOK_EVERY_S = 1.0  # what a job has forked holds its dead worker's pipes open
_END_S = 10.0
_START_AGAIN_S = 0.05
_GPUS = "CUDA_VISIBLE_DEVICES"
_preparing = threading.Lock()


def local_executor(plan: WorkerPlan, setup: bytes, jobs: JobsAhead) -> SlotExecutor:
    """Give what runs jobs in the planned workers, each of which gets `setup`, as `process.pack_setup` gives it."""
    slots = [
        LocalSlot(setup, environment, jobs.worker_module, max_worker_mb=plan.max_worker_mb, timeout_s=jobs.timeout_s)
        for environment in plan.environments
    ]
    return SlotExecutor(slots, plan.reason if jobs.n_jobs == "auto" else "")


class LocalSlot:
    """A worker process, and after it another one."""

    def __init__(
        self,
        setup: bytes,
        environment: dict[str, str],
        worker_module: str | None = None,
        *,
        max_worker_mb: float,
        timeout_s: float | None = None,
    ) -> None:
        """Have no worker yet.

        Args:
            setup: what `process.pack_setup` gave.
            environment: what a worker gets to see, unless this process's own says something else.
            worker_module: what workers import before their first job.
            max_worker_mb: resident memory of its own beyond which it is replaced after its job.
            timeout_s: seconds after which a job is ended; None: no limit.
        """
        self._setup, self._environment, self._worker_module = setup, environment, worker_module
        self._max_worker_mb, self._timeout_s = max_worker_mb, timeout_s
        self._worker: _WorkerProcess | None = None
        self._starting, self._is_closed = threading.Lock(), False

    def open(self) -> None:
        """Have a worker ready; one that dies as it starts is replaced when there is a job."""
        with suppress(Exception):
            self._ready_worker()

    def run(self, overrides: Sequence[str], job_number: int) -> JobReturn:
        """Run a job.

        Raises:
            LostWorkerError: the worker died.
            MemoryError, or what else `loss.is_out_of_memory` knows: the worker is replaced before its next job.
            JobTimeoutError: the job ran too long and its worker was killed.
        """
        result: JobReturn = self._call(run_one_job, (list(overrides), job_number), self._timeout_s)
        return result

    def call(self, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        """Call an importable function in the worker, without a limit of time."""
        return self._call(function, arguments, None)

    def _call(self, function: Callable[..., Any], arguments: Sequence[Any], timeout_s: float | None) -> Any:
        worker = self._ready_worker()
        try:
            result = worker.call(function, arguments, timeout_s)
        except BaseException as error:
            if isinstance(error, (LostWorkerError, JobTimeoutError)) or is_out_of_memory(error):
                self._end_worker()
            raise
        if getattr(result, "worker_mb", 0) > self._max_worker_mb:
            self._end_worker()
        return result

    def _ready_worker(self) -> _WorkerProcess:
        with self._starting:  # a worker that starts while the slot is closed would outlive it
            if self._is_closed:
                raise CancelledError
            if self._worker is not None and self._worker.is_alive:
                return self._worker
            self._worker = worker = _start_worker(self._worker_module, self._environment)
        own = {name: text for name, text in self._environment.items() if name not in os.environ or name == _GPUS}
        try:
            worker.call(start_process, (self._setup, dict(os.environ) | own), None)
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
        """End the worker, with what runs in it."""
        with self._starting:
            self._is_closed = True
        self._end_worker()


class _WorkerProcess:
    """A process that answers one call after another."""

    def __init__(self, context: SpawnContext | ForkServerContext) -> None:
        """Start it, without waiting for it."""
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs,))
        with without_ctrl_c():
            self._process.start()
        theirs.close()

    @property
    def is_alive(self) -> bool:
        """Whether it may answer."""
        return self._process.is_alive()

    def call(self, function: Callable[..., Any], arguments: Sequence[Any], timeout_s: float | None) -> Any:
        """Call a function there; give what it gives, or raise what it raises.

        Raises:
            LostWorkerError: the process died.
            JobTimeoutError: it has not answered in time.
        """
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        with suppress(OSError):  # of a dead one, which the next line finds
            self._connection.send_bytes(cloudpickle.dumps((function, arguments)))
        ends: list[Any] = [self._connection, self._process.sentinel]
        while not wait(ends, min(_LOOK_EVERY_S, max(0.0, deadline - time.monotonic()))) and self._process.is_alive():
            if time.monotonic() >= deadline:
                raise JobTimeoutError
        try:
            answer = self._connection.recv_bytes() if self._connection.poll() else b""
        except (EOFError, OSError):
            answer = b""
        if not answer:
            self._process.join(_END_S)
            raise LostWorkerError(f"the worker process died (exit code {self._process.exitcode})")
        return read_answer(answer)

    def end(self) -> None:
        """Kill the process and what its jobs have started."""
        pid = self._process.pid
        if pid is not None and self.is_alive:
            with suppress(ProcessLookupError):  # it has no group of its own yet
                os.killpg(pid, signal.SIGKILL)
            self._process.kill()
        self._process.join()


def _start_worker(worker_module: str | None, environment: Mapping[str, str]) -> _WorkerProcess:
    """Start a worker, again if the process that it is to be a fork of is killed in that moment."""
    deadline = time.monotonic() + _END_S
    while True:
        try:
            return _WorkerProcess(_start_context(worker_module, environment))
        except (EOFError, ConnectionError) as error:
            if time.monotonic() > deadline:
                raise LostWorkerError(f"the worker process could not be started ({error})") from error
            time.sleep(_START_AGAIN_S)


def _start_context(worker_module: str | None, environment: Mapping[str, str]) -> SpawnContext | ForkServerContext:
    """Give the way in which workers are started.

    On Linux they are forks of one process, which imports the module once for all of them, in the environment of a
    worker: libraries read the number of their threads while they are loaded. Elsewhere, and without a module, each is
    a new process: forks of what a user's own script has imported are not known to work.
    """
    if worker_module is None or sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    with _preparing, without_ctrl_c(), native_messages_off():  # it has nothing to say that the workers do not
        context.set_forkserver_preload([worker_module])
        added = {name: text for name, text in environment.items() if name not in os.environ and name != _GPUS}
        os.environ.update(added)
        try:
            forkserver.ensure_running()
        finally:
            for name in added:
                del os.environ[name]
    return context


@contextmanager
def without_ctrl_c() -> Iterator[None]:
    """Start processes that Ctrl-C, which the terminal sends to all, does not reach."""
    resource_tracker.ensure_running()  # which would let Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
