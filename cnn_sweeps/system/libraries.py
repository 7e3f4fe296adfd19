"""What the slow libraries read and write while they are imported."""

import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cnn_sweeps.system.output import open_lossy

_ENVIRONMENT = {  # what the user has set stays
    "TF_CPP_MIN_LOG_LEVEL": "3",  # errors reach Python as exceptions anyway
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # drawn where no terminal is, too
    "MLFLOW_UV_AUTO_DETECT": "false",  # a lock file in the working folder is no part of a model
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for each run that ends, of a sweep's trials, too
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # of 7, which take 4 minutes: what fails can wait
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds, of 120
    "JOBLIB_MULTIPROCESSING": "0",  # unused, and its trial semaphore is complained about at exit
}
_LOADING = "loading libraries, which takes some seconds"
_messages = threading.Lock()
_kept: list[int] = []  # of each block that is under way, where standard error led before it; the first is the real one
_THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def prepare_libraries() -> None:
    """Set what the libraries read from the environment when they are imported."""
    for name, text in _ENVIRONMENT.items():
        os.environ.setdefault(name, text)
    os.environ["KERAS_BACKEND"] = "tensorflow"
    keep_git_from_helpers()


def keep_git_from_helpers() -> None:
    """Have no git that this process starts run what a repository's configuration names.

    MLflow asks git about the program's folder. Off are hooks, a monitor of changed files, and the fetching of objects.
    """
    count = os.environ.get("GIT_CONFIG_COUNT", "")
    number = int(count) if count.isdecimal() else 0
    if os.environ.get(f"GIT_CONFIG_KEY_{number - 1}") != "core.hooksPath":
        settings = {"core.fsmonitor": "false", "core.hooksPath": os.devnull}
        for position, (key, text) in enumerate(settings.items(), number):
            os.environ |= {f"GIT_CONFIG_KEY_{position}": key, f"GIT_CONFIG_VALUE_{position}": text}
        os.environ["GIT_CONFIG_COUNT"] = str(number + len(settings))
    os.environ["GIT_NO_LAZY_FETCH"] = "1"


def thread_settings(num_threads: int) -> dict[str, str]:
    """Give the environment that has TensorFlow, once it is imported, compute with so many threads.

    How sums are divided, and with that their last bits, depends on it.
    """
    return dict.fromkeys(_THREADS, str(num_threads))


def current_thread_settings() -> dict[str, str]:
    """Give those settings that this process's environment has."""
    return {key: os.environ[key] for key in _THREADS if key in os.environ}


def count_threads() -> int:
    """Give how many threads TensorFlow computes with here: as set, else one for each core that it may use."""
    if setting := os.environ.get("TF_NUM_INTRAOP_THREADS"):
        return int(setting)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def slow_imports() -> Iterator[None]:
    """Import slow libraries in the block, quietly, and leave the objects that they make out of the garbage collection.

    They last, and looking through them again and again takes a third of the time of a short run.
    """
    if "tensorflow" in sys.modules:  # what is there by now does not all last
        yield
        return
    is_collecting = gc.isenabled()
    gc.disable()
    try:
        with native_messages_off() as stderr, _saying(_LOADING, stderr):
            yield
    finally:
        gc.freeze()
        if is_collecting:
            gc.enable()


@contextmanager
def _saying(text: str, file: int) -> Iterator[None]:
    """Show a line while the block runs, if the open file of this number is a terminal."""
    if not os.isatty(file):
        yield
        return
    terminal = open_lossy(file)
    print(f"\r{text}", end="", file=terminal, flush=True)
    try:
        yield
    finally:
        print(f"\r{' ' * len(text)}\r", end="", file=terminal, flush=True)


@contextmanager
def native_messages_off() -> Iterator[int]:
    """Keep off the terminal what TensorFlow's libraries write to it while loading, which no setting of theirs does.

    Gives the number of the file that standard error is otherwise, which it is again when the last such block ends: a
    sweep imports in one thread while it starts workers in another.
    """
    with _messages:
        sys.stderr.flush()
        _kept.append(os.dup(2))
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        stderr = _kept[0]
    try:
        yield stderr
    finally:
        with _messages:
            before = _kept.pop()
            if not _kept:
                os.dup2(before, 2)
            os.close(before)
