"""Divides the cores, memory and GPUs of this machine among workers."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import psutil

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.sweep.jobs.settings import WorkersSettings
from cnn_sweeps.system.libraries import thread_settings
from cnn_sweeps.text.numbers import counted

_EXPECTED_WORKER_MB = 2000  # TensorFlow and MLflow alone take 800; training 128x128 images in batches of 32, 1,300
_SHARE_OF_MEMORY = 0.8
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class WorkerPlan:
    """The workers of a sweep.

    Attributes:
        environments: environment variables for each worker: its number of threads, its GPUs.
        max_worker_mb: a worker that keeps more memory of its own, in megabytes, is replaced after its job.
        reason: why there are so many workers, in words.
    """

    environments: list[dict[str, str]]
    max_worker_mb: float
    reason: str

    @property
    def num_workers(self) -> int:
        """How many jobs run at once."""
        return len(self.environments)


def plan_workers(settings: WorkersSettings, at_most: int) -> WorkerPlan:
    """Divide this machine among workers, `at_most` this many.

    With `n_jobs=auto`, the number is that of the GPUs or, without GPUs, what cores and memory allow.

    Raises:
        ConfigError: if a GPU does not exist, or there are too few.
    """
    gpus, num_cores = _gpus_for_workers(settings), count_cores()
    most, reason = _most_workers(gpus, settings, num_cores)
    wanted = most if settings.n_jobs == "auto" else settings.n_jobs
    if gpus and wanted > most:
        share = f"jobs_per_gpu={math.ceil(wanted / len(gpus))} to share them"
        raise ConfigError(
            f"n_jobs={wanted}: {reason} take at most {most}; "
            f"set hydra.launcher.{share if settings.gpus_per_job == 1 else 'gpus_per_job=1'}, lower n_jobs, "
            "or set hydra.launcher.gpus=[] to use no GPU"
        )
    num_workers = min(wanted, at_most)
    num_threads = max(1, num_cores // num_workers)
    environment = thread_settings(num_threads) if num_workers > 1 else {}
    if settings.jobs_per_gpu > 1 and gpus:
        environment |= {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}  # else the first worker takes all memory of the GPU
    seen = gpus or (["-1"] if _visible_gpus() else [])  # -1 hides all
    names = [{"CUDA_VISIBLE_DEVICES": seen[slot % len(seen)]} if seen else {} for slot in range(num_workers)]
    return WorkerPlan(
        [environment | name for name in names],
        max_worker_mb=settings.max_worker_mb or memory_share_mb(_total_memory_mb() / num_workers),
        reason=f"n_jobs=auto: {counted(num_workers, 'worker')} of {counted(num_threads, 'thread')}; {reason}",
    )


def memory_share_mb(total_mb: float) -> float:
    """Return how many megabytes a worker may keep after its job, if `total_mb` are there for it."""
    return max(_SHARE_OF_MEMORY * total_mb, _EXPECTED_WORKER_MB)


def _most_workers(gpus: Sequence[str], settings: WorkersSettings, num_cores: int) -> tuple[int, str]:
    """Return how many workers there can be, and the reason in words."""
    if gpus and settings.gpus_per_job > 1:
        return len(gpus), f"GPUs {' and '.join(gpus)} with hydra.launcher.gpus_per_job={settings.gpus_per_job}"
    if gpus:
        number = len(gpus) * settings.jobs_per_gpu
        return number, f"GPUs {', '.join(gpus)} with hydra.launcher.jobs_per_gpu={settings.jobs_per_gpu}"
    free_mb = _free_memory_mb()
    reason = f"{counted(num_cores, 'core')}, {free_mb:,} MB of free memory at {_EXPECTED_WORKER_MB:,} MB a worker"
    return max(1, min(num_cores, free_mb // _EXPECTED_WORKER_MB)), reason


def _gpus_for_workers(settings: WorkersSettings) -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES can be: one value per worker, or per group of workers that share a GPU."""
    visible, each = _visible_gpus(), settings.gpus_per_job
    wanted = range(len(visible)) if settings.gpus is None else settings.gpus
    if missing := [number for number in wanted if not 0 <= number < len(visible)]:
        there = f"name numbers from 0 to {len(visible) - 1}" if visible else "this process sees no GPU; set []"
        raise ConfigError(f"hydra.launcher.gpus={settings.gpus}: there is no GPU {missing[0]}; {there}")
    if each > 1 and settings.jobs_per_gpu > 1:
        raise ConfigError(
            f"hydra.launcher.jobs_per_gpu={settings.jobs_per_gpu} lets jobs share a GPU, but "
            f"hydra.launcher.gpus_per_job={each} gives each job several; set one of them to 1"
        )
    if each > max(1, len(wanted)):
        told = f"this process may use {len(wanted)} GPUs; set a lower number"
        raise ConfigError(f"hydra.launcher.gpus_per_job={each}: {told}")
    gpus = [visible[number] for number in wanted]
    return [",".join(gpus[start : start + each]) for start in range(0, len(gpus) - each + 1, each)]


def _visible_gpus() -> list[str]:
    """Return the NVIDIA GPUs that this process sees, named as in CUDA_VISIBLE_DEVICES."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is not None:
        return list(takewhile(_is_gpu_name, (name.strip() for name in names.split(","))))
    return [str(number) for number in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def _is_gpu_name(name: str) -> bool:
    return name.isdigit() or name.startswith(("GPU-", "MIG-"))


def count_cores() -> int:
    """Return how many cores this process may use, by its affinity and, in a container, by its quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read_limit("cpu.max").partition(" ")
    return min(allowed, math.ceil(int(quota) / int(period))) if quota.isdigit() else allowed


def _total_memory_mb() -> int:
    total, limit = psutil.virtual_memory().total, _read_limit("memory.max")
    return int(min(total, int(limit)) if limit.isdigit() else total) // 2**20


def _free_memory_mb() -> int:
    free, limit = psutil.virtual_memory().available, _read_limit("memory.max")
    if limit.isdigit():
        statistics = dict(line.split() for line in _read_limit("memory.stat").splitlines())
        used = int(_read_limit("memory.current") or 0) - int(statistics.get("inactive_file", 0))  # a cache
        free = min(free, int(limit) - used)
    return int(free) // 2**20


def _read_limit(name: str) -> str:
    """Read a limit of the container's control group (version 2); empty outside a container."""
    try:
        return (_CGROUP / name).read_text().strip()
    except OSError:
        return ""
