"""What a Hydra application may add to its sweeps: checks, a record, and what is done with the best trials."""

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
    """Trials that are to be run again before the best one is named.

    Attributes:
        points: of each further run the number of the trial, as TRIAL, and what is set otherwise, such as its seed.
        attributes: that the study of these runs gets.
    """

    points: list[dict[str, int]]
    attributes: dict[str, Any]


class Ranked(NamedTuple):
    """A completed trial in the ranking, with a mark of one letter before its value, and a remark behind it."""

    trial: FrozenTrial
    mark: str = " "
    remark: str = ""


class SweepApplication:
    """Adds nothing; `hydra.sweeper.application._target_` names a class that overrides what it needs."""

    worker_module: str | None = None
    """A module that imports what a job takes seconds to import. Each worker imports it before its first job. On Linux
    one process does, and the workers of a machine are forks of it: so the module starts no threads and touches no GPU,
    and raises an ImportError if something is missing."""

    about_ranking = ""
    """What to say below the ranking of the trials; nothing if it is empty."""

    def check(self, config: DictConfig, directions: Sequence[str]) -> dict[str, Any]:  # noqa: ARG002
        """Check the configuration of one trial before any is run, and give the settings that its result depends on.

        Raises:
            UserError: to refuse the sweep.
        """
        return {}

    def only_here(self) -> list[tuple[str, str]]:
        """Give the settings that name what jobs need and only this machine has, each with what to name instead.

        For jobs on other machines; called after `check`.
        """
        return []

    def of_one_trial(self, overrides: Sequence[str]) -> Sequence[str]:
        """Give overrides of trials without those that mean something to the sweep alone, to run one by itself."""
        return overrides

    def begin(self, study: SweepStudy, about: dict[str, str], folder: Path, say: Callable[[str], None]) -> None:
        """Prepare the record of a sweep that starts or goes on, whose files are in a folder.

        `about` says what it searches and how, and the `command` that makes it again; `say` shows a line.
        """

    def update(self, study: SweepStudy) -> None:
        """Bring the record up to date; called every few seconds while trials end; what is away must not end it."""

    def news(self, study: SweepStudy) -> list[str]:  # noqa: ARG002
        """Give what is to be said since the last call; called every second or so while trials run."""
        return []

    def record_duplicate(self, trial: Trial, original: FrozenTrial) -> None:
        """Record a trial that is not run since it repeats a finished one, before the study is told.

        Raises:
            OutageError: if it cannot be recorded for now; it is called again then, for a minute.
        """

    def close_lost(self, trials: Sequence[FrozenTrial]) -> None:
        """Close the records of trials whose job ended without doing it: killed, lost, left by a dead controller."""

    def to_confirm(self, study: SweepStudy) -> Confirmation | None:  # noqa: ARG002
        """Give what is to be run again once all trials are told; None if nothing is."""
        return None

    def rank(self, study: SweepStudy, confirmed: Sequence[FrozenTrial]) -> list[Ranked]:  # noqa: ARG002
        """Give the completed trials, best first; `confirmed` are the completed further runs that were asked for."""
        return [Ranked(trial) for trial in study.ranking()]

    def finish(self, study: SweepStudy, executor: Executor) -> list[str]:  # noqa: ARG002
        """Do what is to be done with the best trials once all are told; give what to say of it.

        One controller of the study at a time is called, if the storage has a lock.
        """
        return []

    def describe_next(self) -> list[str]:
        """Give the lines that are to be said last: where a person looks at what came out."""
        return []

    def end(self, status: Literal["FINISHED", "KILLED", "FAILED"]) -> None:
        """Close the record."""
