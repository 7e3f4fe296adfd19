"""Jobs in worker processes: what they print, how they fail, and that one takes no other along."""

import os
import re
import signal
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
    faults = "{1:raise,2:kill,3:not a number,4:unpicklable,5:prune,6:exit,7:memory,8:text,9:leave}"
    output = sweep(app, "x=range(0,11)", f"++faults={faults}", "hydra.sweeper.max_retries=1")
    ended = last_trials(app)
    assert {x: trial.state.name for x, trial in ended.items()} == {
        **dict.fromkeys((0, 10), "COMPLETE"),
        **dict.fromkeys((1, 2, 3, 4, 6, 7, 8, 9), "FAIL"),
        5: "PRUNED",
    }
    errors = {x: ended[x].user_attrs["error"] for x in (1, 2, 3, 4, 6, 7, 8, 9)}
    assert errors[1] == "ValueError: x is 1"
    assert "died (exit code -9)" in errors[2]
    assert errors[3] == "the objective is nan"
    assert "Unpicklable: cannot travel" in errors[4]
    assert "SystemExit: 3" in errors[6]
    assert errors[7].startswith("MemoryError")
    assert "'much'" in errors[8]
    assert "died (exit code 0)" in errors[9]
    assert all(error in output for error in errors.values())
    assert sorted(xs(app)) == [0, 1, 2, 2, 3, 4, 5, 6, 7, 7, 8, 9, 9, 10]  # what the machine did is tried again
    assert [trial.params["x"] for trial in trials(app) if "retry_of" in trial.user_attrs] == [2, 7, 9]
    for x in (1, 4):
        assert "in go_wrong" in (app / "out/study" / str(ended[x].number) / "error.txt").read_text()


def test_what_only_a_worker_can_import_fails_its_own_trial_and_reaches_no_other_process(app):
    (app / "only_here").mkdir()
    (app / "only_here/foreign.py").write_text("class ForeignError(Exception): ...\n")
    output = sweep(app, "x=0,1,2", "++faults={0:'foreign error',1:'foreign value'}")
    ended = last_trials(app)
    assert [ended[x].state.name for x in range(3)] == ["FAIL", "FAIL", "COMPLETE"]
    assert ended[0].user_attrs["error"] == "RuntimeError: ForeignError: bad"
    assert "what the job returned cannot be read here (No module named 'foreign')" in ended[1].user_attrs["error"]
    assert "in go_wrong" in (app / "out/study/0/error.txt").read_text()
    assert "Traceback" not in output


def test_job_over_its_time_fails_alone(app):
    sweep(app, "x=0,1,2,3", "++faults={1:hang}", "hydra.sweeper.trial_timeout_s=15", "hydra.sweeper.n_jobs=2")
    ended = last_trials(app)
    assert [ended[x].state.name for x in range(4)] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert "hydra.sweeper.trial_timeout_s" in ended[1].user_attrs["error"]
    assert sorted(xs(app)) == [0, 1, 2, 3]


def test_worker_that_dies_while_it_starts_is_replaced(app):
    (app / "die at start").touch()
    sweep(app, "x=1,2,3")
    assert states(app) == {"COMPLETE": 3}
    assert sorted(xs(app)) == [1, 2, 3]


def test_free_slot_gets_the_next_trial_while_another_one_runs(app):
    """The first job ends only when the others have run."""
    sweep(app, "x=range(0,6)", "++faults={0:'wait for runs'}", "hydra.sweeper.n_jobs=2")
    slow, *fast = trials(app)
    assert states(app) == {"COMPLETE": 6}
    assert all(slow.datetime_start < trial.datetime_start < slow.datetime_complete for trial in fast)
    assert len({pid for _, pid, _ in runs(app)}) == 2


def test_what_a_job_prints_is_in_its_own_folder_and_not_on_the_terminal(app):
    output = sweep(app, "x=1,2,3", "++faults={2:raise}", "hydra.sweeper.n_jobs=2")
    assert "printed" not in output
    for x, _, folder in runs(app):
        lines = Path(folder, "output.log").read_text().splitlines()
        assert lines[:3] == [f"printed, x is {x}", "printed by a child", "printed as an error"]


def test_application_that_is_a_module_is_swept_and_named_as_one(tmp_path):
    write_app(tmp_path / "package")
    (tmp_path / "package" / "__init__.py").touch()
    output = sweep(tmp_path, "x=3,1,2", "hydra.sweeper.n_jobs=2", program=("-m", "package.app"))
    assert states(tmp_path) == {"COMPLETE": 3}
    assert "python -m package.app x=1\n" in output
    assert sorted(xs(tmp_path)) == [1, 2, 3]


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
    sweep(app, *command, "x=1,2,3")
    assert sorted(xs(app)) == [1, 2, 3]
    assert len({pid for _, pid, _ in runs(app)}) == 2
    output = sweep(app, *command, "x=4,5,6", "++faults={5:kill}", succeeds=False)
    assert sorted(xs(app)) == [1, 2, 3, 4, 5, 6]
    assert "ProcessExpired" in output
    output = sweep(app, "hydra.launcher.n_jobs=none", "x=1,2", succeeds=False)
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
    sweep(app, "x=1,2,3", "hydra.launcher.max_worker_mb=1")
    assert states(app) == {"COMPLETE": 3}
    assert len({pid for _, pid, _ in runs(app)}) == 3


def test_worker_that_got_no_memory_is_replaced_before_the_next_job(app):
    sweep(app, "x=1,2,3", "++faults={2:memory}", "hydra.sweeper.max_retries=0")
    first, starved, last = [pid for _, pid, _ in runs(app)]
    assert first == starved != last
    assert "raise MemoryError" in (app / "out/study/1/error.txt").read_text()


def test_number_of_workers_that_is_left_to_the_machine_is_said(app):
    output = sweep(app, "x=0,1", "++faults={0:'wait for partner'}", "hydra.sweeper.n_jobs=auto")
    assert re.search(r"n_jobs=auto: \d+ workers? of \d+ threads?; \d+ cores, [\d,]+ MB of free memory", output)
    assert states(app) == {"COMPLETE": 2}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["hydra.sweeper.n_jobs=many"], "error: hydra.sweeper.n_jobs=many: should be auto or a number of trials"),
        (["hydra.sweeper.n_jobs=auto", "hydra/launcher=basic"], "error: hydra.sweeper.n_jobs=auto: is not known"),
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


def test_each_worker_is_prepared_once_before_its_first_job(app):
    (app / "prepared.py").write_text(
        "import os\n"
        "from cnn_sweeps.sweep.application import SweepApplication\n"
        "def prepare():\n"
        "    with open('prepared.txt', 'a') as file:\n"
        "        file.write(f'{os.getpid()}\\n')\n"
        "class Prepared(SweepApplication):\n"
        "    prepare_worker = staticmethod(prepare)\n"
    )
    sweep(app, "x=0,1,2,3", "++faults={1:kill}", "++hydra.sweeper.application._target_=prepared.Prepared")
    prepared = (app / "prepared.txt").read_text().split()
    assert set(prepared) >= {pid for _, pid, _ in runs(app)}
    assert len(set(prepared)) == len(prepared)


@pytest.mark.parametrize(
    ("end", "num_lost"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", 3),
        ("os._exit(0)", 1),
        ("raise MemoryError", 1),
        ("raise SystemExit", 1),
    ],
)
def test_worker_that_is_lost_after_the_trials_is_replaced_and_its_work_done_again(app, end, num_lost):
    (app / "ending.py").write_text(
        "import os, signal\n"
        "from cnn_sweeps.sweep.application import SweepApplication\n"
        "def end_at_first():\n"
        "    with open('pids.txt', 'a+') as file:\n"
        "        file.seek(0)\n"
        "        pids = set(file.read().split())\n"
        f"        if len(pids) < {num_lost}:\n"
        "            file.write(f'{os.getpid()} ')\n"
        "            file.flush()\n"
        f"            {end}\n"
        "    return ['survived']\n"
        "class Ending(SweepApplication):\n"
        "    def finish(self, study, executor):\n"
        "        return executor.call(end_at_first)\n"
    )
    succeeds = num_lost < 3
    output = sweep(app, "x=0,1", "++hydra.sweeper.application._target_=ending.Ending", succeeds=succeeds)
    assert ("survived" in output) == succeeds
    assert ("error: after all trials were told, 3 workers were lost, one after another (" in output) != succeeds
    assert "Traceback" not in output
    assert states(app) == {"COMPLETE": 2}
