"""Runs the best trials again, in a second study: the sampler and the count of trials of the first do not see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from statistics import median
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial

from cnn_sweeps.sweep.application import TRIAL, Confirmation, SweepApplication
from cnn_sweeps.sweep.introduction import CONFIRMATION
from cnn_sweeps.sweep.plan import SweepPlan
from cnn_sweeps.sweep.space import SearchSpace, override_text
from cnn_sweeps.sweep.study.job_trial import STUDY_OF_JOB
from cnn_sweeps.sweep.study.ledger import queued_params
from cnn_sweeps.sweep.study.study import SweepStudy
from cnn_sweeps.text.numbers import counted

_FOLDER = "confirmation"  # of the files of these runs, in the folder of the sweep
_LARGEST = 2**31 - 1


@dataclass(frozen=True)
class _AgainSpace(SearchSpace):
    """The points of further runs: trials of the sweep, in the space `searched`, with other values of some settings."""

    searched: SearchSpace
    trials: Sequence[FrozenTrial]

    def overrides_of(self, point: Any) -> list[str]:
        """Return the overrides of the repeated trial, and those that differ."""
        other = [override_text(key, value) for key, value in point.items() if key != TRIAL]
        return [*self.searched.overrides_of(self.trials[point[TRIAL]].params), *other, *self.fixed]


def open_confirmation(study: SweepStudy, plan: SweepPlan, wanted: Confirmation) -> tuple[SweepStudy, SweepPlan]:
    """Open the second study, queue the wanted runs in it, and return it with the plan for them.

    Runs that it already has are not queued again. A run that fails there stays failed, and does not stop the sweep.
    """
    name = f"{study.name}{CONFIRMATION}"
    quoted = QuotedString(name, Quote.single).with_quotes()
    keys = dict.fromkeys(key for point in wanted.points for key in point)
    space = _AgainSpace(
        distributions={key: IntDistribution(0, _LARGEST) for key in keys},
        fixed=[f"+hydra.job.env_set.{STUDY_OF_JOB}={quoted}", f"hydra.sweep.subdir='{_FOLDER}/${{hydra.job.num}}'"],
        is_named=True,
        listed={},
        searched=plan.space,
        trials=study.trials,
    )
    settings = replace(
        plan.settings,
        study_name=name,
        sampler={"_target_": "optuna.samplers.RandomSampler"},  # not used: every point is queued
        deterministic=False,
        max_failure_rate=1.0,
        max_identical_failures=1000,
    )
    beside = SweepStudy(space, settings, 0, plan.shared_settings)
    for key, value in wanted.attributes.items():
        beside.optuna_study.set_user_attr(key, value)
    beside.enqueue(wanted.points)
    beside.total = beside.ledger.num_started + beside.ledger.counts["WAITING"]
    again = replace(
        plan,
        settings=settings,
        space=space,
        extend=None,
        points=wanted.points,
        total=beside.total,
        application=SweepApplication(),
        called="again",
    )
    return beside, again


def describe_confirmation(study: SweepStudy, beside: SweepStudy, num_slots: int) -> str | None:
    """Say what will run again and about how long that takes, judged by the trials; None if nothing is left to run."""
    numbers = [queued_params(trial)[TRIAL] for trial in beside.trials if not trial.state.is_finished()]
    if not numbers:
        return None
    best = set(numbers)
    durations = [study.trials[number].duration or timedelta() for number in best]
    each_s = median(each.total_seconds() for each in durations)  # the first trial of a worker takes long
    about_s = len(numbers) * each_s / max(1, num_slots)
    told = f"before the best trial is chosen, the best {counted(len(best), 'trial')} run again with other seeds"
    return f"{told}: {counted(len(numbers), 'run')}, each with as many trainings as a trial; about {about_s:.0f} s"
