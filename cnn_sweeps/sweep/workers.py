"""Local worker processes: each runs one job after another, and can die without taking more than its own job along."""

from __future__ import annotations

import concurrent.futures
import faulthandler
import importlib
import inspect
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import cloudpickle
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from pebble import ProcessFuture, ProcessPool
from tqdm import tqdm

from cnn_sweeps.sweep.machine import WorkerPlan, own_memory_mb


class WorkerPool:
    """As many worker processes as jobs may run at once, each in a pool of its own, so that none can break another's."""

    def __init__(
        self,
        plan: WorkerPlan,
        hydra_context: HydraContext,
        config: DictConfig,
        task_function: TaskFunction,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        """Start the workers, without waiting for them.

        Args:
            plan: how many, and what each gets of the machine.
            hydra_context: composes each job's configuration, in the worker.
            config: of the whole sweep.
            task_function: is run with each job's configuration; sent by its name if it has one that can be imported.
            prepare: an importable function that each worker runs once, before its first job.
        """
        self._plan = plan
        setup = (hydra_context, config, _Task(task_function), Singleton.get_state(), prepare)
        # In a file: what does not fit into a pipe would block this process if a worker died while it starts.
        self._setup_file = tempfile.NamedTemporaryFile(prefix="cnn_sweeps_")  # noqa: SIM115 - closed by close()
        self._setup_file.write(cloudpickle.dumps(setup))
        self._setup_file.flush()
        self._pools = [self._start_pool(slot) for slot in range(plan.num_workers)]
        self._busy: dict[int, ProcessFuture[Any]] = {}

    def submit(self, overrides: Sequence[str], job_number: int, timeout_s: float | None = None) -> Future[JobReturn]:
        """Run a job in a free worker.

        Raises (from the future):
            pebble.ProcessExpired: the worker died.
            TimeoutError: the job ran longer than `timeout_s` and was killed.
        """
        return self.call(_run_job, list(overrides), job_number, timeout_s=timeout_s)

    def call(self, function: Callable[..., Any], *arguments: Any, timeout_s: float | None = None) -> Future[Any]:
        """Run any importable function in a free worker."""
        slot = next(slot for slot in range(len(self._pools)) if slot not in self._busy or self._busy[slot].done())
        if self._has_outgrown(slot):
            self._pools[slot].stop()  # type: ignore[no-untyped-call]
            self._pools[slot].join()
        if not self._pools[slot].active:  # pebble gives a pool up when its worker dies between two jobs
            self._pools[slot] = self._start_pool(slot)
        future: ProcessFuture[Any] = self._pools[slot].schedule(function, arguments, timeout=timeout_s)
        self._busy[slot] = future
        return future

    def _has_outgrown(self, slot: int) -> bool:
        """Tell whether the worker's last job left it with more memory than it may keep."""
        last = self._busy.get(slot)
        if last is None or last.cancelled() or last.exception() is not None:
            return False
        return bool(getattr(last.result(), "worker_mb", 0) > self._plan.max_worker_mb)

    def _start_pool(self, slot: int) -> ProcessPool:
        context = multiprocessing.get_context("spawn")
        initargs = (self._setup_file.name, sys.path[:], self._plan.environments[slot])
        pool = ProcessPool(max_workers=1, initializer=_start_worker, initargs=initargs, context=context)
        with _without_ctrl_c():
            pool.schedule(_be_ready)
        return pool

    def close(self) -> None:
        """End the workers, with the jobs that are still running in them."""
        for pool in self._pools:
            pool.stop()  # type: ignore[no-untyped-call]
        for pool in self._pools:
            pool.join()
        self._setup_file.close()


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Start processes that Ctrl-C, which the terminal sends to all, does not reach."""
    resource_tracker.ensure_running()  # which would let Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_batch(
    pool: WorkerPool, num_workers: int, job_overrides: Sequence[Sequence[str]], first_job_number: int
) -> list[JobReturn]:
    """Run jobs, each as soon as a worker is free; give their results in order. A worker that dies fails its own job."""
    futures: list[Future[JobReturn]] = []
    for job_number, overrides in enumerate(job_overrides, first_job_number):
        busy = [future for future in futures if not future.done()]
        if len(busy) == num_workers:
            concurrent.futures.wait(busy, return_when=concurrent.futures.FIRST_COMPLETED)
        futures.append(pool.submit(overrides, job_number))
    return [_result_or_failure(future) for future in futures]


def _result_or_failure(future: Future[JobReturn]) -> JobReturn:
    error = future.exception()
    return future.result() if error is None else JobReturn(status=JobStatus.FAILED, _return_value=error)


class _Task:
    """A task function that finds its way into another process: by name if possible, else by value."""

    def __init__(self, function: TaskFunction) -> None:
        self._module, self._name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
        level = _decoration_level(self._module, self._name, function)
        self._level, self._function = level or 0, function if level is None else None
        if self._module == "__main__":
            spec = getattr(sys.modules["__main__"], "__spec__", None)
            self._module = spec.name if spec is not None else "__mp_main__"  # which a spawned process calls the script

    def resolve(self) -> TaskFunction:
        """Give the function."""
        if self._function is not None:
            return self._function
        importlib.import_module(self._module)
        function: TaskFunction = _undecorated(self._module, self._name)[self._level]
        return function


def _decoration_level(module: str, name: str, function: Any) -> int | None:
    """Count the decorators between what a module holds under a name and the function; None if it is not there."""
    try:
        held = _undecorated(module, name)
    except (KeyError, AttributeError):
        return None
    for level, each in enumerate(held):
        if each is function or each is inspect.unwrap(function):
            return level
    return None


def _undecorated(module: str, name: str) -> list[Any]:
    """Give what a module holds under a name, then without its outermost decorator, and so on."""
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part)
    held = [found]
    while hasattr(held[-1], "__wrapped__"):
        held.append(held[-1].__wrapped__)
    return held


# What a worker keeps between its jobs.
_job_setup: tuple[HydraContext, DictConfig, TaskFunction] | None = None


def _start_worker(setup_file: str, path: list[str], environment: dict[str, str]) -> None:
    """Prepare a new worker process."""
    global _job_setup  # noqa: PLW0603 - a worker process serves one sweep
    threading.Thread(target=_die_with_parent, daemon=True).start()
    tqdm.set_lock(threading.RLock())  # its own lock is a semaphore that is complained about when the worker is ended
    sys.path[:] = path
    for name, value in environment.items():
        if name == "CUDA_VISIBLE_DEVICES" or name not in os.environ:
            os.environ[name] = value
    hydra_context, config, task, singletons, prepare = cloudpickle.loads(Path(setup_file).read_bytes())
    setup_globals()
    Singleton.set_state(singletons)
    _print_into(Path(config.hydra.sweep.dir), "workers.log")
    _job_setup = (hydra_context, config, task.resolve())
    if prepare is not None:
        try:
            prepare()
        except Exception:  # the first job meets it again, and tells it where a person looks
            traceback.print_exc()


def _be_ready() -> None:
    """Be a worker's first job, for which it is started."""


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


class _Parcel:
    """A result on its way to the controller; arrives as the result itself."""

    def __init__(self, result: JobReturn) -> None:
        self._content = cloudpickle.dumps(result)

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        return cloudpickle.loads, (self._content,)


def _run_job(overrides: list[str], job_number: int) -> _Parcel:
    """Run one job as Hydra's own launcher would, with all that it prints in its own folder."""
    assert _job_setup is not None
    hydra_context, config, task_function = _job_setup
    job_config = hydra_context.config_loader.load_sweep_config(config, overrides)
    with open_dict(job_config):
        job_config.hydra.job.id = f"{job_config.hydra.job.name}_{job_number}"
        job_config.hydra.job.num = job_number
    HydraConfig.instance().set_config(job_config)
    _print_into(Path(job_config.hydra.sweep.dir, str(OmegaConf.select(job_config, "hydra.sweep.subdir"))), "output.log")
    result = run_job(
        hydra_context=hydra_context,
        task_function=task_function,
        config=job_config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    result.worker_mb = own_memory_mb()  # type: ignore[attr-defined]
    return _Parcel(_portable(result))


def _print_into(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    output = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    faulthandler.enable()


def _portable(result: JobReturn) -> JobReturn:
    """Keep the traceback of a failed job, which pickling loses, and replace an exception that cannot be pickled."""
    if result.status != JobStatus.FAILED:
        return result
    error = result._return_value
    result.traceback = "".join(traceback.format_exception(error))  # type: ignore[attr-defined]
    try:
        cloudpickle.loads(cloudpickle.dumps(error))
    except Exception:
        result.return_value = RuntimeError(f"{type(error).__name__}: {error}")
    return result
