"""What a job gave back, or died of, in Optuna's terms."""

import concurrent.futures.process
import math
from collections import Counter
from itertools import count, islice
from types import SimpleNamespace

import numpy as np
import pytest
from hydra.core.utils import JobReturn, JobStatus
from joblib.externals.loky.process_executor import ShutdownExecutorError, TerminatedWorkerError
from optuna import TrialPruned
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from cnn_sweeps.errors import ConfigError, SweepError, TrainingError
from cnn_sweeps.sweep.failures import FailureLimits
from cnn_sweeps.sweep.jobs.loss import JobTimeoutError, LostWorkerError
from cnn_sweeps.sweep.jobs.outcome import read_outcome


class ResourceExhaustedError(Exception):
    """TensorFlow's, by its name."""


def returned(value):
    return JobReturn(status=JobStatus.COMPLETED, _return_value=value)


def raised(error):
    return JobReturn(status=JobStatus.FAILED, _return_value=error)


def expired(code):
    return LostWorkerError(f"the worker process died (exit code {code})")


def error_from(function, *arguments):
    """An exception with the traceback that raising it gives."""
    try:
        function(*arguments)
    except Exception as error:
        return error
    raise AssertionError("raises nothing")


@pytest.mark.parametrize(
    ("value", "values"),
    [
        (0.5, [0.5]),
        (3, [3.0]),
        (-1e300, [-1e300]),
        (True, [1.0]),
        (np.float32(0.5), [0.5]),
        (np.array(0.5), [0.5]),
        ((1, 2.5), [1.0, 2.5]),
        ([1, 2.5], [1.0, 2.5]),
        ((0.5,), [0.5]),
    ],
)
def test_finite_numbers_complete_a_trial(value, values):
    outcome = read_outcome(returned(value), len(values))
    assert (outcome.state, outcome.values, outcome.error) == (TrialState.COMPLETE, values, "")


@pytest.mark.parametrize(
    ("value", "num_objectives", "message"),
    [
        (math.nan, 1, "the objective is nan"),
        (math.inf, 1, "the objective is inf"),
        ((1.0, -math.inf), 2, "the objective is 1.0, -inf"),
        (None, 1, "the job returned None; it must return a number"),
        ("much", 1, "the job returned 'much'"),
        ({"loss": 1}, 1, "the job returned {'loss': 1}"),
        ((1.0, None), 2, "the job returned (1.0, None)"),
        (1.0, 2, "1 value, but hydra.sweeper.direction names 2"),
        ((1.0, 2.0), 1, "2 values, but hydra.sweeper.direction names 1"),
        ((), 1, "0 values"),
    ],
)
def test_anything_else_fails_it_and_says_what_it_was(value, num_objectives, message):
    outcome = read_outcome(returned(value), num_objectives)
    assert (outcome.state, outcome.values, outcome.is_lost) == (TrialState.FAIL, None, False)
    assert message in outcome.error
    assert "\n" not in outcome.error


@pytest.mark.parametrize("wrap", [raised, lambda error: error])
def test_pruned_is_pruned(wrap):
    outcome = read_outcome(wrap(TrialPruned("at epoch 3")), 1)
    assert (outcome.state, outcome.error, outcome.failure_id) == (TrialState.PRUNED, "", "")


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (expired(-9), "the worker process died (exit code -9)"),
        (raised(expired(-11)), "the worker process died (exit code -11)"),
        (concurrent.futures.process.BrokenProcessPool("a child\nterminated"), "BrokenProcessPool: a child terminated"),
        (raised(MemoryError()), "MemoryError"),
        (raised(ResourceExhaustedError("OOM when allocating")), "ResourceExhaustedError: OOM when allocating"),
        (
            raised(SystemError("in Conv2D.call().\n\nerror return without exception set")),
            "SystemError: in Conv2D.call()",
        ),
        (raised(OSError(12, "Cannot allocate memory")), "OSError: [Errno 12] Cannot allocate memory"),
        (raised(ImportError("x.so: failed to map segment from shared object")), "ImportError: x.so: failed to map"),
        (TerminatedWorkerError("SIGKILL(-9)"), "TerminatedWorkerError: SIGKILL(-9)"),
        (ShutdownExecutorError("after shutdown"), "ShutdownExecutorError: after shutdown"),
        (SweepError("there is no worker any more"), "interrupted"),
        (concurrent.futures.CancelledError(), "interrupted"),
    ],
)
def test_what_the_machine_did_is_lost_and_counts_as_no_failure_of_the_code(result, message):
    outcome = read_outcome(result, 1)
    assert (outcome.state, outcome.is_lost, outcome.failure_id) == (TrialState.FAIL, True, "")
    assert message in outcome.error
    assert "\n" not in outcome.error


def test_trial_over_its_time_fails_without_another_try():
    outcome = read_outcome(JobTimeoutError(), 1)
    assert (outcome.state, outcome.is_lost, outcome.failure_id) == (TrialState.FAIL, False, "")
    assert "hydra.sweeper.trial_timeout_s" in outcome.error


def test_job_whose_trial_another_controller_has_ended_says_nothing_of_the_code():
    outcome = read_outcome(raised(UpdateFinishedTrialError("Trial#0 has already finished")), 1)
    assert (outcome.state, outcome.error) == (TrialState.FAIL, "another controller took the trial over")
    assert (outcome.is_lost, outcome.failure_id, outcome.kind) == (False, "", "")


def test_timeout_inside_the_job_is_an_ordinary_failure():
    outcome = read_outcome(raised(TimeoutError("the server does not answer")), 1)
    assert (outcome.error, outcome.is_lost) == ("TimeoutError: the server does not answer", False)
    assert outcome.failure_id


def test_training_that_cannot_go_on_fails_for_its_values_and_not_for_the_code():
    outcome = read_outcome(raised(TrainingError("the loss is nan in epoch 2")), 1)
    assert (outcome.state, outcome.error) == (TrialState.FAIL, "TrainingError: the loss is nan in epoch 2")
    assert (outcome.failure_id, outcome.is_lost) == ("", False)


def _divide(number):
    return 1 / number


def _look_up(key):
    return {}[key]


def _look_up_elsewhere(key):
    return {}[key]


@pytest.mark.parametrize(
    ("one", "other", "are_same"),
    [
        ((_divide, 0), (_divide, 0), True),
        ((_look_up, "a"), (_look_up, "b"), True),
        ((_look_up, "a"), (_look_up_elsewhere, "a"), False),
        ((_look_up, "a"), (_divide, 0), False),
    ],
)
def test_failures_are_told_apart_by_the_place_and_not_by_the_message(one, other, are_same):
    outcomes = [read_outcome(raised(error_from(*each)), 1) for each in (one, other)]
    assert (outcomes[0].failure_id == outcomes[1].failure_id) == are_same
    assert all(outcome.failure_id for outcome in outcomes)


def test_failure_has_one_line_and_the_whole_traceback():
    outcome = read_outcome(raised(error_from(_look_up, "two\nlines")), 1)
    assert outcome.error.startswith("KeyError: ")
    assert "\n" not in outcome.error
    assert "in _look_up" in outcome.traceback
    assert not outcome.is_told


def test_traceback_that_came_with_the_job_wins_over_the_one_that_pickling_lost():
    result = raised(ConfigError("no such key"))
    result.traceback = 'Traceback\n  File "app.py", line 3, in main\nConfigError: no such key\n'
    outcome = read_outcome(result, 1)
    assert outcome.traceback == result.traceback
    assert outcome.is_told
    assert 'File "app.py", line 3, in main' in outcome.failure_id


NO_SETTINGS = SimpleNamespace(max_identical_failures=3, max_retries=2, max_failure_rate=1.0)
NOT_FINITE, DEAD = read_outcome(returned(math.nan), 1), read_outcome(expired(0), 1)


@pytest.mark.parametrize(
    ("outcomes", "worked", "stops"),
    [
        ([DEAD] * 3, 0, True),
        ([NOT_FINITE, read_outcome(raised(TrainingError("nan")), 1), NOT_FINITE], 0, True),
        ([DEAD, read_outcome(raised(MemoryError()), 1), DEAD], 0, True),
        ([DEAD, DEAD], 0, False),
        ([DEAD, NOT_FINITE, DEAD], 0, False),
        ([DEAD] * 5, 1, False),
        ([NOT_FINITE] * 5, 1, False),
    ],
)
def test_alike_failures_of_values_or_the_machine_stop_a_sweep_in_which_nothing_has_worked(outcomes, worked, stops):
    limits = FailureLimits(NO_SETTINGS)
    counts = Counter(COMPLETE=worked, FAIL=len(outcomes))
    verdicts = [
        limits.check(outcome, number, is_retried=False, counts=counts, total=20)
        for number, outcome in enumerate(outcomes)
    ]
    assert [verdict is not None for verdict in verdicts] == [False] * (len(outcomes) - 1) + [stops]


def test_lost_trial_that_is_tried_again_counts_once():
    limits, counts = FailureLimits(NO_SETTINGS), Counter()
    attempts = [limits.check(DEAD, number, is_retried=number % 3 < 2, counts=counts, total=20) for number in range(9)]
    assert attempts[:8] == [None] * 8
    assert attempts[8].to_try_again == [2, 5, 8]


@pytest.mark.parametrize(("num_workers", "num_attempts"), [(1, 9), (2, 9), (4, 9), (16, 33)])
def test_lost_attempts_stop_a_sweep_as_soon_with_several_workers_but_not_before_one_trial_is_given_up(
    num_workers, num_attempts
):
    limits, tries, verdict = FailureLimits(NO_SETTINGS), Counter(), None
    numbers = count()
    queue = list(islice(numbers, num_workers))
    while verdict is None:
        trial = queue.pop(0)
        tries[trial] += 1
        is_retried = tries[trial] < 3
        queue.append(trial if is_retried else next(numbers))
        verdict = limits.check(DEAD, tries.total(), is_retried=is_retried, counts=Counter(), total=100)
    assert tries.total() == num_attempts


def test_same_message_identifies_a_failure_without_a_traceback():
    one, same, other = (read_outcome(ValueError(text), 1).failure_id for text in ("a", "a", "b"))
    assert one == same != other
