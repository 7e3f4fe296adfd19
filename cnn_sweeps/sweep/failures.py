"""When failures are so many, or so alike, that a sweep stops."""

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
    """Why a sweep stops, what else than correcting the cause may be done, and which trials are then tried again."""

    reason: str
    or_else: str
    to_try_again: list[int]


class _Ended(NamedTuple):
    failure: str  # what failures that are alike have in common; "" for none
    number: int
    is_last: bool  # attempt of its trial


class FailureLimits:
    """Looks at each trial's outcome, in the order in which they end."""

    def __init__(self, settings: SweepSettings) -> None:
        """Take `max_identical_failures`, `max_retries` and `max_failure_rate`."""
        self._num_identical, self._rate = settings.max_identical_failures, settings.max_failure_rate
        self._num_attempts = self._num_identical * (1 + settings.max_retries)
        self._ended: list[_Ended] = []

    def check(
        self, outcome: Outcome, number: int, *, is_retried: bool, counts: Mapping[str, int], total: int
    ) -> Verdict | None:
        """Take the outcome of the trial of a number; say whether the sweep is to stop.

        The study is for `total` trials and has `counts` of each state; `is_retried`: another one tries the same again.
        """
        has_worked = bool(counts["COMPLETE"] or counts["PRUNED"])
        failure = outcome.failure_id or ("" if has_worked else outcome.kind)
        ended = _Ended(failure, number, is_last=bool(outcome.failure_id) or not is_retried)
        self._ended.append(ended)
        if (what := self._alike(ended)) is not None:
            how = "failed at the same place" if outcome.failure_id else "failed alike and none has completed"
            failed = [each.number for each in self._last_attempts()[-self._num_identical :]]
            return Verdict(
                f"{what} in a row {how} ({outcome.error})", ", or raise hydra.sweeper.max_identical_failures", failed
            )
        if ended.is_last and outcome.state == TrialState.FAIL and counts["FAIL"] > self._rate * total:
            too_many = f"{counts['FAIL']} of {counted(total, 'trial')} failed, more than "
            too_many += f"hydra.sweeper.max_failure_rate={self._rate}"
            failed = [each.number for each in self._last_attempts() if each.failure]
            return Verdict(f"{too_many} allows; the last one: {outcome.error}", "", failed)
        return None

    def _alike(self, ended: _Ended) -> str | None:
        """Say how many trials in a row failed alike, or how many attempts where several trials are tried at once."""
        if not ended.failure:
            return None
        trials, attempts = self._last_attempts()[-self._num_identical :], self._ended[-self._num_attempts :]
        if ended.is_last and [each.failure for each in trials] == [ended.failure] * self._num_identical:
            return counted(self._num_identical, "trial")
        is_one_given_up = any(each.is_last for each in attempts)  # one outage can hit many first attempts
        if is_one_given_up and [each.failure for each in attempts] == [ended.failure] * self._num_attempts:
            return counted(self._num_attempts, "attempt")
        return None

    def _last_attempts(self) -> list[_Ended]:
        return [each for each in self._ended if each.is_last]


def why_to_stop(limits: FailureLimits, study: SweepStudy, outcome: Outcome, trial: FrozenTrial) -> SweepError | None:
    """Take the outcome of a trial that was told; give the error that stops the sweep, if going on makes no sense.

    Its failures are tried again when it goes on.
    """
    is_retried, counts = bool(trial.user_attrs.get(RETRIED)), study.ledger.counts
    verdict = limits.check(outcome, trial.number, is_retried=is_retried, counts=counts, total=study.total)
    if verdict is None:
        return None
    study.set_aside(verdict.to_try_again if counts["COMPLETE"] else [each.number for each in study.failed])
    advice = f"correct the cause and give the same command with hydra.sweeper.study_name={study.name}"
    return SweepError(f"{verdict.reason}; {advice}{verdict.or_else}")


def no_success(study: SweepStudy, settings: SweepSettings) -> SweepError:
    """Give the error of a sweep in which no trial completed; those that failed are tried again when it goes on."""
    counts, failed = study.ledger.counts, study.failed
    study.set_aside([trial.number for trial in failed])
    if failed:
        last = f"the last failure: {error_of(failed[-1]) or 'not known'}; "
        advice = f"{last}correct the cause and give the same command, which tries them again, with"
    elif counts["PRUNED"]:
        advice = "choose a more patient hydra/sweeper/pruner, and a larger hydra.sweeper.n_trials, to go on with"
    else:
        advice = f"give it more time than hydra.sweeper.timeout_s={settings.timeout_s} to go on with"
    return SweepError(f"no trial completed: {describe_counts(counts)}; {advice} hydra.sweeper.study_name={study.name}")
