"""Errors by which a job is lost: its worker died, ran out of memory, or was ended.

Workers import this module, so it does not import Optuna.
"""

from __future__ import annotations

import errno
import os
from concurrent.futures import BrokenExecutor

# By name, since this module imports neither TensorFlow nor joblib.
_OUT_OF_MEMORY = {"MemoryError", "ResourceExhaustedError"}
_LOST_BY_ANOTHER_JOB = "ShutdownExecutorError"
# Messages of Python about C code, such as TensorFlow, that ran out of memory without saying so; and of the C library.
_NO_MEMORY = (
    "error return without exception set",
    "failed to map segment from shared object",
    os.strerror(errno.ENOMEM),
)


class LostWorkerError(BrokenExecutor):
    """A worker was lost, together with its job."""


class JobTimeoutError(LostWorkerError):
    """A job ran longer than allowed, and its worker was ended."""


def is_lost_worker(error: BaseException) -> bool:
    """Return whether an error means that the worker died or ran out of memory, so that it can run no other job."""
    is_dead = isinstance(error, BrokenExecutor) or type(error).__name__ == _LOST_BY_ANOTHER_JOB
    return is_dead or is_out_of_memory(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception of any library says that memory ran out."""
    return type(error).__name__ in _OUT_OF_MEMORY or any(said in str(error) for said in _NO_MEMORY)
