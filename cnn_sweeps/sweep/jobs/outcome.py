"""What became of a trial's job, in Optuna's terms."""

from __future__ import annotations

import math
import re
import traceback
from concurrent.futures import CancelledError
from dataclasses import dataclass

from hydra.core.utils import JobReturn, JobStatus
from optuna import TrialPruned
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from cnn_sweeps.errors import OutageError, TrainingError, UserError
from cnn_sweeps.sweep.jobs.loss import JobTimeoutError, LostWorkerError, is_lost_worker
from cnn_sweeps.system.files import is_disk_full
from cnn_sweeps.text.passwords import hide_passwords


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        state: COMPLETE, PRUNED or FAIL.
        values: the objectives of a COMPLETE trial, finite.
        error: why a FAIL is one, in one line.
        traceback: of the exception, if there was one.
        failure_id: equal for failures at the same place of the code; empty if the values, not the code, failed.
        kind: of a failure without such a place; empty if it says nothing of what other trials may meet.
        is_told: the error says all that a user needs, so that the traceback is kept but not shown.
        is_lost: the machine failed, not the trial, so that trying again makes sense.
    """

    state: TrialState
    values: list[float] | None = None
    error: str = ""
    traceback: str = ""
    failure_id: str = ""
    kind: str = ""
    is_told: bool = False
    is_lost: bool = False


INTERRUPTED = Outcome(TrialState.FAIL, error="interrupted", is_lost=True)


def read_outcome(result: JobReturn | BaseException, num_objectives: int) -> Outcome:
    """Tell how a job ended from what its executor gave back."""
    if isinstance(result, JobReturn):
        if result.status == JobStatus.COMPLETED:
            return _read_value(result.return_value, num_objectives)
        return _read_exception(result._return_value, getattr(result, "traceback", ""))
    return _read_exception(result, "")


def _read_value(value: object, num_objectives: int) -> Outcome:
    try:
        values = [float(each) for each in (value if isinstance(value, (list, tuple)) else [value])]  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return _fail(f"the job returned {value!r}; it must return a number, or a tuple of numbers", "returned")
    if len(values) != num_objectives:
        return _fail(
            f"the job returned {len(values)} values and hydra.sweeper.direction names {num_objectives}; "
            "give one direction for each value",
            "number of values",
        )
    if not all(math.isfinite(each) for each in values):
        return _fail(f"the objective is {', '.join(str(each) for each in values)}", "", kind="not finite")
    return Outcome(TrialState.COMPLETE, values=values)


def _read_exception(error: BaseException, text: str) -> Outcome:
    name, message = type(error).__name__, hide_passwords(" ".join(str(error).split()))
    if isinstance(error, TrialPruned):
        return Outcome(TrialState.PRUNED)
    if isinstance(error, CancelledError):
        return INTERRUPTED
    if isinstance(error, UpdateFinishedTrialError):
        return _fail("another controller took the trial over", "")
    if (lost := _read_lost(error, f"{name}: {message}", text)) is not None:
        return lost
    if isinstance(error, JobTimeoutError):
        return _fail("ran longer than hydra.sweeper.trial_timeout_s", "", kind="too long")
    text = hide_passwords(text or "".join(traceback.format_exception(error)))
    places = re.findall(r'File ".*", line \d+, in .*', text)
    kind = "not finite" if isinstance(error, TrainingError) else ""
    return Outcome(
        TrialState.FAIL,
        error=f"{name}: {message}",
        traceback=text,
        failure_id="" if kind else "\n".join([name, *(places or [message])]),
        kind=kind,
        is_told=isinstance(error, UserError),
    )


def _read_lost(error: BaseException, told: str, text: str) -> Outcome | None:
    """Read what the machine did, not the trial."""
    if isinstance(error, LostWorkerError):
        return Outcome(TrialState.FAIL, error=str(error), kind="lost", is_lost=True)
    if isinstance(error, OutageError) or is_disk_full(error):  # which other trials meet too: several stop the sweep
        return Outcome(TrialState.FAIL, error=told, failure_id=type(error).__name__, is_lost=True)
    if is_lost_worker(error):
        text = hide_passwords(text or "".join(traceback.format_exception(error)))
        return Outcome(TrialState.FAIL, error=told, traceback=text, kind="lost", is_lost=True)
    return None


def _fail(error: str, failure_id: str, kind: str = "") -> Outcome:
    return Outcome(TrialState.FAIL, error=error, failure_id=failure_id, kind=kind)
