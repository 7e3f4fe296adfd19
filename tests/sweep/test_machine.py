"""How many workers a machine gets, and what each of them sees of it."""

import pytest

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.sweep.jobs import machine
from cnn_sweeps.sweep.jobs.machine import count_cores, plan_workers
from cnn_sweeps.sweep.jobs.settings import WorkersSettings


@pytest.fixture
def this_machine(monkeypatch, tmp_path):
    """Give a function that makes this a machine of some cores, free memory and GPUs, outside of a container."""
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)

    def become(cores=8, free_mb=100_000, gpus=""):
        monkeypatch.setattr(machine, "count_cores", lambda: cores)
        monkeypatch.setattr(machine, "_free_memory_mb", lambda: free_mb)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)

    return become


def plan(n_jobs="auto", at_most=1000, **settings):
    return plan_workers(WorkersSettings(n_jobs, **settings), at_most)


@pytest.mark.parametrize(
    ("cores", "free_mb", "at_most", "num_workers"),
    [(8, 100_000, 1000, 8), (8, 9_000, 1000, 4), (8, 500, 1000, 1), (8, 100_000, 3, 3), (1, 100_000, 1000, 1)],
)
def test_auto_takes_as_many_as_cores_memory_and_jobs_are_good_for(this_machine, cores, free_mb, at_most, num_workers):
    this_machine(cores, free_mb)
    assert plan(at_most=at_most).num_workers == num_workers


def test_auto_says_what_it_took_and_why(this_machine):
    this_machine(4, 9_000)
    assert plan().reason == (
        "n_jobs=auto: 4 workers of 1 thread; 4 cores, 9,000 MB of free memory at 2,000 MB a worker"
    )
    this_machine(4, 9_000, gpus="0,1")
    assert plan(jobs_per_gpu=2).reason == (
        "n_jobs=auto: 4 workers of 1 thread; GPUs 0, 1 with hydra.launcher.jobs_per_gpu=2"
    )


@pytest.mark.parametrize(("n_jobs", "threads"), [(1, None), (2, "4"), (3, "2"), (8, "1"), (20, "1")])
def test_each_worker_has_its_share_of_the_threads_and_a_single_one_all(this_machine, n_jobs, threads):
    this_machine(cores=8)
    planned = plan(n_jobs)
    assert planned.num_workers == n_jobs
    assert [environment.get("TF_NUM_INTRAOP_THREADS") for environment in planned.environments] == [threads] * n_jobs
    assert not any("CUDA_VISIBLE_DEVICES" in environment for environment in planned.environments)


@pytest.mark.parametrize(
    ("visible", "gpus", "jobs_per_gpu", "seen"),
    [
        ("0,1", None, 1, ["0", "1"]),
        ("0,1", [1], 1, ["1"]),
        ("0,1", None, 2, ["0", "1", "0", "1"]),
        ("GPU-a,GPU-b", [1], 2, ["GPU-b", "GPU-b"]),
    ],
)
def test_auto_gives_each_gpu_its_workers(this_machine, visible, gpus, jobs_per_gpu, seen):
    this_machine(gpus=visible)
    environments = plan(gpus=gpus, jobs_per_gpu=jobs_per_gpu).environments
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in environments] == seen
    assert all(("TF_FORCE_GPU_ALLOW_GROWTH" in environment) == (jobs_per_gpu > 1) for environment in environments)


@pytest.mark.parametrize(("visible", "seen"), [("0,1,2,3", ["0,1", "2,3"]), ("0,1,2", ["0,1"])])
def test_worker_may_have_several_gpus(this_machine, visible, seen):
    this_machine(gpus=visible)
    planned = plan(gpus_per_job=2)
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in planned.environments] == seen
    assert planned.reason.endswith(f"GPUs {' and '.join(seen)} with hydra.launcher.gpus_per_job=2")


@pytest.mark.parametrize(
    ("n_jobs", "settings", "message"),
    [
        (1, {"gpus_per_job": 4}, "gpus_per_job=4: this process may use 3 GPUs; set a lower number"),
        (1, {"gpus": [], "gpus_per_job": 2}, "gpus_per_job=2: this process may use 0 GPUs; set a lower number"),
        (
            2,
            {"gpus_per_job": 2},
            "GPUs 0,1 with .*gpus_per_job=2 take at most 1; set hydra.launcher.gpus_per_job=1, lower n_jobs",
        ),
        (1, {"gpus_per_job": 2, "jobs_per_gpu": 2}, "jobs_per_gpu=2 lets jobs share .*; set one of them to 1"),
    ],
)
def test_gpus_per_job_that_cannot_be_are_refused(this_machine, n_jobs, settings, message):
    this_machine(gpus="0,1,2")
    with pytest.raises(ConfigError, match=message):
        plan(n_jobs, **settings)


def test_gpus_that_are_not_wanted_are_hidden(this_machine):
    this_machine(cores=2, gpus="0,1")
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in plan(gpus=[]).environments] == ["-1", "-1"]


def test_gpu_that_is_not_there_is_refused(this_machine):
    this_machine(gpus="0,1")
    with pytest.raises(ConfigError, match=r"hydra.launcher.gpus=\[0, 2\]: there is no GPU 2; name numbers from 0 to 1"):
        plan(gpus=[0, 2])
    this_machine(gpus="")
    with pytest.raises(ConfigError, match=r"hydra.launcher.gpus=\[0\]: there is no GPU 0; this process sees no GPU"):
        plan(gpus=[0])


def test_more_workers_than_the_gpus_take_are_refused_with_the_fix(this_machine):
    this_machine(gpus="0,1")
    with pytest.raises(ConfigError, match=r"n_jobs=5: GPUs 0, 1 .* take at most 2; set hydra.launcher.jobs_per_gpu=3"):
        plan(5)


@pytest.mark.parametrize(("names", "num_gpus"), [("0,-1,1", 1), ("NoDevFiles", 0), ("MIG-a,GPU-b", 2), ("-1", 0)])
def test_gpus_are_counted_as_cuda_does(this_machine, names, num_gpus):
    this_machine(cores=1, gpus=names)
    assert len(machine._visible_gpus()) == num_gpus


def test_there_are_no_more_workers_than_jobs(this_machine):
    this_machine()
    assert plan(16, at_most=4).num_workers == 4


def test_memory_of_a_worker_is_bounded_by_its_share_or_as_asked_for(this_machine):
    this_machine()
    assert plan(2).max_worker_mb == pytest.approx(plan(1).max_worker_mb / 2, abs=1)
    assert plan(999).max_worker_mb == machine._EXPECTED_WORKER_MB
    assert plan(2, max_worker_mb=700).max_worker_mb == 700


@pytest.mark.parametrize(("quota", "cores"), [("100000 100000", 1), ("max 100000", None), (None, None)])
def test_containers_quota_limits_the_cores(monkeypatch, tmp_path, quota, cores):
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    unlimited = count_cores()
    if quota is not None:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert count_cores() == (cores or unlimited)


def test_containers_limit_counts_as_the_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text(f"{300 * 2**20}\n")
    (tmp_path / "memory.current").write_text(f"{150 * 2**20}\n")
    (tmp_path / "memory.stat").write_text(f"anon 7\ninactive_file {50 * 2**20}\nactive_file 9\n")
    assert machine._free_memory_mb() == 200
