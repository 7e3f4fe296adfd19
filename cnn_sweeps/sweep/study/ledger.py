"""The ledger of a study: counts its trials, and tells which trial repeats which."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeGuard

from optuna.distributions import BaseDistribution, CategoricalDistribution, check_distribution_compatibility
from optuna.trial import FrozenTrial, TrialState

from cnn_sweeps.errors import StudyError

# User attributes of a trial.
OWNER, RETRIED, RETRY_OF, ATTEMPT = "owner", "retried", "retry_of", "attempt"
ERROR, DUPLICATE_OF, SETTINGS_ID, FINAL = "error", "duplicate_of", "settings", "final"


class TrialLedger:
    """Counts trials, and knows the best trial and the finished points; reads each finished trial only once.

    `best` is the first of equal trials, and None for several objectives. `total_duration_s` adds up `num_durations`
    trials.
    """

    def __init__(self, *, minimize: bool | None, settings_id: str) -> None:
        """Compare only trials with these settings; `minimize` is None for several objectives."""
        self.best: FrozenTrial | None = None
        self.total_duration_s, self.num_durations = 0.0, 0
        self._minimize, self._settings_id = minimize, settings_id
        self._ended: Counter[str] = Counter()  # but those that failed
        self._failed: set[int] = set()
        self._retried: set[int] = set()
        self._open: list[FrozenTrial] = []
        self._num_seen = 0
        self._finished_points: dict[str, int] = {}

    def read(self, trials: Sequence[FrozenTrial]) -> None:
        """Update from all trials of the study, by number."""
        new = trials[self._num_seen :]
        self._num_seen = len(trials)
        self._retried |= {number for trial in new if (number := retry_of(trial)) is not None}
        changed = [*(trials[trial.number] for trial in self._open), *new]
        self._open = [trial for trial in changed if not trial.state.is_finished()]
        for trial in changed:
            if trial.state.is_finished():
                self._settle(trial)

    @property
    def counts(self) -> Counter[str]:
        """Number of trials by state; a failed trial that was tried again counts as RETRIED."""
        failed = Counter(FAIL=len(self._failed - self._retried), RETRIED=len(self._failed & self._retried))
        return self._ended + Counter(trial.state.name for trial in self._open) + failed

    @property
    def num_started(self) -> int:
        """Number of trials that have started, without those that were tried again."""
        return sum(number for state, number in self.counts.items() if state not in ("RETRIED", "WAITING"))

    def finished_with(self, params: dict[str, Any]) -> int | None:
        """Return the number of the trial that finished with these parameters, if there is one."""
        return self._finished_points.get(point_key(params))

    @property
    def finished(self) -> list[int]:
        """Numbers of the finished trials, the first one of each point."""
        return list(self._finished_points.values())

    def _settle(self, trial: FrozenTrial) -> None:
        if trial.state == TrialState.FAIL:
            self._failed.add(trial.number)
            self._retried |= {trial.number} if trial.user_attrs.get(RETRIED) else set()
        else:
            self._ended[trial.state.name] += 1
        if trial.duration is not None:
            self.total_duration_s += trial.duration.total_seconds()
            self.num_durations += 1
        if trial.state == TrialState.FAIL or not has_settings(trial, self._settings_id):
            return
        if DUPLICATE_OF not in trial.user_attrs:
            self._finished_points.setdefault(point_key(trial.params), trial.number)
        if trial.state == TrialState.COMPLETE and self._minimize is not None:
            self.best = min([self.best or trial, trial], key=self._rank)

    def _rank(self, trial: FrozenTrial) -> tuple[float, int]:
        assert trial.value is not None
        return trial.value if self._minimize else -trial.value, trial.number


def trial_tags(study_name: str, number: int, attributes: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags that name a trial in a record."""
    tags = {"study": study_name, "trial.number": str(number)}
    if RETRY_OF in attributes:
        tags |= {"trial.retry_of": str(attributes[RETRY_OF]), "trial.attempt": str(attempt_of(attributes))}
    return tags


# Anybody may write attributes to the study: the functions below ignore values that make no sense.


def retry_of(trial: FrozenTrial) -> int | None:
    """Return the number of the trial that this one repeats; always an earlier one, so that there are no circles."""
    number: Any = trial.user_attrs.get(RETRY_OF)
    return number if _is_number(number) and number < trial.number else None


def attempt_of(attributes: Mapping[str, Any]) -> int:
    """Return how often the point of a trial was lost before."""
    attempt: Any = attributes.get(ATTEMPT)
    return attempt if _is_number(attempt) else 0


def owner_of(trial: FrozenTrial) -> dict[str, str]:
    """Return the note about the process that runs a trial; empty if there is none."""
    owner: Any = trial.user_attrs.get(OWNER)
    is_owner = isinstance(owner, dict) and all(isinstance(text, str) for text in owner.values())
    return owner if is_owner else {}


def _is_number(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def error_of(trial: FrozenTrial) -> str:
    """Return why a trial failed; empty if that is not known."""
    error = trial.user_attrs.get(ERROR, "")
    return error[:2000] if isinstance(error, str) else ""


def final_of(trial: FrozenTrial) -> dict[str, float]:
    """Return the finite metrics that a trial noted at its end."""
    noted: Any = trial.user_attrs.get(FINAL)
    if not isinstance(noted, dict):
        return {}
    largest = sys.float_info.max  # whole numbers in JSON may be larger
    return {name: float(each) for name, each in noted.items() if _is_real(each) and -largest <= each <= largest}


def _is_real(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def numbers_in(value: Any) -> list[int]:
    """Return the numbers of trials in a study's attribute."""
    return list(filter(_is_number, value)) if isinstance(value, list) else []


def check_trials(study_name: str, trials: Sequence[FrozenTrial]) -> None:
    """Check that the trials of a study are as Optuna makes them.

    Raises:
        StudyError: if one is not.
    """
    for trial in trials:
        attributes: tuple[Any, ...] = (trial.user_attrs, trial.system_attrs, trial.params, trial.intermediate_values)
        has_values = trial.state != TrialState.COMPLETE or bool(trial.values)
        if not all(isinstance(each, dict) for each in attributes) or not has_values:
            raise StudyError(f"{study_name}: trial {trial.number} of this study makes no sense; name another study")


def senseless_attributes(trial: FrozenTrial) -> list[str]:
    """Name the attributes of a trial that make no sense."""
    wrong = {
        RETRY_OF: retry_of(trial) is None,
        ATTEMPT: not _is_number(trial.user_attrs.get(ATTEMPT)),
        OWNER: not owner_of(trial),
        ERROR: not isinstance(trial.user_attrs.get(ERROR), str),
    }
    return [name for name, is_wrong in wrong.items() if is_wrong and name in trial.user_attrs]


def is_to_be_retried(trial: FrozenTrial, set_aside: Collection[int]) -> bool:
    """Return whether another trial must repeat a failed one."""
    is_left = bool(trial.user_attrs.get(RETRIED) or trial.number in set_aside)
    return trial.state == TrialState.FAIL and is_left and DUPLICATE_OF not in trial.user_attrs


def last_attempt(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> FrozenTrial:
    """Return the last trial in the chain of trials that repeat this one; the trial itself if none does."""
    retries = {retried: each for each in trials if (retried := retry_of(each)) is not None}
    while trial.number in retries:
        trial = retries[trial.number]
    return trial


def earlier_attempts(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that this one repeats, the last one first; `trials` are all of the study, by number."""
    attempts: list[FrozenTrial] = []
    while (number := retry_of(trial)) is not None:
        trial = trials[number]
        attempts.append(trial)
    return attempts


def has_settings(trial: FrozenTrial, settings_id: str) -> bool:
    """Return whether a trial ran with these settings; a trial without an owner counts as one that did."""
    owner = owner_of(trial)
    return not owner or owner.get(SETTINGS_ID) == settings_id


def point_key(params: dict[str, Any]) -> str:
    """Return a text that is equal for equal parameters."""
    return json.dumps(params, sort_keys=True)


def known_params(trial: FrozenTrial) -> dict[str, Any]:
    """Return the parameters of a trial, those that it was queued with, too."""
    return queued_params(trial) | trial.params


def queued_params(trial: FrozenTrial) -> dict[str, Any]:
    """Return the parameters that a trial was queued with; none if the sampler chose them."""
    fixed = trial.system_attrs.get("fixed_params")
    return fixed if isinstance(fixed, dict) else {}


def unsearched(trial: FrozenTrial, distributions: Mapping[str, BaseDistribution]) -> list[str]:
    """Name the parameters and values of a queued trial that the sweep does not search."""
    queued = trial.system_attrs.get("fixed_params", {})
    if not isinstance(queued, dict):
        return [f"fixed_params={queued!r:.40}"]
    known = queued | trial.params
    wrong = [key for key in distributions if key in known and not _is_searched(key, known[key], trial, distributions)]
    foreign = sorted(trial.params.keys() - distributions.keys())
    return [*(f"{key!r:.80}" for key in foreign), *(f"{key}={known[key]!r:.40}" for key in wrong)]


def _is_searched(key: str, value: Any, trial: FrozenTrial, distributions: Mapping[str, BaseDistribution]) -> bool:
    searched: Any = distributions[key]
    try:  # the trial may have a distribution already
        check_distribution_compatibility(trial.distributions.get(key, searched), searched)
    except ValueError:
        return False
    if isinstance(searched, CategoricalDistribution):
        return value in searched.choices
    return _is_real(value) and bool(searched.low <= value <= searched.high)
