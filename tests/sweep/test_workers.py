"""Jobs in worker processes: what they print, how they fail, and that one takes no other along."""

import os
import re
import signal
import sys
import threading
from pathlib import Path

import cloudpickle
import pytest
from omegaconf import OmegaConf
from pebble import ProcessFuture
from sweep_app import last_trials, run_here, runs, states, sweep, trials, write_app, xs
from waiting import LONGEST_S, wait_until

from cnn_sweeps.sweep.jobs import workers
from cnn_sweeps.sweep.jobs.machine import WorkerPlan
from cnn_sweeps.sweep.jobs.outcome import is_lost_worker
from cnn_sweeps.sweep.jobs.workers import WorkerPool


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
    assert "died (exit code 15)" in errors["terminate"]
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


def test_hydras_own_sweeper_uses_the_workers_too_and_a_dead_one_fails_its_own_job(app):
    config = (app / "config.yaml").read_text().partition("hydra:\n")[0]
    (app / "config.yaml").write_text(config.replace("  - override hydra/sweeper: optuna\n", ""))
    command = ["hydra.sweep.dir=out", "hydra.launcher.n_jobs=2"]
    output = sweep(app, *command, "x=4,5,6,7", "++faults={4:'wait for partner',7:kill}", succeeds=False)
    assert sorted(xs(app)) == [4, 5, 6, 7]
    assert len({pid for _, pid, _ in runs(app)}) > 1
    assert "ProcessExpired" in output
    output = run_here(app, "--multirun", "hydra.launcher.n_jobs=none", "x=1,2", succeeds=False)
    assert output.startswith("hydra.launcher.n_jobs=none: should be auto or a number of jobs at once, at least 1\n")
    assert "Traceback" not in output


def test_job_that_comes_in_the_moment_in_which_its_worker_dies_does_not_wait_for_ever(tmp_path):
    """Pebble forgets a job that it is given between the worker's death and giving up the pool."""
    setup = cloudpickle.dumps((str(tmp_path), [], {}, b"no jobs"))
    pool = WorkerPool(WorkerPlan([{}], max_worker_mb=10_000, reason=""), setup)
    try:
        pid = pool.call(os.getpid).result(LONGEST_S)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not pool._pools[0].active, "the pool's end")
        forgotten = ProcessFuture()
        pool._busy[0] = forgotten  # as one that pebble never hears of again
        pool.fail_forgotten()
        assert is_lost_worker(forgotten.exception(0))
        assert pool.call(os.getpid).result(LONGEST_S) != pid
    finally:
        pool.close()


class LeavesAtOnce:
    """Ends the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (0,)


def test_worker_that_leaves_while_it_starts_fails_its_job_and_pool_ends_whatever_its_threads_wait_for(
    tmp_path, monkeypatch
):
    setup = cloudpickle.dumps((str(tmp_path), [], {}, cloudpickle.dumps(LeavesAtOnce())))
    pool = WorkerPool(WorkerPlan([{}], max_worker_mb=10_000, reason=""), setup)
    try:
        future = pool.call(os.getpid)
        wait_until(lambda: pool.fail_forgotten() or future.done(), "the job's end")
        assert is_lost_worker(future.exception(0))
    finally:
        monkeypatch.setattr(workers, "_END_S", 0.1)
        monkeypatch.setattr(pool._pools[0], "join", threading.Event().wait)
        pool.close()


# What workers keep, and what they get of the machine.


def test_worker_with_more_memory_than_it_may_keep_is_replaced_after_its_job(app):
    sweep(app, "x=1,2", "hydra.launcher.max_worker_mb=1")
    assert states(app) == {"COMPLETE": 2}
    assert len({pid for _, pid, _ in runs(app)}) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["hydra.sweeper.n_jobs=many"], "error: hydra.sweeper.n_jobs=many: should be auto or a number of trials"),
        (["hydra.sweeper.n_jobs=auto", "hydra/launcher=basic"], "error: hydra.sweeper.n_jobs=auto: is not known"),
        (
            ["hydra.sweeper.n_jobs=2", "hydra/launcher=basic"],
            "error: hydra.sweeper.n_jobs=2: hydra/launcher=basic runs one",
        ),
        (["hydra.launcher.gpus=[77]"], "error: hydra.launcher.gpus=[77]: there is no GPU 77 here"),
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


def end(how, times):
    with open(f"{how}.txt", "a+") as file:
        file.seek(0)
        if len(file.read().split()) < times:
            file.write(f"{os.getpid()} ")
            file.flush()
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "leave":
                os._exit(0)
            if how == "server":  # of forks, with which they die
                server = os.getppid()
                os.kill(server if server != parent_process().pid else os.getpid(), signal.SIGKILL)
                time.sleep(600)
            raise {"memory": MemoryError, "exit": SystemExit}[how]
    while how == "server" and lives(*Path("server.txt").read_text().split()):
        time.sleep(0.02)
    return f"survived {how}"


def lives(pid):
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE
    return False


class Ending(SweepApplication):
    worker_module = "needed_by_workers"

    def finish(self, study, executor):
        print(*(executor.call(end, how, 1) for how in ("leave", "memory", "exit", "server")))
        return [executor.call(end, "kill", 3)]
"""


def test_worker_that_is_lost_after_the_trials_is_replaced_and_its_work_done_again(app):
    """What workers need is imported once where they are forks, and again only after their server was killed."""
    (app / "ending.py").write_text(ENDING)
    (app / "needed_by_workers.py").write_text('import os\nprint(os.getpid(), file=open("imported.txt", "a"))\n')
    output = sweep(app, "x=0,1", "++hydra.sweeper.application._target_=ending.Ending", succeeds=False)
    assert "survived leave survived memory survived exit survived server\n" in output
    assert "error: after all trials were told, 3 workers were lost, one after another (" in output
    assert "Traceback" not in output
    assert states(app) == {"COMPLETE": 2}
    importers = (app / "imported.txt").read_text().split()
    files = [app / f"{how}.txt" for how in ("leave", "memory", "server", "kill")]
    workers_of_all = {pid for file in files for pid in file.read_text().split()} | {pid for _, pid, _ in runs(app)}
    assert len(workers_of_all) > 3
    assert len(importers) == 2 if sys.platform == "linux" else set(importers) >= workers_of_all
