"""What this machine has, and what each worker gets of it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import psutil

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.system.libraries import thread_settings

NumJobs = int | Literal["auto"]

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
    max_worker_mb: int
    reason: str

    @property
    def num_workers(self) -> int:
        """How many jobs run at once."""
        return len(self.environments)


def plan_workers(
    n_jobs: NumJobs,
    *,
    gpus: Sequence[int] | None,
    jobs_per_gpu: int,
    gpus_per_job: int = 1,
    max_worker_mb: int | None,
    at_most: int,
) -> WorkerPlan:
    """Divide this machine among workers.

    Args:
        n_jobs: number of workers; "auto": as many as GPUs take or, without one, as there are cores and memory for.
        gpus: numbers of the GPUs to use, among those that this process may see; None: all of them; empty: none.
        jobs_per_gpu: workers that share one GPU, at the most.
        gpus_per_job: GPUs that each worker has to itself; GPUs left over are not used.
        max_worker_mb: see `WorkerPlan`; None: each worker's share of 80 % of the memory.
        at_most: number of jobs there are.

    Raises:
        ConfigError: if a number is out of range, a GPU is not there, or there are too few.
    """
    _check_numbers(n_jobs, gpus, jobs_per_gpu, gpus_per_job, max_worker_mb)
    chosen = _group(_choose_gpus(gpus), gpus_per_job)
    num_cores = count_cores()
    most, reason = _most_workers(chosen, jobs_per_gpu, gpus_per_job, num_cores)
    if n_jobs != "auto" and chosen and n_jobs > most:
        share = f"jobs_per_gpu={math.ceil(n_jobs / len(chosen))} to share them"
        raise ConfigError(
            f"n_jobs={n_jobs}: {reason} take {most}; "
            f"set hydra.launcher.{share if gpus_per_job == 1 else 'gpus_per_job=1'}, lower n_jobs, "
            "or set hydra.launcher.gpus=[] to use none"
        )
    num_workers = min(most if n_jobs == "auto" else n_jobs, at_most)
    num_threads = max(1, num_cores // num_workers)
    threads = thread_settings(num_threads) if num_workers > 1 else {}
    environments = [threads | _gpu_environment(chosen, slot, jobs_per_gpu) for slot in range(num_workers)]
    workers, threads_each = _count(num_workers, "worker"), _count(num_threads, "thread")
    return WorkerPlan(
        environments,
        max_worker_mb=max_worker_mb or memory_share_mb(_total_memory_mb() / num_workers),
        reason=f"n_jobs=auto: {workers} of {threads_each}; {reason}",
    )


def memory_share_mb(total_mb: float) -> int:
    """Give how much resident memory a worker may keep after its job, of what there is for it."""
    return max(int(_SHARE_OF_MEMORY * total_mb), _EXPECTED_WORKER_MB)


def _check_numbers(n_jobs: Any, gpus: Any, jobs_per_gpu: Any, gpus_per_job: Any, max_worker_mb: Any) -> None:
    if n_jobs != "auto" and not is_count(n_jobs):
        raise ConfigError(f"hydra.launcher.n_jobs={n_jobs}: should be auto or a number of jobs at once, at least 1")
    is_list = isinstance(gpus, Sequence) and not isinstance(gpus, str)
    if gpus is not None and not (is_list and all(type(each) is int for each in gpus) and len(set(gpus)) == len(gpus)):
        raise ConfigError(f"hydra.launcher.gpus={gpus}: should be a list of numbers, e.g. [0,1], or null for all")
    counts = {"jobs_per_gpu": jobs_per_gpu, "gpus_per_job": gpus_per_job, "max_worker_mb": max_worker_mb}
    for key, value in counts.items():
        if value is not None and not is_count(value):
            raise ConfigError(f"hydra.launcher.{key}={value}: should be a whole number, at least 1")
    if jobs_per_gpu > 1 and gpus_per_job > 1:
        raise ConfigError(
            f"hydra.launcher.jobs_per_gpu={jobs_per_gpu}: is for jobs that share a GPU, and "
            f"hydra.launcher.gpus_per_job={gpus_per_job} for jobs with several; set one of them to 1"
        )


def is_count(value: Any) -> bool:
    """Tell whether a setting is a whole number, at least 1."""
    return type(value) is int and value >= 1


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _most_workers(gpus: Sequence[str], jobs_per_gpu: int, gpus_per_job: int, num_cores: int) -> tuple[int, str]:
    if gpus and gpus_per_job > 1:
        return len(gpus), f"GPUs {' and '.join(gpus)} with hydra.launcher.gpus_per_job={gpus_per_job}"
    if gpus:
        return len(gpus) * jobs_per_gpu, f"GPUs {', '.join(gpus)} with hydra.launcher.jobs_per_gpu={jobs_per_gpu}"
    free_mb = _free_memory_mb()
    reason = f"{num_cores} cores, {free_mb:,} MB of free memory at {_EXPECTED_WORKER_MB:,} MB a worker"
    return max(1, min(num_cores, free_mb // _EXPECTED_WORKER_MB)), reason


def _choose_gpus(wanted: Sequence[int] | None) -> list[str]:
    visible = _visible_gpus()
    if wanted is None:
        return visible
    if missing := [number for number in wanted if not 0 <= number < len(visible)]:
        there = f"0 to {len(visible) - 1}" if visible else "none"
        raise ConfigError(
            f"hydra.launcher.gpus={list(wanted)}: there is no GPU {missing[0]} here; this process may use: {there}"
        )
    return [visible[number] for number in wanted]


def _group(gpus: Sequence[str], gpus_per_job: int) -> list[str]:
    """Give what each worker sees: so many of the GPUs."""
    if gpus_per_job > max(1, len(gpus)):
        raise ConfigError(
            f"hydra.launcher.gpus_per_job={gpus_per_job}: this process may use {len(gpus)} GPUs; lower it"
        )
    starts = range(0, len(gpus) - gpus_per_job + 1, gpus_per_job)
    return [",".join(gpus[start : start + gpus_per_job]) for start in starts]


def _visible_gpus() -> list[str]:
    """Name NVIDIA's GPUs as CUDA_VISIBLE_DEVICES does."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is not None:
        return list(takewhile(_is_gpu_name, (name.strip() for name in names.split(","))))
    return [str(number) for number in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def _is_gpu_name(name: str) -> bool:
    return name.isdigit() or name.startswith(("GPU-", "MIG-"))


def _gpu_environment(gpus: Sequence[str], slot: int, jobs_per_gpu: int) -> dict[str, str]:
    if not gpus:
        return {"CUDA_VISIBLE_DEVICES": "-1"} if _visible_gpus() else {}
    growth = {"TF_FORCE_GPU_ALLOW_GROWTH": "true"} if jobs_per_gpu > 1 else {}  # else the first one takes all memory
    return {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} | growth


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


def own_memory_mb() -> int:
    """Give this process's resident memory, without the files that it maps and shares."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - getattr(memory, "shared", 0)) // 2**20
