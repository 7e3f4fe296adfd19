"""The code of a worker process: how it is set up, and how it runs one job after another."""

from __future__ import annotations

import faulthandler
import importlib
import inspect
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import psutil
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from tqdm import tqdm

from cnn_sweeps.sweep.jobs.loss import is_out_of_memory
from cnn_sweeps.system.ends import end_with_parent
from cnn_sweeps.system.output import outlive_display


class Program(NamedTuple):
    """What a launcher gets from Hydra: `hydra_context` composes each job's configuration, `config` is the sweep's."""

    hydra_context: HydraContext
    config: DictConfig
    task_function: TaskFunction

    @property
    def folders(self) -> list[str]:
        """The working folder and the folders of the configuration, which every job needs."""
        path = self.hydra_context.config_loader.get_search_path().get_path()
        folders = [each.path.removeprefix("file://") for each in path if str(each.path).startswith("file://")]
        return [str(Path.cwd()), *(str(Path(folder).absolute()) for folder in folders if Path(folder).is_dir())]


def pack_setup(
    program: Program,
    worker_module: str | None,
    *,
    variables: Mapping[str, str | None] | None = None,
    is_for_children: bool = True,
) -> bytes:
    """Pack what a worker process must know before its first job.

    Args:
        program: whose jobs the worker will run.
        worker_module: module that it imports before the first job.
        variables: environment variables to set there, or to remove if None.
        is_for_children: whether the worker is a child of this process, so that it has the same main module.
    """
    find_task = way_to_task(program.task_function, is_for_children=is_for_children)
    of_jobs = (program.hydra_context, program.config, find_task, Singleton.get_state(), worker_module)
    packed: bytes = cloudpickle.dumps((str(Path.cwd()), sys.path[:], variables or {}, cloudpickle.dumps(of_jobs)))
    return packed


def way_to_task(function: TaskFunction, *, is_for_children: bool) -> Callable[[], TaskFunction]:
    """Return what finds the task function in another process: by name and number of decorators, or by value."""
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    try:
        layers = _layers(sys.modules[module], name)
        level = next(level for level, each in enumerate(layers) if each in (function, inspect.unwrap(function)))
    except (KeyError, AttributeError, StopIteration):
        return lambda: function
    if module == "__main__":
        spec = getattr(sys.modules[module], "__spec__", None)
        if spec is None and not is_for_children:
            return lambda: function
        module = "__mp_main__" if spec is None else spec.name  # a child calls the parent's script __mp_main__
    return partial(_import_task, module, name, level)


def _import_task(module: str, name: str, level: int) -> TaskFunction:
    task: TaskFunction = _layers(importlib.import_module(module), name)[level]
    return task


def _layers(module: Any, name: str) -> list[Any]:
    """Return what a module has under a name, then the same without its outermost decorator, and so on."""
    layers = [attrgetter(name)(module)]
    while hasattr(layers[-1], "__wrapped__"):
        layers.append(layers[-1].__wrapped__)
    return layers


_KNOWN_TO_CONTROLLER = {"builtins", "cnn_sweeps", "hydra", "omegaconf", "optuna"}

# A worker process keeps this between its jobs.
_program: Program | Exception | None = None


def serve(connection: Connection) -> None:
    """Answer one call after another, until the controller ends this worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes
    with suppress(EOFError):
        while True:
            connection.send_bytes(answer(partial(make_call, connection.recv_bytes())))


def start_process(setup: bytes, environment: Mapping[str, str]) -> None:
    """Prepare a new worker process with the result of `pack_setup`, and replace its whole environment.

    A fork has the environment that its parent had at its own start.
    """
    global _program  # noqa: PLW0603 - a worker process serves one sweep
    end_with_parent()
    outlive_display()
    tqdm.set_lock(threading.RLock())  # its default, a semaphore, causes a warning when the worker is ended
    folder, path, variables, of_jobs = cloudpickle.loads(setup)
    os.chdir(folder)
    sys.path += [each for each in path if each not in sys.path]
    os.environ.clear()
    os.environ.update({name: text for name, text in (environment | variables).items() if text is not None})
    setup_globals()
    try:
        hydra_context, config, find_task, singletons, worker_module = cloudpickle.loads(of_jobs)
        Singleton.set_state(singletons)
        task_function = find_task()
    except Exception as error:  # e.g. a module is not installed here: each job raises it
        _program = error
        return
    _print_into(Path(config.hydra.sweep.dir, "workers.log"))
    _program = Program(hydra_context, config, task_function)
    if worker_module is not None:
        try:
            importlib.import_module(worker_module)
        except Exception:  # the first job meets it again, and its error is shown
            traceback.print_exc()


def make_call(call: bytes) -> Any:
    """Call a function, pickled with its arguments."""
    function, arguments = cloudpickle.loads(call)
    return function(*arguments)


def answer(act: Callable[[], Any]) -> bytes:
    """Call a function; return its result or its error, packed for `read_answer` in another process."""
    try:
        packed: bytes = cloudpickle.dumps((True, act(), _own_memory_mb()))
    except BaseException as error:  # SystemExit, too: it must not end this process
        told = _portable(error)
        told.add_note("".join(traceback.format_exception(error)))
        packed = cloudpickle.dumps((False, told, 0))
    return packed


def _own_memory_mb() -> int:
    """Return this process's resident memory in megabytes, without mapped and shared files."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - getattr(memory, "shared", 0)) // 2**20


def read_answer(packed: bytes) -> tuple[Any, int]:
    """Return the result of `answer`, and how many MB its process keeps for itself; or raise the error.

    Raises:
        RuntimeError: if only the worker can import what the function returned.
    """
    try:
        is_result, given, worker_mb = cloudpickle.loads(packed)
    except Exception as error:
        raise RuntimeError(f"what the job returned cannot be read here ({error})") from None
    if not is_result:
        raise given
    return given, worker_mb


def run_one_job(overrides: list[str], job_number: int) -> JobReturn:
    """Run one job as Hydra's own launcher would; what it prints goes to a file in its own folder.

    Raises:
        MemoryError: if the job ran out of memory, in whatever way it says so.
        Exception: why this process cannot run jobs; an exception of the job is in the result.
    """
    if isinstance(_program, Exception):
        raise _portable(_program)  # a copy, since its traceback would grow with each job
    assert _program is not None
    hydra_context, config, task_function = _program
    job_config = hydra_context.config_loader.load_sweep_config(config, overrides)
    with open_dict(job_config):
        job_config.hydra.job.id = f"{job_config.hydra.job.name}_{job_number}"
        job_config.hydra.job.num = job_number
    HydraConfig.instance().set_config(job_config)
    folder = Path(job_config.hydra.sweep.dir, str(OmegaConf.select(job_config, "hydra.sweep.subdir")))
    _print_into(folder / "output.log")
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
            raise result._return_value from error
    return result


def _print_into(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    output = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    faulthandler.enable()


def _portable(error: BaseException) -> BaseException:
    """Return a copy that the controller can read without importing what only jobs need, such as TensorFlow."""
    if type(error).__module__.partition(".")[0] in _KNOWN_TO_CONTROLLER:
        with suppress(Exception):
            copy: BaseException = cloudpickle.loads(cloudpickle.dumps(error))
            return copy
    kind = MemoryError if is_out_of_memory(error) else RuntimeError
    return kind(f"{type(error).__name__}: {error}")
