"""Sweeps on SLURM, by its own commands: jobs that submitit submits, and Dask workers that are jobs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sweep_app import last_trials, runs, sweep, write_app, xs
from waiting import LONGEST_S, wait_until

CLUSTER = Path(__file__).parents[2] / "docs" / "slurm_cluster.py"
# One of Debian's on this machine comes with tests/slurm_node.sh start.
is_running = shutil.which("sinfo") and subprocess.run(["sinfo"], capture_output=True, check=False).returncode == 0
pytestmark = pytest.mark.skipif(not is_running, reason="SLURM is not installed and running: tests/slurm_node.sh start")


@pytest.fixture
def app(tmp_path):
    write_app(tmp_path)
    return tmp_path


def queued_jobs():
    command = ["squeue", "--noheader", "--format=%i", f"--user={os.getuid()}"]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()


def test_sweep_runs_each_trial_as_a_slurm_job(app):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    slurm = ["hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=5", "hydra.sweeper.n_jobs=2"]
    sweep(app, *slurm, "x=range(0,4)", "++faults={1:raise,3:prune}")
    assert {x: trial.state.name for x, trial in last_trials(app).items()} == {
        **dict.fromkeys((0, 2), "COMPLETE"),
        1: "FAIL",
        3: "PRUNED",
    }
    assert last_trials(app)[1].user_attrs["error"] == "ValueError: x is 1"
    assert sorted(xs(app)) == list(range(4))
    assert {Path(folder).name for _, _, folder in runs(app)} == set("0123")
    assert len(list(app.glob("out/study/.submitit/*/*_result.pkl"))) == 4


def test_sweep_runs_on_dask_workers_that_are_slurm_jobs_and_end_with_the_cluster(app):
    pytest.importorskip("dask_jobqueue")
    from dask.distributed import Client

    command = [sys.executable, CLUSTER, "2", "--memory", "1GB", "--time=5"]
    with subprocess.Popen(command, cwd=app, stdout=subprocess.PIPE, text=True) as cluster:
        address = cluster.stdout.readline().strip()
        with Client(address) as client:
            client.wait_for_workers(2, timeout=LONGEST_S)
            assert set(client.run(os.getenv, "SLURM_JOB_ID").values()) == set(queued_jobs())
        dask = ["hydra/launcher=dask", f"hydra.launcher.address={address}", "hydra.sweeper.n_jobs=2"]
        sweep(app, *dask, "x=range(0,4)", "++faults={0:'wait for partner'}")
        assert sorted(xs(app)) == list(range(4))
        assert len({pid for _, pid, _ in runs(app)}) == 2
        cluster.terminate()
    assert cluster.returncode == 0
    wait_until(lambda: not queued_jobs(), "the jobs' end")
