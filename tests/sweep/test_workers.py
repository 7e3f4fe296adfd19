"""Jobs in worker processes: what they print, how they fail, and that one takes no other along."""

import os
import re
import signal
import subprocess
import sys
import time
import traceback
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cloudpickle
import psutil
import pytest
from omegaconf import OmegaConf
from sweep_app import last_trials, run_here, runs, states, sweep, trials, write_app, xs
from waiting import LONGEST_S, wait_until

from cnn_sweeps.sweep.jobs.executor import JobsAhead
from cnn_sweeps.sweep.jobs.local import LocalSlot
from cnn_sweeps.sweep.jobs.loss import LostWorkerError


@pytest.fixture
def app(tmp_path):
    write_app(tmp_path)
    return tmp_path


def test_every_way_to_fail_fails_that_trial_alone_and_says_how(app):
    """The first worker dies while it starts, too; one job's error and another's value only their worker can import."""
    (app / "die at start").touch()
    (app / "only_here").mkdir()
    (app / "only_here/foreign.py").write_text("class ForeignError(Exception): ...\n")
    ways = ["none", "raise", "kill", "not a number", "unpicklable", "prune", "exit", "memory", "text", "leave"]
    ways += ["terminate", "hang", "foreign error", "foreign value", "none"]
    faults = ",".join(f"{x}:'{way}'" for x, way in enumerate(ways))
    limits = ["hydra.sweeper.max_retries=1", "hydra.sweeper.trial_timeout_s=15"]
    output = sweep(app, f"x=range(0,{len(ways)})", f"++faults={{{faults}}}", *limits)
    ended = last_trials(app)
    assert {ways[x]: trial.state.name for x, trial in ended.items()} == {
        **dict.fromkeys(ways, "FAIL"),
        "none": "COMPLETE",
        "prune": "PRUNED",
    }
    errors = {ways[x]: trial.user_attrs["error"] for x, trial in ended.items() if trial.state.name == "FAIL"}
    assert errors["raise"] == "ValueError: x is 1"
    assert "died (exit code -9)" in errors["kill"]
    assert errors["not a number"] == "the objective is nan"
    assert "Unpicklable: cannot travel" in errors["unpicklable"]
    assert "SystemExit: 3" in errors["exit"]
    assert errors["memory"].startswith("MemoryError")
    assert "'much'" in errors["text"]
    assert "died (exit code 0)" in errors["leave"]
    assert "died (exit code -15)" in errors["terminate"]
    assert "hydra.sweeper.trial_timeout_s" in errors["hang"]
    assert errors["foreign error"] == "RuntimeError: ForeignError: bad"
    assert "what the job returned cannot be read here (No module named 'foreign')" in errors["foreign value"]
    assert all(error in output for error in errors.values())
    assert "Traceback" not in output
    once_more = [ways.index(way) for way in ("kill", "memory", "leave", "terminate")]  # what the machine did
    assert sorted(xs(app)) == sorted([*range(len(ways)), *once_more])
    retried = [trial.params["x"] for trial in trials(app) if "retry_of" in trial.user_attrs]
    assert [
        x for x in retried if x != 0
    ] == once_more  # the first one may have gone to the worker that died at its start
    for way in ("raise", "unpicklable", "memory", "foreign error"):
        number = ended[ways.index(way)].number
        assert "in go_wrong" in (app / "out/study" / str(number) / "error.txt").read_text()
    pids = [pid for _, pid, _ in runs(app)]
    starved = xs(app).index(ways.index("memory"))
    assert pids[starved - 1] == pids[starved] != pids[starved + 1]  # who got no memory runs no other job


# One sweep of a module by several workers into SQLite.


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The first job ends only when the others have run."""
    folder = tmp_path_factory.mktemp("swept")
    write_app(folder / "package")
    (folder / "package" / "__init__.py").touch()
    how = ["hydra.sweeper.n_jobs=auto", "hydra.sweeper.storage='sqlite:///studies/study.db'"]
    faults = "++faults={0:'wait for runs',2:raise}"
    return folder, sweep(folder, "x=range(0,6)", faults, *how, program=("-m", "package.app"))


def test_free_slot_gets_the_next_trial_while_another_one_runs(swept):
    folder, _ = swept
    slow, *fast = trials(folder)
    assert states(folder) == {"COMPLETE": 5, "FAIL": 1}
    assert sorted(xs(folder)) == list(range(6))
    assert all(slow.datetime_start < trial.datetime_start < slow.datetime_complete for trial in fast)
    assert len({pid for _, pid, _ in runs(folder)}) > 1


def test_number_of_workers_that_is_left_to_the_machine_is_said(swept):
    _, output = swept
    assert re.search(r"n_jobs=auto: \d+ workers? of \d+ threads?; \d+ cores, [\d,]+ MB of free memory", output)


def test_what_a_job_prints_is_in_its_own_folder_and_not_on_the_terminal(swept):
    folder, output = swept
    assert "printed" not in output
    for x, _, folder_of_run in runs(folder):
        lines = Path(folder_of_run, "output.log").read_text().splitlines()
        assert lines[:3] == [f"printed, x is {x}", "printed by a child", "printed as an error"]


def test_application_that_is_a_module_is_swept_and_named_as_one(swept):
    _, output = swept
    assert re.search(r"\n  python -m package\.app .* x=0\n", output)


def test_values_reach_the_job_as_they_were_written_one_job_after_another_in_one_worker(app):
    values = ["it's, so", 'say "so"', "", "a=b {c} [d]", "ä ö", "1", "null", "$x", "back\\\\slash"]
    texts = ["it\\'s, so", *values[1:]]
    sweep(app, "text=" + ",".join(f"'{text}'" for text in texts))
    assert len({pid for _, pid, _ in runs(app)}) == 1  # a worker runs one job after another
    saved = [Path(folder, ".hydra", "config.yaml") for _, _, folder in runs(app)]
    assert [OmegaConf.load(file).text for file in saved] == values


def test_hydras_own_sweeper_uses_the_workers_too_and_one_that_is_dead_or_keeps_too_much_memory_is_replaced(app):
    config = (app / "config.yaml").read_text().partition("hydra:\n")[0]
    (app / "config.yaml").write_text(config.replace("  - override hydra/sweeper: optuna\n", ""))
    command = ["hydra.sweep.dir=out", "hydra.launcher.n_jobs=2", "hydra.launcher.max_worker_mb=1"]
    output = sweep(app, *command, "x=4,5,6,7", "++faults={4:'wait for partner',7:kill}", succeeds=False)
    assert sorted(xs(app)) == [4, 5, 6, 7]
    assert len({pid for _, pid, _ in runs(app)}) == 4  # each job leaves more
    assert "LostWorkerError: the worker process died (exit code -9)" in output


class Setup:
    """What a worker process gets, which does something where it is unpickled."""

    def __init__(self, act=os.getpid, *arguments):
        self.call = (act, arguments)

    def __reduce__(self):
        return self.call


@contextmanager
def a_slot(folder, act=os.getpid, *arguments, **jobs):
    setup = cloudpickle.dumps((str(folder), [], {}, cloudpickle.dumps(Setup(act, *arguments))))
    slot = LocalSlot(setup, {}, JobsAhead(1, 1, **jobs), max_worker_mb=10_000)
    try:
        yield slot
    finally:
        slot.close()


def test_worker_that_dies_between_two_jobs_is_replaced_and_takes_no_job_along(tmp_path):
    with a_slot(tmp_path) as slot:
        pid = slot.call(os.getpid, [])
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not slot._worker.is_alive, "its end")
        assert slot.call(os.getpid, []) != pid


def test_worker_that_leaves_while_it_starts_fails_its_job(tmp_path):
    with a_slot(tmp_path, os._exit, 0) as slot, pytest.raises(LostWorkerError, match=r"died \(exit code 0\)"):
        slot.call(os.getpid, [])


def test_more_than_a_pipe_holds_is_not_waited_for_if_the_worker_dies_as_it_starts(tmp_path):
    with a_slot(tmp_path, os._exit, 7) as slot:
        slot._setup += bytes(10_000_000)
        with pytest.raises(LostWorkerError, match="exit code"):
            slot.call(os.getpid, [])


def leave_a_child_and_die():
    if os.fork() == 0:
        time.sleep(LONGEST_S)
    os.kill(os.getpid(), signal.SIGKILL)


def test_worker_whose_fork_holds_its_pipes_open_is_known_to_be_dead(tmp_path):
    with a_slot(tmp_path) as slot:
        pid = slot.call(os.getpid, [])
        with pytest.raises(LostWorkerError, match=r"exit code -9"):
            slot.call(leave_a_child_and_die, [])
    os.killpg(pid, signal.SIGKILL)


def start_a_child_and_hang():
    child = subprocess.Popen(["sleep", str(LONGEST_S)])
    Path("child").write_text(str(child.pid))
    time.sleep(LONGEST_S)


def test_slot_that_is_closed_ends_its_worker_and_what_that_has_started(tmp_path):
    with a_slot(tmp_path) as slot, ThreadPoolExecutor() as threads:
        hanging = threads.submit(slot.call, start_a_child_and_hang, [])
        file = tmp_path / "child"
        wait_until(lambda: file.exists() and file.read_text(), "the child")
        slot.close()
        with pytest.raises(LostWorkerError):
            hanging.result(LONGEST_S)
        with pytest.raises(CancelledError):
            slot.call(os.getpid, [])
    child = int(file.read_text())
    wait_until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie", "the child's end")


def kill_what_this_is_a_fork_of():
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(LONGEST_S)


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forks on Linux alone")
def test_worker_that_is_lost_with_what_it_was_a_fork_of_is_killed_and_named_as_such(tmp_path):
    with a_slot(tmp_path, worker_module="json") as slot:
        pid = slot.call(os.getpid, [])
        with pytest.raises(LostWorkerError, match=r"died \(killed, and its parent process, too\)"):
            slot.call(kill_what_this_is_a_fork_of, [])
        wait_until(lambda: not psutil.pid_exists(pid), "its end")
        assert slot.call(os.getpid, []) != pid


def raise_with(reason):
    raise LookupError(reason)


@pytest.mark.parametrize(
    ("place", "act"),
    [
        ("raise_with", lambda slot: slot.call(raise_with, ["nothing found"])),
        ("run_one_job", lambda slot: slot.run([], 0)),  # in a worker that could not make ready for jobs
    ],
)
def test_error_in_a_worker_says_where_it_was_and_no_more_the_next_time(tmp_path, place, act):
    with a_slot(tmp_path) as slot:
        texts = []
        for _ in range(2):
            with pytest.raises((LookupError, TypeError)) as raised:
                act(slot)
            texts.append("".join(traceback.format_exception(raised.value)))
    assert texts[0] == texts[1]
    assert texts[0].count(f", in {place}\n") == 1


# What workers keep, and what they get of the machine.


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["hydra.sweeper.n_jobs=many"], "error: hydra.sweeper.n_jobs=many: should be auto or a number of trials"),
        (["hydra.sweeper.n_jobs=auto", "hydra/launcher=basic"], "error: hydra.sweeper.n_jobs=auto: a "),
        (
            ["hydra.sweeper.n_jobs=2", "hydra/launcher=basic"],
            "error: hydra.sweeper.n_jobs=2: hydra/launcher=basic runs one",
        ),
        (["hydra.launcher.gpus=[77]"], "error: hydra.launcher.gpus=[77]: there is no GPU 77;"),
        (["hydra.launcher.gpus=0"], "error: hydra.launcher.gpus=0: should be a list of numbers"),
        (["hydra.launcher.gpus=[0,0]"], "error: hydra.launcher.gpus=[0, 0]: should be a list of numbers"),
        (["hydra.launcher.gpus=all"], "error: hydra.launcher.gpus=all: should be a list of numbers"),
        (["hydra.launcher.jobs_per_gpu=0"], "error: hydra.launcher.jobs_per_gpu=0: should be"),
        (["hydra.launcher.max_worker_mb=-1"], "error: hydra.launcher.max_worker_mb=-1: should be"),
    ],
)
def test_what_the_machine_cannot_give_is_refused_before_there_is_a_study(app, overrides, message):
    output = run_here(app, "--multirun", "x=0,1", *overrides, succeeds=False)
    assert message in output
    assert "Traceback" not in output
    assert not (app / "studies").exists()


ENDING = """\
import os, signal, time
from contextlib import suppress
from multiprocessing import parent_process
from pathlib import Path
import psutil
from cnn_sweeps.sweep.application import SweepApplication
from cnn_sweeps.sweep.jobs.executor import call_until_worker_lasts


def end(times):
    with open("worked.txt", "a+") as file:
        file.seek(0)
        if len(file.read().split()) < times:
            file.write(f"{os.getpid()} ")
            file.flush()
            server = os.getppid()  # of forks, with which they die
            os.kill(server if server != parent_process().pid else os.getpid(), signal.SIGKILL)
            time.sleep(600)
    while lives(*Path("worked.txt").read_text().split()):
        time.sleep(0.02)
    return "survived"


def lives(pid):
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE
    return False


class Ending(SweepApplication):
    worker_module = "needed_by_workers"

    def finish(self, study, executor):
        return [call_until_worker_lasts(executor, end, 1)]
"""


def test_worker_that_is_lost_after_the_trials_is_replaced_and_its_work_done_again(app):
    """What workers need is imported once where they are forks, and again only after their server was killed."""
    (app / "ending.py").write_text(ENDING)
    (app / "needed_by_workers.py").write_text('import os\nprint(os.getpid(), file=open("imported.txt", "a"))\n')
    assert "survived\n" in sweep(app, "x=0,1", "++hydra.sweeper.application._target_=ending.Ending")
    assert states(app) == {"COMPLETE": 2}
    importers = (app / "imported.txt").read_text().split()
    workers = {*(app / "worked.txt").read_text().split(), *(pid for _, pid, _ in runs(app))}
    assert len(importers) == 2 if sys.platform == "linux" else set(importers) >= workers
