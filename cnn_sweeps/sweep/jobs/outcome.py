"""How a trial's job ended, in Optuna's terms."""

from __future__ import annotations

import math
import re
import traceback
from concurrent.futures import CancelledError
from dataclasses import dataclass
from functools import partial

from hydra.core.utils import JobReturn, JobStatus
from optuna import TrialPruned
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from cnn_sweeps.errors import OutageError, SweepError, TrainingError, UserError
from cnn_sweeps.sweep.jobs.loss import JobTimeoutError, LostWorkerError, is_lost_worker
from cnn_sweeps.system.files import is_disk_full
from cnn_sweeps.text.numbers import counted
from cnn_sweeps.text.passwords import hide_passwords


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        state: COMPLETE, PRUNED or FAIL.
        values: the objectives of a COMPLETE trial, finite.
        error: why the trial failed, in one line.
        traceback: of the exception, if there was one.
        failure_id: equal for failures at the same place of the code; empty if the values, not the code, failed.
        kind: kind of a failure without such a place; empty if other trials are not likely to fail in the same way.
        is_told: whether the error says all that a user needs; then the traceback is kept but not shown.
        is_lost: whether the machine, not the trial, failed; then it makes sense to try again.
    """

    state: TrialState
    values: list[float] | None = None
    error: str = ""
    traceback: str = ""
    failure_id: str = ""
    kind: str = ""
    is_told: bool = False
    is_lost: bool = False


_fail = partial(Outcome, TrialState.FAIL)
INTERRUPTED = _fail(error="interrupted", is_lost=True)


def read_outcome(result: JobReturn | BaseException, num_objectives: int) -> Outcome:
    """Return how a job ended, from its result or its future's exception."""
    if isinstance(result, (CancelledError, SweepError)):  # the workers are gone
        return INTERRUPTED
    if isinstance(result, BaseException):
        return _read_exception(result, "")
    if result.status != JobStatus.COMPLETED:
        return _read_exception(result._return_value, getattr(result, "traceback", ""))
    return _read_value(result.return_value, num_objectives)


def _read_value(value: object, num_objectives: int) -> Outcome:
    try:
        values = [float(each) for each in (value if isinstance(value, (list, tuple)) else [value])]  # type: ignore[arg-type]
    except (TypeError, ValueError):
        error = f"the job returned {value!r}; it must return a number, or a tuple of numbers"
        return _fail(error=error, failure_id="returned")
    if len(values) != num_objectives:
        error = f"the job returned {counted(len(values), 'value')}, but hydra.sweeper.direction names {num_objectives}"
        return _fail(error=f"{error}; name one direction for each value", failure_id="number of values")
    if not all(math.isfinite(each) for each in values):
        return _fail(error=f"the objective is {', '.join(str(each) for each in values)}", kind="not finite")
    return Outcome(TrialState.COMPLETE, values)


def _read_exception(error: BaseException, text: str) -> Outcome:
    """Read the exception that ended a job; `text` is its traceback, if that is not in the exception."""
    name, message = type(error).__name__, hide_passwords(" ".join(str(error).split()))
    told, text = f"{name}: {message}", hide_passwords(text or "".join(traceback.format_exception(error)))
    if isinstance(error, TrialPruned):
        return Outcome(TrialState.PRUNED)
    if isinstance(error, UpdateFinishedTrialError):
        return _fail(error="another controller took the trial over")
    if isinstance(error, JobTimeoutError):
        return _fail(error="ran longer than hydra.sweeper.trial_timeout_s", kind="too long")
    if isinstance(error, OutageError) or is_disk_full(error):  # other trials meet it, too: several stop the sweep
        return _fail(error=told, failure_id=name, is_lost=True)
    if isinstance(error, LostWorkerError):
        told, text = message, ""
    is_lost, is_told = is_lost_worker(error), isinstance(error, UserError)
    kind = "lost" if is_lost else "not finite" if isinstance(error, TrainingError) else ""
    places = re.findall(r'File ".*", line \d+, in .*', text) or [message]
    failure_id = "" if kind else "\n".join([name, *places])
    return _fail(error=told, traceback=text, failure_id=failure_id, kind=kind, is_told=is_told, is_lost=is_lost)
