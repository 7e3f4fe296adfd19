"""Inside a worker process: what it gets before its first job, and how it runs one job after another."""

from __future__ import annotations

import faulthandler
import importlib
import inspect
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cloudpickle
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from tqdm import tqdm

from cnn_sweeps.sweep.jobs.loss import is_out_of_memory
from cnn_sweeps.sweep.jobs.machine import own_memory_mb
from cnn_sweeps.system.ends import end_with_parent
from cnn_sweeps.system.output import outlive_display


def pack_setup(
    hydra_context: HydraContext,
    config: DictConfig,
    task_function: TaskFunction,
    worker_module: str | None = None,
    *,
    variables: Mapping[str, str | None] | None = None,
    is_for_children: bool = True,
) -> bytes:
    """Make what a worker process must know ready to be sent.

    Args:
        hydra_context: composes each job's configuration, in the worker process.
        config: of the whole sweep.
        task_function: is run with each job's configuration; sent by its name if it has one that can be imported.
        worker_module: what each worker process imports before its first job.
        variables: of the environment, to be set there, or to be removed if None.
        is_for_children: the worker processes are started by this one, and so know its main module.
    """
    task = _Task(task_function, is_for_children=is_for_children)
    jobs = cloudpickle.dumps((hydra_context, config, task, Singleton.get_state(), worker_module))
    packed: bytes = cloudpickle.dumps((str(Path.cwd()), sys.path[:], variables or {}, jobs))
    return packed


class _Task:
    """A task function that finds its way into another process: by name if possible, else by value."""

    def __init__(self, function: TaskFunction, *, is_for_children: bool) -> None:
        self._module, self._name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
        level = _decoration_level(self._module, self._name, function)
        if self._module == "__main__":
            spec = getattr(sys.modules["__main__"], "__spec__", None)
            if spec is not None:
                self._module = spec.name
            elif is_for_children:
                self._module = "__mp_main__"  # what a spawned process calls the script
            else:
                level = None
        self._level, self._function = level or 0, function if level is None else None

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


_KNOWN_TO_CONTROLLER = {"builtins", "cnn_sweeps", "hydra", "omegaconf", "optuna"}

# What a worker process keeps between its jobs.
_job_setup: tuple[HydraContext, DictConfig, TaskFunction] | Exception | None = None


def serve(connection: Connection) -> None:
    """Be a worker process: answer one call after another, until the controller ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal, which sends it to all
    with suppress(EOFError):
        while True:
            connection.send_bytes(answer(connection.recv_bytes()))


def start_process(setup: bytes, environment: Mapping[str, str]) -> None:
    """Prepare a new worker process.

    Args:
        setup: what `pack_setup` gave.
        environment: the whole of it; that of a fork is of the process that is forked, as it was then.
    """
    global _job_setup  # noqa: PLW0603 - a worker process serves one sweep
    end_with_parent()
    outlive_display()
    tqdm.set_lock(threading.RLock())  # its own lock is a semaphore that is complained about when the worker is ended
    os.environ.clear()
    os.environ.update(environment)
    folder, path, variables, jobs = cloudpickle.loads(setup)
    os.chdir(folder)
    sys.path += [each for each in path if each not in sys.path]
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    setup_globals()
    try:
        hydra_context, config, task, singletons, worker_module = cloudpickle.loads(jobs)
        Singleton.set_state(singletons)
        task_function = task.resolve()
    except Exception as error:  # e.g. of a module that is not installed here: each job tells it
        _job_setup = error
        return
    _print_into(Path(config.hydra.sweep.dir), "workers.log")
    _job_setup = (hydra_context, config, task_function)
    if worker_module is not None:
        try:
            importlib.import_module(worker_module)
        except Exception:  # the first job meets it again, and tells it where a person looks
            traceback.print_exc()


def answer(call: bytes) -> bytes:
    """Make a pickled call of a function; give what `read_answer` makes a result, or an error, of elsewhere."""
    text = ""
    try:
        function, arguments = cloudpickle.loads(call)
        content = cloudpickle.dumps((True, function(*arguments)))
    except BaseException as error:  # SystemExit, too, which would end this process
        text = "".join(traceback.format_exception(error))
        content = cloudpickle.dumps((False, _portable(error)))
    return pickle.dumps((content, text))


def read_answer(packed: bytes) -> Any:
    """Give what a call in a worker gave, or raise what it raised.

    Raises:
        RuntimeError: if it gave what only its worker can import.
    """
    content, text = pickle.loads(packed)
    try:
        is_result, given = cloudpickle.loads(content)
    except Exception as error:
        raise RuntimeError(f"what the job returned cannot be read here ({error})") from None
    if is_result:
        return given
    given.add_note(text)
    raise given


def run_one_job(overrides: list[str], job_number: int) -> JobReturn:
    """Run one job as Hydra's own launcher would, with all that it prints in its own folder.

    Raises:
        MemoryError: if the job says in any way that there was no memory.
        Exception: why this process cannot run jobs; that of the job is in the result.
    """
    if isinstance(_job_setup, Exception):
        raise _portable(_job_setup).with_traceback(None)  # which would grow from job to job
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
    if result.status == JobStatus.FAILED:
        error = result._return_value
        result.traceback = "".join(traceback.format_exception(error))  # type: ignore[attr-defined]  # pickling loses it
        result.return_value = _portable(error)
        if is_out_of_memory(error):
            raise result._return_value
    result.worker_mb = own_memory_mb()  # type: ignore[attr-defined]
    return result


def _print_into(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    output = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    faulthandler.enable()


def _portable(error: BaseException) -> BaseException:
    """Give an exception that the controller can read, and without importing what only a job needs, as TensorFlow."""
    if type(error).__module__.partition(".")[0] in _KNOWN_TO_CONTROLLER:
        with suppress(Exception):
            cloudpickle.loads(cloudpickle.dumps(error))
            return error
    kind = MemoryError if is_out_of_memory(error) else RuntimeError
    return kind(f"{type(error).__name__}: {error}").with_traceback(error.__traceback__)
