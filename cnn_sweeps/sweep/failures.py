"""Decides when failures are so many, or so alike, that the sweep stops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from optuna.trial import FrozenTrial, TrialState

from cnn_sweeps.errors import SweepError
from cnn_sweeps.sweep.console import describe_counts
from cnn_sweeps.sweep.jobs.outcome import Outcome
from cnn_sweeps.sweep.settings import SweepSettings
from cnn_sweeps.sweep.study.ledger import RETRIED, error_of
from cnn_sweeps.sweep.study.study import SweepStudy
from cnn_sweeps.text.numbers import counted


class Verdict(NamedTuple):
    """Why a sweep stops, and what to do about it."""

    reason: str
    or_else: str  # what the user can do instead of correcting the cause; may be empty
    to_try_again: list[int]  # numbers of the trials that run again when the sweep goes on


class _Ended(NamedTuple):
    failure: str  # equal for failures that are alike; "" for none
    number: int
    is_last: bool  # whether this was the last attempt of its trial


class FailureLimits:
    """Watches the outcomes of trials, in the order in which the trials end."""

    def __init__(self, settings: SweepSettings) -> None:
        """Take `max_identical_failures`, `max_retries` and `max_failure_rate`."""
        self._num_identical, self._rate = settings.max_identical_failures, settings.max_failure_rate
        self._num_attempts = self._num_identical * (1 + settings.max_retries)
        self._ended: list[_Ended] = []

    def check(
        self, outcome: Outcome, number: int, *, is_retried: bool, counts: Mapping[str, int], total: int
    ) -> Verdict | None:
        """Take the outcome of a trial; return why the sweep must stop, or None.

        `is_retried`: another trial repeats it. `counts` are the study's trials by state; it is for `total` trials.
        """
        has_worked = bool(counts["COMPLETE"] or counts["PRUNED"])
        failure = outcome.failure_id or ("" if has_worked else outcome.kind)
        ended = _Ended(failure, number, is_last=bool(outcome.failure_id) or not is_retried)
        self._ended.append(ended)
        if (what := self._alike(ended)) is not None:
            how = "failed at the same place" if outcome.failure_id else "failed alike, and no trial has completed"
            failed = [each.number for each in self._last_attempts()[-self._num_identical :]]
            return Verdict(
                f"{what} in a row {how} ({outcome.error})", ", or raise hydra.sweeper.max_identical_failures", failed
            )
        if ended.is_last and outcome.state == TrialState.FAIL and counts["FAIL"] > self._rate * total:
            many = f"{counts['FAIL']} of {counted(total, 'trial')} failed, more than "
            many += f"hydra.sweeper.max_failure_rate={self._rate}"
            failed = [each.number for each in self._last_attempts() if each.failure]
            return Verdict(f"{many} allows; the last one: {outcome.error}", "", failed)
        return None

    def _alike(self, ended: _Ended) -> str | None:
        """Say how many trials in a row failed alike, or how many attempts if several trials run at once."""
        if not ended.failure:
            return None
        trials, attempts = self._last_attempts()[-self._num_identical :], self._ended[-self._num_attempts :]
        if ended.is_last and [each.failure for each in trials] == [ended.failure] * self._num_identical:
            return counted(self._num_identical, "trial")
        is_one_given_up = any(each.is_last for each in attempts)  # else one outage may have hit many first attempts
        if is_one_given_up and [each.failure for each in attempts] == [ended.failure] * self._num_attempts:
            return counted(self._num_attempts, "attempt")
        return None

    def _last_attempts(self) -> list[_Ended]:
        return [each for each in self._ended if each.is_last]


def why_to_stop(limits: FailureLimits, study: SweepStudy, outcome: Outcome, trial: FrozenTrial) -> SweepError | None:
    """Take the outcome of a trial that has ended; return the error that must stop the sweep, if any.

    The failed trials that led to the error run again when the sweep goes on.
    """
    is_retried, counts = bool(trial.user_attrs.get(RETRIED)), study.ledger.counts
    verdict = limits.check(outcome, trial.number, is_retried=is_retried, counts=counts, total=study.total)
    if verdict is None:
        return None
    study.set_aside(verdict.to_try_again if counts["COMPLETE"] else [each.number for each in study.failed])
    advice = f"correct the cause and run the same command with hydra.sweeper.study_name={study.name}"
    return SweepError(f"{verdict.reason}; {advice}{verdict.or_else}")


def no_success(study: SweepStudy, settings: SweepSettings) -> SweepError:
    """Return the error of a sweep in which no trial completed; failed trials run again when the sweep goes on."""
    counts, failed = study.ledger.counts, study.failed
    study.set_aside([trial.number for trial in failed])
    if failed:
        last = f"the last failure: {error_of(failed[-1]) or 'not known'}; "
        advice = f"{last}correct the cause; the same command runs the failed trials again with"
    elif counts["PRUNED"]:
        advice = "to go on, choose a more patient hydra/sweeper/pruner and a larger hydra.sweeper.n_trials, with"
    else:
        advice = f"to go on, set a larger hydra.sweeper.timeout_s than {settings.timeout_s}, with"
    return SweepError(f"no trial completed: {describe_counts(counts)}; {advice} hydra.sweeper.study_name={study.name}")
