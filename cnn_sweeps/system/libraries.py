"""Prepares and quietens slow libraries: the environment that they read, and what they print on import."""

import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cnn_sweeps.system.output import open_lossy

_ENVIRONMENT = {  # defaults; the user's own values stay
    "TF_CPP_MIN_LOG_LEVEL": "3",  # errors reach Python as exceptions anyway
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # MLflow draws it even without a terminal
    "MLFLOW_UV_AUTO_DETECT": "false",  # a lock file in the working folder is no part of a model
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for each run that ends, also for each trial
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the default, 7, takes 4 minutes, and failed requests are sent later
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds; the default is 120
    "JOBLIB_MULTIPROCESSING": "0",  # unused, and Python warns at exit about its semaphore
}
_LOADING = "loading libraries; this takes some seconds"
_messages = threading.Lock()
_kept: list[int] = []  # for each block in progress: the standard error before it; the first one is the real one
_THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def prepare_libraries() -> None:
    """Set the environment variables that the libraries read on import."""
    for name, text in _ENVIRONMENT.items():
        os.environ.setdefault(name, text)
    os.environ["KERAS_BACKEND"] = "tensorflow"
    keep_git_from_helpers()


def keep_git_from_helpers() -> None:
    """Keep git from running programs that a repository's configuration names.

    MLflow calls git in the program's folder. Turned off are hooks, the monitor of changed files, and fetching objects.
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
    """Return environment variables that make TensorFlow compute with this number of threads once it is imported.

    The last bits of sums depend on the number of threads.
    """
    return dict.fromkeys(_THREADS, str(num_threads))


def current_thread_settings() -> dict[str, str]:
    """Return the variables of `thread_settings` that this process has."""
    return {key: os.environ[key] for key in _THREADS if key in os.environ}


def count_threads() -> int:
    """Return the number of threads that TensorFlow computes with: the set one, else one per usable core."""
    if setting := os.environ.get("TF_NUM_INTRAOP_THREADS"):
        return int(setting)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def slow_imports() -> Iterator[None]:
    """Prepare slow libraries, import them quietly in the block, and exclude their objects from garbage collection.

    These objects live as long as the process. Scanning them again and again takes a third of the time of a short run.
    """
    prepare_libraries()
    if "tensorflow" in sys.modules:  # other objects exist by now, which must be collected
        with saying(_LOADING):  # MLflow may be missing yet
            yield
        return
    is_collecting = gc.isenabled()
    gc.disable()
    try:
        with native_messages_off() as stderr, saying(_LOADING, stderr):
            yield
    finally:
        gc.freeze()
        if is_collecting:
            gc.enable()


@contextmanager
def saying(text: str, file: int = 2) -> Iterator[None]:
    """Show a line while the block runs, if this file descriptor, by default that of standard error, is a terminal."""
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
    """Hide what TensorFlow's native libraries write to standard error; they have no setting for it.

    Yields a file descriptor of the real standard error. Blocks may overlap, since a sweep imports in one thread while
    it starts workers in another; standard error is back when the last one ends.
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
