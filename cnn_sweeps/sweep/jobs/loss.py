"""What a job is lost by: its worker died, got no memory, or was ended. A worker imports this, and so no Optuna."""

from __future__ import annotations

import errno
import os
from concurrent.futures import BrokenExecutor

# By name, since neither TensorFlow nor joblib is imported here.
_OUT_OF_MEMORY = {"MemoryError", "ResourceExhaustedError"}
_LOST_BY_ANOTHER_JOB = "ShutdownExecutorError"
# What Python says of C code, TensorFlow's among it, that got no memory and did not say so; and what the C library says.
_NO_MEMORY = (
    "error return without exception set",
    "failed to map segment from shared object",
    os.strerror(errno.ENOMEM),
)


class LostWorkerError(BrokenExecutor):
    """A worker was lost, with what it was running."""


class JobTimeoutError(LostWorkerError):
    """A job ran longer than it may, and its worker was ended."""


def is_lost_worker(error: BaseException) -> bool:
    """Tell whether what ended a call is that its worker died, or got no memory, so that it runs no other one."""
    is_dead = isinstance(error, BrokenExecutor) or type(error).__name__ == _LOST_BY_ANOTHER_JOB
    return is_dead or is_out_of_memory(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception, of whatever library, says that there was no memory."""
    return type(error).__name__ in _OUT_OF_MEMORY or any(said in str(error) for said in _NO_MEMORY)
