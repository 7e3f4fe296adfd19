"""Local worker processes: each runs one job after another, and can die without taking more than its own job along."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from typing import Any

import cloudpickle
from hydra.core.utils import JobReturn
from pebble import ProcessFuture, ProcessPool
from pebble.pool.process import WorkerManager

from cnn_sweeps.sweep.jobs.machine import WorkerPlan
from cnn_sweeps.sweep.jobs.outcome import is_out_of_memory
from cnn_sweeps.sweep.jobs.process import run_one_job, start_process

_END_S = 30.0  # pebble kills a worker that does not end within 3 s


class _Workers(WorkerManager):
    """Pebble's, which takes a worker that ends with status 0 for one that has done its work, and waits for ever."""

    def inspect_workers(self) -> tuple[tuple[int | None, int | None], ...]:
        """Give number and exit code of each worker that has ended: whoever ends by himself is lost."""
        ended = [worker for worker in list(self.workers.values()) if not worker.is_alive()]
        for worker in ended:
            assert worker.pid is not None
            del self.workers[worker.pid]
        return tuple((worker.pid, worker.exitcode) for worker in ended)


class _Pool(ProcessPool):
    """A pool of one worker that always ends."""

    def __init__(self, context: BaseContext, initargs: Sequence[Any]) -> None:
        """Have no worker before the first job."""
        super().__init__(max_workers=1, initializer=start_process, initargs=initargs, context=context)
        self._worker_manager = _Workers(1, self._context.worker_parameters, context)
        self._pool_manager.worker_manager = self._worker_manager

    def end(self) -> None:
        """End the worker, whatever state it is in, and do not wait for what it will never send."""
        self.stop()  # type: ignore[no-untyped-call]
        joining = threading.Thread(target=self.join, daemon=True)
        joining.start()
        joining.join(_END_S)
        for worker in list(self._worker_manager.workers.values()):
            worker.kill()


class WorkerPool:
    """As many worker processes as jobs may run at once, each in a pool of its own, so that none can break another's."""

    def __init__(self, plan: WorkerPlan, setup: bytes, worker_module: str | None = None) -> None:
        """Start the workers, without waiting for them.

        Args:
            plan: how many, and what each gets of the machine.
            setup: what `process.pack_setup` gave.
            worker_module: what workers import before their first job.
        """
        self._plan = plan
        self._context = _start_context(worker_module, plan.environments[0])
        # In a file: what does not fit into a pipe would block this process if a worker died while it starts.
        self._setup_file = tempfile.NamedTemporaryFile(prefix="cnn_sweeps_")  # noqa: SIM115 - closed by close()
        self._setup_file.write(cloudpickle.dumps((dict(os.environ), setup)))
        self._setup_file.flush()
        self._pools = [self._start_pool(slot) for slot in range(plan.num_workers)]
        self._busy: dict[int, ProcessFuture[Any]] = {}

    def submit(self, overrides: Sequence[str], job_number: int, timeout_s: float | None = None) -> Future[JobReturn]:
        """Run a job in a free worker.

        Raises (from the future):
            pebble.ProcessExpired: the worker died.
            MemoryError, or what else `outcome.is_out_of_memory` knows: the worker is replaced before its next job.
            TimeoutError: the job ran longer than `timeout_s` and was killed.
        """
        return self.call(run_one_job, list(overrides), job_number, timeout_s=timeout_s)

    def call(self, function: Callable[..., Any], *arguments: Any, timeout_s: float | None = None) -> Future[Any]:
        """Run any importable function in a free worker."""
        slot = next(slot for slot in range(len(self._pools)) if slot not in self._busy or self._busy[slot].done())
        if self._is_spent(slot) or not self._pools[slot].active:  # pebble gives one up whose worker dies between jobs
            self._pools[slot].end()
            self._pools[slot] = self._start_pool(slot)
        future: ProcessFuture[Any] = self._pools[slot].schedule(function, arguments, timeout=timeout_s)
        self._busy[slot] = future
        return future

    def fail_forgotten(self) -> None:
        """End the futures that pebble leaves waiting when it gives a pool up: of a job that came in that moment."""
        for slot, future in self._busy.items():
            if not future.done() and not self._pools[slot].active:
                with suppress(InvalidStateError):
                    future.set_exception(BrokenProcessPool("its worker process died before the job"))

    def _is_spent(self, slot: int) -> bool:
        """Tell whether the last job left its worker with more memory than it may keep, or got none in the middle."""
        last = self._busy.get(slot)
        if last is None or last.cancelled():
            return False
        if (error := last.exception()) is not None:
            return is_out_of_memory(error)
        return bool(getattr(last.result(), "worker_mb", 0) > self._plan.max_worker_mb)

    def _start_pool(self, slot: int) -> _Pool:
        initargs = (self._setup_file.name, self._plan.environments[slot])
        pool = _Pool(self._context, initargs)
        with without_ctrl_c():
            pool.schedule(_be_ready)
        return pool

    def close(self) -> None:
        """End the workers, with the jobs that are still running in them."""
        for pool in self._pools:
            pool.stop()  # type: ignore[no-untyped-call]
        for pool in self._pools:
            pool.end()
        self._setup_file.close()


def _start_context(worker_module: str | None, environment: Mapping[str, str]) -> BaseContext:
    """Give the way in which workers are started.

    On Linux they are forks of one process, which imports the module once for all of them, in the environment of a
    worker: libraries read the number of their threads while they are loaded. Elsewhere, and without a module, each is
    a new process: forks of what a user's own script has imported are not known to work.
    """
    if worker_module is None or sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([worker_module])
    before = dict(os.environ)
    os.environ.update({name: value for name, value in environment.items() if name not in before and "CUDA" not in name})
    try:
        with without_ctrl_c():
            forkserver.ensure_running()
    finally:
        for name in os.environ.keys() - before.keys():
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


def _be_ready() -> None:
    """Be a worker's first job, for which it is started."""
