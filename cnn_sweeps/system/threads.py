"""How many threads a process computes with: how sums are divided, and with that their last bits, depends on it."""

from __future__ import annotations

import os

_SETTINGS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def thread_settings(num_threads: int) -> dict[str, str]:
    """Give the environment that has TensorFlow, once it is imported, compute with so many threads."""
    return dict.fromkeys(_SETTINGS, str(num_threads))


def current_thread_settings() -> dict[str, str]:
    """Give those settings that this process's environment has."""
    return {key: os.environ[key] for key in _SETTINGS if key in os.environ}


def count_threads() -> int:
    """Give how many threads TensorFlow computes with here: as set, else one for each core that it may use."""
    if setting := os.environ.get("TF_NUM_INTRAOP_THREADS"):
        return int(setting)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
