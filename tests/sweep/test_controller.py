"""The controller's logic, on real studies, with jobs that end as a script says: no process, no waiting."""

import math
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from concurrent.futures import Future
from contextlib import ExitStack
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from optuna import TrialPruned
from optuna.distributions import IntDistribution
from scripted import Noting, ScriptedExecutor, controller_of, log_in, raised, returned, trials_in
from test_study import open_study
from waiting import wait_until

from cnn_sweeps.errors import SweepError, TrackingOutageError
from cnn_sweeps.sweep import controller, loop
from cnn_sweeps.sweep.jobs.executor import POLL_S
from cnn_sweeps.sweep.jobs.loss import LostWorkerError
from cnn_sweeps.sweep.study import shared
from cnn_sweeps.sweep.study.address import parse_address
from cnn_sweeps.sweep.study.storage import selection_lock
from cnn_sweeps.system import patience

DEAD = LostWorkerError("the worker process died (exit code -9)")


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    for module in (loop, controller):
        monkeypatch.setattr(module, "POLL_S", 0.01)


@pytest.fixture(autouse=True)
def _as_in_a_terminal(monkeypatch):
    """The command is a script's, and signals are not ignored, whatever runs the tests."""
    monkeypatch.setattr(sys, "argv", ["app.py"])
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def others():
    """Start threads that do what a person or another process does meanwhile; their errors are the test's."""
    with ExitStack() as started:

        def start(act):
            errors = []

            def run():
                try:
                    act()
                except BaseException as error:
                    errors.append(error)

            def end():
                thread.join()
                assert not errors, errors

            thread = threading.Thread(target=run)
            started.callback(end)
            thread.start()

        yield start


def run(folder, script=lambda x: x, num_slots=1, **how):
    """Run a sweep; give the xs of its jobs in order."""
    executor = ScriptedExecutor(script, num_slots)
    controller_of(folder, executor, **how).run()
    return executor.xs


def states(folder):
    return Counter(trial.state.name for trial in trials_in(folder) if not trial.user_attrs.get("retried"))


def fail(x):
    raise ValueError(f"x is {x}")


def failing(x):
    """A job whose code fails at one place."""
    try:
        return fail(x)
    except ValueError as error:
        return raised(error)


# What runs when, and what comes of it.


def test_free_slot_gets_the_next_trial_while_another_one_runs(tmp_path):
    slow = Future()

    def script(x):
        if x == 5:
            slow.set_result(returned(0.0))
        return slow if x == 0 else x

    assert run(tmp_path, script, num_slots=2, points=range(6)) == list(range(6))
    first, *fast = trials_in(tmp_path)
    assert all(first.datetime_start < trial.datetime_start < first.datetime_complete for trial in fast)


def test_each_way_to_end_is_told_as_what_it_is(tmp_path):
    ends = [1.5, raised(TrialPruned()), failing(2), math.nan, "much", DEAD, MemoryError("none left")]
    application = Noting()
    run(tmp_path, lambda x: ends[x], points=range(7), max_retries=0, application=application)
    trials = trials_in(tmp_path)
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", *["FAIL"] * 5]
    errors = [trial.user_attrs.get("error", "") for trial in trials]
    assert errors[2:4] == ["ValueError: x is 2", "the objective is nan"]
    assert "'much'" in errors[4]
    assert errors[5:] == ["the worker process died (exit code -9)", "MemoryError: none left"]
    assert all(error in log_in(tmp_path) for error in errors)
    assert "in fail" in (tmp_path / "2/error.txt").read_text()
    assert application.lost == [5, 6]  # whose jobs could not close their records
    assert application.status == "FINISHED"


def test_lost_trial_is_tried_again_as_a_new_one_and_not_too_often(tmp_path):
    xs = run(tmp_path, lambda x: DEAD if x == 1 else x, points=range(3), max_retries=2)
    assert Counter(xs) == {0: 1, 1: 3, 2: 1}
    assert states(tmp_path) == {"COMPLETE": 2, "FAIL": 1}
    lost = [trial for trial in trials_in(tmp_path) if trial.params["x"] == 1]
    assert [trial.user_attrs.get("retry_of") for trial in lost] == [None, lost[0].number, lost[1].number]


def test_trial_that_repeats_a_finished_one_is_not_run_again(tmp_path):
    space = {"x": IntDistribution(0, 2)}
    xs = run(tmp_path, space=space, total=4)
    assert sorted(xs) == sorted(set(xs))
    assert states(tmp_path) == {"COMPLETE": 4}
    assert log_in(tmp_path).count("not run again") == 4 - len(xs) > 0
    assert len(run(tmp_path, space=space, total=7, deterministic=False)) == 3


def test_sweep_that_goes_on_says_how_many_trials_ended_before(tmp_path):
    space = {"x": IntDistribution(0, 99)}
    run(tmp_path, space=space, total=2)
    assert "ended before" not in log_in(tmp_path)
    run(tmp_path, space=space, total=3)
    assert log_in(tmp_path).count("going on: 2 of 3 trials ended before\n") == 1
    run(tmp_path, space=space, total=3)
    assert "going on: 3 of 3 trials ended before; a larger hydra.sweeper.n_trials adds some" in log_in(tmp_path)


def test_space_of_few_points_is_told_and_ends_the_sweep_once_all_are_known(tmp_path):
    space = {"x": IntDistribution(0, 2)}
    assert sorted(run(tmp_path, space=space, total=40)) == [0, 1, 2]
    assert "40 trials of x in [0, 2]; the search space has 3 points, and each runs once" in log_in(tmp_path)
    assert log_in(tmp_path).count("all 3 points of the search space have run; no further trial starts") == 1
    assert states(tmp_path)["COMPLETE"] < 40
    assert run(tmp_path, space=space, total=40) == []


def test_changed_space_in_which_nothing_is_left_to_run_says_so_and_a_new_grid_is_run_whole(tmp_path):
    run(tmp_path, points=range(3))
    changed = {"on_change": "continue", "space": {"x": IntDistribution(0, 1)}}
    assert run(tmp_path, points=range(2), **changed) == []
    assert "nothing is left to run: the study is for 3 trials, and had 3 before the change; choose" in log_in(tmp_path)
    changed["space"] = {"x": IntDistribution(2, 4)}
    assert run(tmp_path, points=range(2, 5), **changed) == [3, 4]


def test_trial_that_repeats_another_one_waits_until_it_can_be_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(patience, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda _s: None))
    application, away = Noting(), iter([True, True])

    def record_duplicate(trial, original):
        if next(away, False):
            raise TrackingOutageError("the store is away")

    monkeypatch.setattr(application, "record_duplicate", record_duplicate, raising=False)
    run(tmp_path, space={"x": IntDistribution(0, 2)}, total=4, application=application)
    assert states(tmp_path) == {"COMPLETE": 4}
    assert log_in(tmp_path).count("waiting up to 60 s: the store is away") == 1


def test_no_slot_for_now_is_waited_for_and_none_for_good_ends_the_sweep(tmp_path):
    executor = ScriptedExecutor(num_slots=0)
    swept = controller_of(tmp_path, executor, points=range(3))
    looks = iter([0, 0, 0, 1, 1])

    class Coming(ScriptedExecutor):
        @property
        def num_slots(self):
            if (number := next(looks, None)) is None:
                raise SweepError("the scheduler is gone")
            return number

        @num_slots.setter
        def num_slots(self, _number):
            pass

    executor.__class__ = Coming
    executor.script = lambda _x: Future()
    with pytest.raises(SweepError, match="the scheduler is gone"):
        swept.run()
    assert executor.xs == [0]
    assert [trial.state.name for trial in trials_in(tmp_path)][:2] == ["FAIL", "WAITING"]
    assert trials_in(tmp_path)[0].user_attrs["error"] == "interrupted"


# When to give up.


def test_equal_failures_in_a_row_stop_the_sweep_with_the_fix_and_the_same_command_goes_on(tmp_path):
    application = Noting()
    with pytest.raises(SweepError) as stopped:
        run(tmp_path, lambda x: x if x == 1 else failing(x), points=range(6), application=application)
    assert str(stopped.value) == (
        "3 trials in a row failed at the same place (ValueError: x is 4); correct the cause and run the same command "
        "with hydra.sweeper.study_name=study, or raise hydra.sweeper.max_identical_failures"
    )
    assert "in fail" in log_in(tmp_path)
    assert "To go on:" in log_in(tmp_path)
    assert (application.status, application.is_finished) == ("FAILED", False)
    assert run(tmp_path, points=range(6)) == [5, 2, 3, 4]
    assert states(tmp_path) == {"COMPLETE": 5, "FAIL": 4}  # the three that stopped the sweep were tried again


def test_all_that_has_ended_is_told_before_failures_stop_the_sweep(tmp_path):
    jobs = {x: Future() for x in range(4)}

    def script(x):
        if x == 3:  # all end at once, the good one last
            for each, job in jobs.items():
                job.set_result(returned(1.0) if each == 3 else failing(each))
        return jobs[x]

    with pytest.raises(SweepError, match="3 trials in a row failed at the same place"):
        run(tmp_path, script, num_slots=4, points=range(4))
    assert trials_in(tmp_path)[3].value == 1.0


def test_too_many_failures_stop_the_sweep(tmp_path):
    limits = {"max_identical_failures": 10, "max_failure_rate": 0.3}
    with pytest.raises(SweepError, match=r"4 of 10 trials failed, more than hydra\.sweeper\.max_failure_rate=0\.3"):
        run(tmp_path, failing, points=range(10), **limits)
    assert states(tmp_path)["FAIL"] == 4


def test_sweep_whose_every_trial_is_lost_or_not_finite_stops_early_and_goes_on_once_the_cause_is_gone(tmp_path):
    how = {"points": range(10), "max_retries": 0}
    for result, told in ((DEAD, "the worker process died"), (math.nan, "the objective is nan")):
        with pytest.raises(SweepError, match=rf"3 trials in a row failed alike, and no trial has completed \({told}"):
            run(tmp_path, lambda _x, result=result: result, **how)
    assert len(trials_in(tmp_path)) == 3 + 7 + 6
    run(tmp_path, **how)
    assert states(tmp_path)["COMPLETE"] == 10
    assert {trial.params["x"] for trial in trials_in(tmp_path) if trial.state.name == "COMPLETE"} == set(range(10))


@pytest.mark.parametrize(
    ("result", "advice"),
    [
        (math.nan, "2 failed, 0 running; the last failure: the objective is nan; correct the cause; the same command"),
        (raised(TrialPruned()), "choose a more patient hydra/sweeper/pruner"),
    ],
)
def test_sweep_without_a_completed_trial_is_no_success(tmp_path, result, advice):
    application = Noting()
    with pytest.raises(SweepError, match=f"no trial completed: .*{advice}"):
        run(tmp_path, lambda _x: result, points=range(2), application=application)
    assert (application.status, application.is_finished) == ("FAILED", False)


def test_same_command_tries_what_failed_again_once_the_cause_is_gone_and_then_no_more(tmp_path):
    with pytest.raises(SweepError, match="no trial completed"):
        run(tmp_path, lambda _x: math.nan, points=range(2))
    assert run(tmp_path, points=range(2)) == [0, 1]
    assert run(tmp_path, points=range(2)) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_controller_that_waits_for_another_one_to_test_the_best_trials_ends_at_the_first_signal(
    tmp_path, others, number
):
    def interrupt():
        wait_until(lambda: "waiting while another controller tests" in log_in(tmp_path), "a wait")
        os.kill(os.getpid(), number)

    application = Noting()
    with selection_lock(parse_address(str(tmp_path / "study.journal"), "study")) as is_held:
        assert is_held
        others(interrupt)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            run(tmp_path, points=range(2), application=application)
    assert (application.status, application.is_finished) == ("KILLED", False)
    assert "finishing" not in log_in(tmp_path)  # of what does not run
    assert states(tmp_path) == {"COMPLETE": 2}
    assert run(tmp_path, points=range(2), application=application) == []
    assert application.is_finished


@pytest.mark.parametrize(("script", "status"), [(lambda x: x, "FINISHED"), (failing, "FAILED")])
def test_every_part_of_a_sweep_is_ended_though_others_cannot_be_and_the_first_error_is_told(tmp_path, script, status):
    executor, application = ScriptedExecutor(script), Noting()
    swept = controller_of(tmp_path, executor, points=range(3), application=application)
    executor.close = Mock(side_effect=SweepError("first"))
    swept._console.close = Mock(side_effect=SweepError("second"))
    with pytest.raises(SweepError, match="first" if script is not failing else "3 trials in a row failed"):
        swept.run()
    assert swept._console.close.called
    assert application.status == status


def test_outage_that_ends_a_sweep_is_told_with_the_command_that_goes_on(tmp_path):
    application = Noting()
    application.begin = Mock(side_effect=TrackingOutageError("the store is away"))
    with pytest.raises(TrackingOutageError, match=r"the store is away: python .*--multirun x=\.\.\. .*_name=study"):
        run(tmp_path, points=range(3), application=application)
    assert application.status == "FAILED"


# When to stop.


def test_time_limit_starts_no_more_trials_finishes_those_that_run_and_ends_the_sweep_as_always(tmp_path, monkeypatch):
    clock, application = SimpleNamespace(now=0.0), Noting()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def script(x):
        clock.now += 4
        return x

    assert run(tmp_path, script, points=range(9), timeout_s=10.0, application=application) == [0, 1, 2]
    assert states(tmp_path) == {"COMPLETE": 3, "WAITING": 6}
    assert (application.status, application.is_finished) == ("FINISHED", True)
    assert "To go on:" in log_in(tmp_path)


def interrupted(folder, others, numbers, num_slots=2, **how):
    """Run a sweep until all its slots are taken and the signals have come; let its jobs end if one alone came."""
    jobs, application = [], Noting()

    def script(_x):
        jobs.append(Future())
        return jobs[-1]

    def interrupt():
        wait_until(lambda: len(jobs) == num_slots, "the jobs")
        os.kill(os.getpid(), numbers[0])
        if numbers[0] == signal.SIGINT:
            wait_until(lambda: "finishing 2 running trials" in log_in(folder), "the answer")
        for number in numbers[1:]:
            os.kill(os.getpid(), number)
        if numbers == [signal.SIGINT]:
            for job in jobs:
                job.set_result(returned(1.0))

    executor = ScriptedExecutor(script, num_slots)
    others(interrupt)
    with pytest.raises((KeyboardInterrupt, SystemExit)) as ended:
        controller_of(folder, executor, application=application, **how).run()
    assert executor.is_closed
    assert application.status == "KILLED"
    assert not application.is_finished
    return ended.value, application


def test_first_ctrl_c_finishes_what_runs_and_the_same_command_goes_on(tmp_path, others):
    error, _ = interrupted(tmp_path, others, [signal.SIGINT], points=range(4))
    assert isinstance(error, KeyboardInterrupt)
    assert states(tmp_path) == {"COMPLETE": 2, "WAITING": 2}
    assert re.search(r"To go on:\n.* python .*--multirun x=\.\.\. hydra\.sweeper\.study_name=study\n", log_in(tmp_path))
    assert run(tmp_path, points=range(4)) == [2, 3]
    assert states(tmp_path) == {"COMPLETE": 4}


@pytest.mark.parametrize("numbers", [[signal.SIGINT, signal.SIGINT], [signal.SIGTERM], [signal.SIGHUP]])
def test_second_ctrl_c_or_another_signal_stops_at_once_and_the_same_command_goes_on(tmp_path, others, numbers):
    error, application = interrupted(tmp_path, others, numbers, points=range(4))
    if numbers[-1] == signal.SIGINT:
        assert isinstance(error, KeyboardInterrupt)
    else:
        assert error.code == 128 + numbers[-1]
    assert states(tmp_path).get("RUNNING", 0) == 0
    assert application.lost == [0, 1]
    assert Counter(run(tmp_path, points=range(4))) == dict.fromkeys(range(4), 1)
    assert states(tmp_path) == {"COMPLETE": 4}
    retried = [trial.user_attrs["retry_of"] for trial in trials_in(tmp_path) if "retry_of" in trial.user_attrs]
    assert sorted(retried) == [0, 1]


def controller_that_gets(number, folder, executor, monkeypatch):
    """Build a controller that gets a signal while it tells what became of its first trial."""
    swept = controller_of(folder, executor, points=range(3))
    study = swept._loop._study
    tell = study.tell

    def tell_slowly(trial, outcome):
        monkeypatch.setattr(study, "tell", tell)
        os.kill(os.getpid(), number)
        return tell(trial, outcome)

    monkeypatch.setattr(study, "tell", tell_slowly)
    return swept


def test_ctrl_c_that_comes_while_a_trial_is_told_is_answered_too(tmp_path, monkeypatch, others):
    slow = Future()

    def end_the_other_one():
        try:
            wait_until(lambda: "finishing 1 running trial;" in log_in(tmp_path), "the answer")
        finally:
            slow.set_result(returned(1.0))  # without it the sweep would not end

    executor = ScriptedExecutor(lambda x: slow if x else x, num_slots=2)
    swept = controller_that_gets(signal.SIGINT, tmp_path, executor, monkeypatch)
    others(end_the_other_one)
    with pytest.raises(KeyboardInterrupt):
        swept.run()
    assert states(tmp_path) == {"COMPLETE": 2, "WAITING": 1}


def test_signal_that_comes_while_a_trial_is_told_ends_the_sweep_afterwards(tmp_path, monkeypatch):
    swept = controller_that_gets(signal.SIGTERM, tmp_path, ScriptedExecutor(), monkeypatch)
    with pytest.raises(SystemExit) as ended:
        swept.run()
    assert ended.value.code == 143
    assert trials_in(tmp_path)[0].state.name == "COMPLETE"


def test_jobs_are_waited_for_in_short_pieces_between_which_signals_are_heard(tmp_path, monkeypatch):
    job, waits = Future(), []

    def wait(_futures, timeout_s, _when):
        waits.append(timeout_s)
        if len(waits) == 3:
            job.set_result(returned(1.0))

    monkeypatch.setattr(loop, "wait", wait)
    monkeypatch.setattr(loop, "POLL_S", POLL_S)  # as it is
    run(tmp_path, lambda _x: job, points=[0])
    assert len(waits) == 3
    assert max(waits) <= 0.5


def test_hangup_that_nohup_has_ignored_ends_nothing(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run(tmp_path, lambda x: os.kill(os.getpid(), signal.SIGHUP) or x, points=range(2)) == [0, 1]
    finally:
        signal.signal(signal.SIGHUP, before)


# Several controllers.


def test_two_controllers_at_once_share_a_study(tmp_path, others):
    begun = [Future(), Future()]  # each one's first job, which ends once both have one

    def controlled(me):
        def script(x):
            if not begun[me].done() and not xs[me]:
                xs[me].append(x)
                wait_until(lambda: all(xs), "the other one")
            else:
                xs[me].append(x)
            return x

        run(tmp_path, script, points=range(5))

    xs = [[], []]
    others(lambda: controlled(1))
    controlled(0)
    wait_until(lambda: states(tmp_path) == {"COMPLETE": 5}, "the other one's last")
    assert sorted([*xs[0], *xs[1]]) == list(range(5))
    assert all(xs)


def test_living_controller_takes_over_the_trials_of_a_dead_one(tmp_path, others, monkeypatch):
    swept = controller_of(tmp_path, ScriptedExecutor(), points=range(2))
    swept._study.enqueue([{"x": 0}, {"x": 1}])
    dead = open_study(tmp_path, {"x": IntDistribution(0, 99)}, total=2)
    assert dead.claim().number == 0

    def die():
        wait_until(lambda: "waiting for 1 trial of" in log_in(tmp_path), "a wait")
        monkeypatch.setattr(shared, "owner_state", lambda *_: "dead")

    others(die)
    swept.run()
    assert states(tmp_path) == {"COMPLETE": 2}
    assert [trial.user_attrs.get("retry_of") for trial in trials_in(tmp_path)] == [None, None, 0]


def test_record_is_brought_up_to_date_now_and_then_and_what_is_new_is_said_once(tmp_path, monkeypatch):
    clock, application = SimpleNamespace(now=0.0), Noting()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock.now))
    updates, news = [], iter([["of the images"]])
    monkeypatch.setattr(application, "update", lambda study: updates.append(clock.now), raising=False)
    monkeypatch.setattr(application, "news", lambda study: next(news, []), raising=False)

    def script(x):
        clock.now += 2
        return x

    run(tmp_path, script, points=range(7), application=application)
    assert updates == [6.0, 12.0]
    assert log_in(tmp_path).count("of the images") == 1
