"""A sweep that is disturbed at any moment, or run by several at once, ends as the one that nobody disturbed.

The long form, of which each line of the output is an injection that the same seed repeats:

    CNN_SWEEPS_INJECTIONS=100 CNN_SWEEPS_TRIALS=40 CNN_SWEEPS_SEED=7 pytest -s --timeout 18000 tests/faults
"""

import os
import subprocess
import time

import pytest
from campaign import Campaign, plan_injections
from clusters import a_cluster
from faults import (
    FAULTS,
    FAULTS_OF_CLUSTER,
    FAULTS_OF_SERVERS,
    FULL_DISK,
    KILL_CONTROLLER,
    KILL_WORKER,
    STOP_WORKER,
)
from invariants import violations
from servers import started_tracking_server
from sweep_under_test import SweepUnderTest
from tiny_sweeps import IN_THIS_PROCESS, sweep_log, train_command
from waiting import LONGEST_S, wait_until

from cnn_sweeps.experiment.recording import EpochRecorder

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

NUM_INJECTIONS = int(os.environ.get("CNN_SWEEPS_INJECTIONS", "4"))
NUM_TRIALS = int(os.environ.get("CNN_SWEEPS_TRIALS", "4"))
SEED = int(os.environ.get("CNN_SWEEPS_SEED", "0"))
IS_LONG = "CNN_SWEEPS_INJECTIONS" in os.environ
NUM_JOBS = 2 if IS_LONG else 1  # each has a worker, whose imports are what such a short sweep costs
only_in_the_long_form = pytest.mark.skipif(not IS_LONG, reason="a part of the long form: set CNN_SWEEPS_INJECTIONS")


@pytest.fixture
def sweep(tmp_path):
    under_test = SweepUnderTest(tmp_path, NUM_TRIALS, n_jobs=NUM_JOBS)
    yield under_test
    under_test.end()


@pytest.fixture
def small_disk(tmp_path):
    """The file system of its own that the test's folder is; None where none can be mounted."""
    command = ["mount", "-t", "tmpfs", "-o", "size=200m", "faults", tmp_path]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        yield None
    else:
        yield tmp_path
        subprocess.run(["umount", "--lazy", tmp_path], check=True)  # this process still has the record's database open


def disturb(sweep, faults, num_injections):
    lines = []

    def say(line):
        lines.append(line)
        print(line, flush=True)

    wrong = Campaign(sweep, say).run(plan_injections(faults, num_injections, SEED))
    assert not wrong, "\n".join([*lines, *wrong])


@pytest.mark.skipif(IS_LONG, reason="a part of the short form")
def test_sweep_that_is_killed_stopped_and_short_of_space_ends_as_if_nothing_had_happened(small_disk, sweep):
    kinds = [KILL_CONTROLLER, KILL_WORKER, STOP_WORKER, FULL_DISK]
    disturb(sweep, kinds if small_disk else kinds[:-1], NUM_INJECTIONS)


@only_in_the_long_form
@pytest.mark.timeout(900 + 300 * NUM_INJECTIONS)
def test_sweep_whose_processes_are_killed_stopped_and_starved_ends_as_if_nothing_had_happened(sweep):
    disturb(sweep, FAULTS, NUM_INJECTIONS)


@only_in_the_long_form
@pytest.mark.timeout(900 + 300 * NUM_INJECTIONS)
def test_sweep_whose_disk_is_full_for_a_while_ends_as_if_nothing_had_happened(small_disk, sweep):
    if small_disk is None:
        pytest.skip("a small disk cannot be mounted here")
    disturb(sweep, [FULL_DISK], max(1, NUM_INJECTIONS // 8))


@only_in_the_long_form
@pytest.mark.timeout(900 + 300 * NUM_INJECTIONS)
def test_sweep_whose_servers_crash_ends_as_if_nothing_had_happened(tmp_path, tmp_path_factory, postgres):
    with started_tracking_server(tmp_path_factory.mktemp("server")) as server:
        under_test = SweepUnderTest(tmp_path, NUM_TRIALS, database=postgres, tracking_server=server)
        try:
            disturb(under_test, FAULTS_OF_SERVERS, NUM_INJECTIONS)
        finally:
            under_test.end()


@only_in_the_long_form
@pytest.mark.timeout(900 + 300 * NUM_INJECTIONS)
def test_sweep_whose_cluster_falls_apart_ends_as_if_nothing_had_happened(tmp_path, tmp_path_factory):
    pytest.importorskip("distributed", reason="the extra `dask` is not installed")
    with a_cluster(tmp_path_factory.mktemp("cluster"), "first", "second") as cluster:
        under_test = SweepUnderTest(tmp_path, NUM_TRIALS, cluster=cluster)
        try:
            disturb(under_test, FAULTS_OF_CLUSTER, NUM_INJECTIONS)
        finally:
            under_test.end()


def owners(sweep):
    return {trial.user_attrs.get("owner", {}).get("owner.pid") for trial in sweep.trials()} - {None}


def run_here_beside_a_process(sweep, monkeypatch):
    """Run one controller here, the other as a process; each has a trial. Give their numbers."""
    other = sweep.start(IN_THIS_PROCESS)
    add = EpochRecorder.add

    def has_a_trial():
        time.sleep(0.5)  # each look reads the study
        return str(other.pid) in owners(sweep)

    def add_once_both_are_there(record, metrics, epoch, model):
        wait_until(lambda: has_a_trial() or other.poll() is not None, "the other one's trial")
        add(record, metrics, epoch, model)

    monkeypatch.setattr(EpochRecorder, "add", add_once_both_are_there)
    train_command(monkeypatch, sweep.folder, sweep.folder)(*sweep.command[4:], IN_THIS_PROCESS)
    return [os.getpid(), other.pid]


@pytest.mark.timeout(900 + 60 * NUM_TRIALS)
def test_two_controllers_at_once_make_one_sweep_and_test_its_best_trial_once(sweep, monkeypatch):
    pids = [sweep.start().pid, sweep.start().pid] if IS_LONG else run_here_beside_a_process(sweep, monkeypatch)
    num_processes = len(sweep.controllers)
    sweep.wait(lambda: False, LONGEST_S + 60 * NUM_TRIALS)
    assert sweep.take_leave() == [0] * num_processes, sweep.last_words()
    assert violations(sweep) == []
    assert len(sweep.trials()) == NUM_TRIALS
    assert owners(sweep) == set(map(str, pids))
    assert sweep_log(sweep.folder).count("on the test images, once") == 1
    assert sweep_log(sweep.folder).count("was tested before") == 1
