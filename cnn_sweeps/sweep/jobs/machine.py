"""What this machine has, and what each worker gets of it."""

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

_EXPECTED_WORKER_MB = 2000  # TensorFlow and MLflow alone are 800; training 128x128 images in batches of 32, 1,300
_SHARE_OF_MEMORY = 0.8
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class WorkerPlan:
    """The workers of a sweep.

    Attributes:
        environments: one for each worker, what it gets to see: its threads, its GPU.
        max_worker_mb: resident memory of its own beyond which a worker is replaced after its job.
        reason: why so many, for a person.
    """

    environments: list[dict[str, str]]
    max_worker_mb: float
    reason: str

    @property
    def num_workers(self) -> int:
        """How many jobs run at once."""
        return len(self.environments)


def plan_workers(settings: WorkersSettings, at_most: int) -> WorkerPlan:
    """Divide this machine among workers for so many jobs.

    `n_jobs=auto` are as many as GPUs take or, without one, as there are cores and memory for.

    Raises:
        ConfigError: if a GPU is not there, or there are too few.
    """
    gpus, num_cores = _gpus_for_workers(settings), count_cores()
    most, reason = _most_workers(gpus, settings, num_cores)
    wanted = most if settings.n_jobs == "auto" else settings.n_jobs
    if gpus and wanted > most:
        share = f"jobs_per_gpu={math.ceil(wanted / len(gpus))} to share them"
        raise ConfigError(
            f"n_jobs={wanted}: {reason} take {most}; "
            f"set hydra.launcher.{share if settings.gpus_per_job == 1 else 'gpus_per_job=1'}, lower n_jobs, "
            "or set hydra.launcher.gpus=[] to use none"
        )
    num_workers = min(wanted, at_most)
    num_threads = max(1, num_cores // num_workers)
    environment = thread_settings(num_threads) if num_workers > 1 else {}
    if settings.jobs_per_gpu > 1 and gpus:
        environment |= {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}  # else the first one takes all memory
    seen = gpus or (["-1"] if _visible_gpus() else [])  # -1 is none of them
    names = [{"CUDA_VISIBLE_DEVICES": seen[slot % len(seen)]} if seen else {} for slot in range(num_workers)]
    return WorkerPlan(
        [environment | name for name in names],
        max_worker_mb=settings.max_worker_mb or memory_share_mb(_total_memory_mb() / num_workers),
        reason=f"n_jobs=auto: {counted(num_workers, 'worker')} of {counted(num_threads, 'thread')}; {reason}",
    )


def memory_share_mb(total_mb: float) -> float:
    """Give how much resident memory a worker may keep after its job, of what there is for it."""
    return max(_SHARE_OF_MEMORY * total_mb, _EXPECTED_WORKER_MB)


def _most_workers(gpus: Sequence[str], settings: WorkersSettings, num_cores: int) -> tuple[int, str]:
    """Give how many workers there can be, and what decides it."""
    if gpus and settings.gpus_per_job > 1:
        return len(gpus), f"GPUs {' and '.join(gpus)} with hydra.launcher.gpus_per_job={settings.gpus_per_job}"
    if gpus:
        number = len(gpus) * settings.jobs_per_gpu
        return number, f"GPUs {', '.join(gpus)} with hydra.launcher.jobs_per_gpu={settings.jobs_per_gpu}"
    free_mb = _free_memory_mb()
    reason = f"{counted(num_cores, 'core')}, {free_mb:,} MB of free memory at {_EXPECTED_WORKER_MB:,} MB a worker"
    return max(1, min(num_cores, free_mb // _EXPECTED_WORKER_MB)), reason


def _gpus_for_workers(settings: WorkersSettings) -> list[str]:
    """Give which GPUs a worker may see: one choice for each worker, or for as many as share a GPU."""
    visible, each = _visible_gpus(), settings.gpus_per_job
    wanted = range(len(visible)) if settings.gpus is None else settings.gpus
    if missing := [number for number in wanted if not 0 <= number < len(visible)]:
        there = f"0 to {len(visible) - 1}" if visible else "none"
        raise ConfigError(
            f"hydra.launcher.gpus={settings.gpus}: there is no GPU {missing[0]} here; this process may use: {there}"
        )
    if each > 1 and settings.jobs_per_gpu > 1:
        raise ConfigError(
            f"hydra.launcher.jobs_per_gpu={settings.jobs_per_gpu}: is for jobs that share a GPU, and "
            f"hydra.launcher.gpus_per_job={each} for jobs with several; set one of them to 1"
        )
    if each > max(1, len(wanted)):
        raise ConfigError(f"hydra.launcher.gpus_per_job={each}: this process may use {len(wanted)} GPUs; lower it")
    gpus = [visible[number] for number in wanted]
    return [",".join(gpus[start : start + each]) for start in range(0, len(gpus) - each + 1, each)]


def _visible_gpus() -> list[str]:
    """Name NVIDIA's GPUs as CUDA_VISIBLE_DEVICES does."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is not None:
        return list(takewhile(_is_gpu_name, (name.strip() for name in names.split(","))))
    return [str(number) for number in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def _is_gpu_name(name: str) -> bool:
    return name.isdigit() or name.startswith(("GPU-", "MIG-"))


def count_cores() -> int:
    """Give how many cores this process may use: by its affinity and, in a container, its quota."""
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
        used = int(_read_limit("memory.current") or 0) - int(statistics.get("inactive_file", 0))  # a cache, given back
        free = min(free, int(limit) - used)
    return int(free) // 2**20


def _read_limit(name: str) -> str:
    """Read what a container's control group (version 2) allows; empty outside of one."""
    try:
        return (_CGROUP / name).read_text().strip()
    except OSError:
        return ""
