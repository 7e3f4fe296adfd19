"""What a Hydra application may add to its sweeps: checks, a record, and work on the best trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from omegaconf import DictConfig
from optuna.trial import FrozenTrial, Trial

from cnn_sweeps.sweep.jobs.executor import Executor
from cnn_sweeps.sweep.study.study import SweepStudy

TRIAL = "trial"


class Confirmation(NamedTuple):
    """Trials to run again before the best one is chosen.

    Attributes:
        points: one for each further run: the number of the trial, as TRIAL, and settings that differ, such as the seed.
        attributes: user attributes for the study of these runs.
    """

    points: list[dict[str, int]]
    attributes: dict[str, Any]


class Ranked(NamedTuple):
    """A completed trial in the ranking, with a mark of one letter before its value, and a remark after it."""

    trial: FrozenTrial
    mark: str = " "
    remark: str = ""


class SweepApplication:
    """Adds nothing; `hydra.sweeper.application._target_` names a subclass that overrides what it needs."""

    worker_module: str | None = None
    """A module with the slow imports of a job. Each worker imports it before its first job. On Linux, one process does
    so, and the workers of the machine are forks of it. So the module must start no threads and touch no GPU. It raises
    an ImportError if something is missing."""

    about_ranking = ""
    """What to say below the ranking of the trials."""

    has_best = True
    """Whether the first trial of the ranking is a configuration to use. A sweep that only compares has none."""

    def check(self, config: DictConfig, directions: Sequence[str]) -> dict[str, Any]:  # noqa: ARG002
        """Check the configuration of one trial before any runs; return the settings that its result depends on.

        Raises:
            UserError: to refuse the sweep.
        """
        return {}

    def only_here(self) -> list[tuple[str, str]]:
        """Return the settings whose values jobs on other machines cannot use, each with what to set instead.

        Called after `check`.
        """
        return []

    def of_one_trial(self, overrides: Sequence[str]) -> Sequence[str]:
        """Return overrides of trials without those that mean something to the sweep alone, to run one by itself."""
        return overrides

    def begin(self, study: SweepStudy, about: dict[str, str], folder: Path, say: Callable[[str], None]) -> None:
        """Prepare the record of a sweep that starts or goes on.

        Args:
            study: of the sweep.
            about: what it searches and how, in words, and the `command` that repeats it.
            folder: of the sweep's files.
            say: shows a line.
        """

    def update(self, study: SweepStudy) -> None:
        """Update the record; called every few seconds while trials run. It must not raise during an outage."""

    def news(self, study: SweepStudy) -> list[str]:  # noqa: ARG002
        """Return new lines to show since the last call; called about every second while trials run."""
        return []

    def record_duplicate(self, trial: Trial, original: FrozenTrial) -> None:
        """Record a trial that is not run because it repeats a finished one; called before the study is told.

        Raises:
            OutageError: if it cannot be recorded for now; the controller tries again for a minute.
        """

    def close_lost(self, trials: Sequence[FrozenTrial]) -> None:
        """Close the records of trials whose jobs could not: they were killed, lost, or left by a dead controller."""

    def to_confirm(self, study: SweepStudy) -> Confirmation | None:  # noqa: ARG002
        """Return what to run again after all trials have ended; None for nothing."""
        return None

    def rank(self, study: SweepStudy, confirmed: Sequence[FrozenTrial]) -> list[Ranked]:  # noqa: ARG002
        """Return the completed trials, best first; `confirmed` are the completed runs that `to_confirm` asked for."""
        return [Ranked(trial) for trial in study.ranking()]

    def finish(self, study: SweepStudy, executor: Executor) -> list[str]:  # noqa: ARG002
        """Work on the best trials after all have ended; return the lines to show.

        If the storage has a lock, one controller of the study does this at a time.
        """
        return []

    def describe_next(self) -> list[str]:
        """Return the last lines to show: where to look at the results."""
        return []

    def end(self, status: Literal["FINISHED", "KILLED", "FAILED"]) -> None:
        """Close the record."""
