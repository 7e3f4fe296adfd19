"""Who runs jobs, without processes: slots and their threads, launchers of others, calls after the trials."""

import functools
import threading
from concurrent.futures import Future, wait
from contextlib import contextmanager

import cloudpickle
import pytest
from hydra.core.utils import JobReturn, JobStatus
from waiting import LONGEST_S

from cnn_sweeps.errors import SweepError
from cnn_sweeps.sweep.jobs import local
from cnn_sweeps.sweep.jobs.choice import InThisProcess, LauncherSlot, choose_executor
from cnn_sweeps.sweep.jobs.executor import JobsAhead, SlotExecutor, call_until_worker_lasts
from cnn_sweeps.sweep.jobs.local import LocalSlot
from cnn_sweeps.sweep.jobs.loss import LostWorkerError
from cnn_sweeps.sweep.jobs.process import way_to_task


class FakeLauncher:
    """Runs a function with the number of the job in the thread that launches it."""

    def __init__(self, function):
        self.function, self.joblib = function, {"n_jobs": -1}

    def launch(self, job_overrides, initial_job_idx):
        assert len(job_overrides) == 1
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=self.function(initial_job_idx))]


@contextmanager
def launched(function, num_slots):
    """An executor of fake launchers, and all that were built."""
    built = []

    def build(of):
        built.append(FakeLauncher(of))
        return built[-1]

    executor = choose_executor(build, function, JobsAhead(num_slots, at_most=10))
    executor.open(print)
    try:
        yield executor, built
    finally:
        executor.close()


@pytest.mark.parametrize(("usual", "planned"), [({"usual_n_jobs": "auto"}, "auto"), ({}, 1)])
def test_as_many_jobs_at_once_as_the_launcher_likes_unless_it_is_told(usual, planned):
    class Planning(FakeLauncher):
        def plan_executor(self, jobs):
            return jobs.n_jobs

    for name, value in usual.items():
        setattr(Planning, name, value)
    assert choose_executor(Planning, print, JobsAhead(1, at_most=10), is_n_jobs_given=False) == planned
    assert choose_executor(Planning, print, JobsAhead(3, at_most=10)) == 3


def test_slot_of_another_launcher_gets_the_next_job_while_a_job_of_another_slot_runs():
    go = threading.Event()

    def job(number):
        if number == 3:
            go.set()
        return number if number or go.wait(LONGEST_S) else None

    with launched(job, 2) as (executor, _):
        futures = [executor.submit([f"x={number}"], number) for number in (0, 1, 2, 3)]
        assert [future.result(LONGEST_S).return_value for future in futures] == [0, 1, 2, 3]


def test_job_of_another_launcher_that_raises_fails_alone_and_its_slot_goes_on():
    def job(number):
        if number == 0:
            raise SystemExit(3)
        return number

    with launched(job, 2) as (executor, _):
        futures = [executor.submit([], number) for number in range(4)]
        assert isinstance(futures[0].exception(LONGEST_S), SystemExit)
        assert [future.result(LONGEST_S).return_value for future in futures[1:]] == [1, 2, 3]


def test_what_is_called_where_jobs_run_has_a_launcher_of_its_own_and_joblibs_have_processes_for_all_slots():
    with launched(lambda number: number, 3) as (executor, built):
        of_jobs = list(built)
        assert executor.call(max, 1, 2).result(LONGEST_S) == 2
        assert built[-1] not in of_jobs
        assert [launcher.joblib["n_jobs"] for launcher in built[1:]] == [3] * 4


def test_launcher_that_waits_for_its_job_when_the_sweep_is_stopped_is_told_as_by_a_signal():
    told, waits = [], threading.Event()

    def job(_number):
        try:
            waits.set()
            for _ in range(100_000):
                threading.Event().wait(0.005)
        except SystemExit:
            told.append("SystemExit")
            raise

    with launched(job, 1) as (executor, _):
        executor.submit([], 0)
        assert waits.wait(LONGEST_S)
    assert told == ["SystemExit"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143)])
def test_signal_that_comes_while_a_job_runs_in_this_process_is_not_taken_for_the_jobs_failure(error):
    def job(_number):
        raise error

    with pytest.raises(type(error)):
        InThisProcess([LauncherSlot(FakeLauncher, job, 1)]).submit([], 0)


def test_job_that_leaves_this_process_fails_alone():
    error = SystemExit(3)

    def job(_number):
        raise error

    assert InThisProcess([LauncherSlot(FakeLauncher, job, 1)]).submit([], 0).exception() is error


def test_function_is_called_again_while_its_worker_is_lost_and_not_for_ever():
    ends = iter([LostWorkerError("died"), MemoryError(), SystemExit(3)])

    class Executor:
        def call(self, function, *arguments):
            future = Future()
            if (error := next(ends, None)) is None:
                future.set_result(function(*arguments))
            else:
                future.set_exception(error)
            return future

        num_slots = 1

    with pytest.raises(SweepError, match=r"3 workers were lost, one after another \(the last one: SystemExit: 3\)"):
        call_until_worker_lasts(Executor(), max, 1, 2)
    assert call_until_worker_lasts(Executor(), max, 1, 2) == 2
    ends = iter([LookupError("nothing found")])
    with pytest.raises(LookupError):
        call_until_worker_lasts(Executor(), max, 1, 2)


def test_worker_that_a_slot_starts_while_it_is_closed_does_not_outlive_the_sweep(monkeypatch):
    starting, go, ended = threading.Event(), threading.Event(), []

    class Worker:
        is_alive = True

        def __init__(self, _context):
            starting.set()
            assert go.wait(LONGEST_S)

        def call(self, *_call):
            return None

        def end(self):
            ended.append(self)

    monkeypatch.setattr(local, "_WorkerProcess", Worker)
    executor = SlotExecutor([LocalSlot(b"", {}, JobsAhead(1, 1), max_worker_mb=1)])
    executor.open(print)
    assert starting.wait(LONGEST_S)
    closing = threading.Thread(target=executor.close)
    closing.start()
    go.set()
    closing.join()
    assert len(ended) == 1
    late = executor.submit([], 0)
    assert not wait([late], 0).done


def decorated(function):
    @functools.wraps(function)
    def call(config):
        return function(config)

    return call


@decorated
@decorated
def task(config):
    return config


def plain_task(config):
    return config


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (task, task),
        (task.__wrapped__, task.__wrapped__),
        (task.__wrapped__.__wrapped__, task.__wrapped__.__wrapped__),
        (decorated(plain_task), plain_task),  # of which the module knows nothing
    ],
    ids=["with both decorators", "with the inner one", "without", "with one that is not in the module"],
)
def test_task_that_can_be_imported_is_found_by_its_name_below_as_many_decorators_as_here(function, found):
    """Not a copy of it, nor what its decorators make of it: Hydra's would read the command line."""
    assert cloudpickle.loads(cloudpickle.dumps(way_to_task(function, is_for_children=True)))() is found


def test_task_that_cannot_be_imported_is_sent_itself():
    sent = cloudpickle.loads(cloudpickle.dumps(way_to_task(lambda config: config + 1, is_for_children=True)))
    assert sent()(1) == 2


def test_worker_is_started_again_if_what_it_is_to_be_a_fork_of_dies_in_that_moment(monkeypatch):
    errors = [EOFError("unexpected EOF"), ConnectionRefusedError()]

    class Worker:
        def __init__(self, _context):
            if errors:
                raise errors.pop()

    monkeypatch.setattr(local, "_WorkerProcess", Worker)
    assert isinstance(local._start_worker(None, {}), Worker)
    errors += [EOFError("unexpected EOF")] * 2
    monkeypatch.setattr(local, "_END_S", -1.0)
    with pytest.raises(LostWorkerError, match=r"could not be started \(unexpected EOF\)"):
        local._start_worker(None, {})
