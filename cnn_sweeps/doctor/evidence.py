"""The records of a sweep side by side, and what a disagreement between them is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from optuna.trial import FrozenTrial

from cnn_sweeps.doctor.sweep_files import SweepFiles
from cnn_sweeps.experiment.trial import run_id_of
from cnn_sweeps.selection.leftovers import AmendRun
from cnn_sweeps.selection.sweep_records import RunState, SweepRecord
from cnn_sweeps.sweep.study.view import StudyRecord


@dataclass(frozen=True)
class RecoverTrials:
    """Fail the trials of dead controllers, and queue what is to be tried again and is not."""


@dataclass(frozen=True)
class CutJournal:
    """Take an unfinished last line off the journal."""

    path: Path


@dataclass(frozen=True)
class RemoveCheckpoint:
    """Remove what a training that will not go on has left."""

    path: Path


@dataclass(frozen=True)
class DeliverRecord:
    """Bring what waits in a folder to the tracking store."""

    folder: Path


Repair = RecoverTrials | AmendRun | CutJournal | RemoveCheckpoint | DeliverRecord


@dataclass(frozen=True)
class Finding:
    """One disagreement.

    Attributes:
        what: which records say what.
        remedy: what mending does or, without a repair, what a person may do.
        repair: None if only a person can tell what is true.
    """

    what: str
    remedy: str
    repair: Repair | None = None


@dataclass(frozen=True)
class Evidence:
    """The three records.

    Attributes:
        study: Optuna's.
        sweep: MLflow's.
        files: the disk's.
        parents: of runs that MLflow's record does not have and the disk names: which runs they are parts of.
    """

    study: StudyRecord
    sweep: SweepRecord
    files: SweepFiles
    parents: Mapping[str, str] = field(default_factory=dict)

    @property
    def sweep_run_id(self) -> str | None:
        """The sweep's own run, as the study notes it."""
        return run_id_of(self.study.user_attrs)

    @cached_property
    def children(self) -> list[RunState]:
        """The runs below the sweep's."""
        runs = self.sweep.runs.values()
        return [run for run in runs if self.sweep_run_id and run.parent_id == self.sweep_run_id and not run.is_deleted]

    @cached_property
    def owners_at_work(self) -> list[str]:
        """What living processes of this machine are at work on."""
        trials = [f"trial {number}" for number, owner in self.study.owners.items() if owner == "alive"]
        return trials + [f"the run {run.name}" for run in self._running if run.owner == "alive"]

    @cached_property
    def may_be_at_work(self) -> bool:
        """Whether a controller lives, or may live on a host that cannot be seen from here."""
        owners = {*self.study.owners.values(), *(run.owner for run in self._running)}
        return bool(owners & {"alive", "elsewhere"})

    @cached_property
    def _running(self) -> list[RunState]:
        return [run for run in self.sweep.runs.values() if run.status == "RUNNING" and not run.is_deleted]

    def noted_run(self, trial: FrozenTrial) -> RunState | None:
        """Give the run that a trial notes, if MLflow has it."""
        return self.sweep.runs.get(run_id_of(trial.user_attrs) or "")

    def runs_of(self, trial: FrozenTrial) -> list[RunState]:
        """Give the runs that a trial notes, or that have its number."""
        noted = self.noted_run(trial)
        runs = [run for run in self.children if run.trial_number == str(trial.number)]
        return runs if noted is None or noted in runs or noted.is_deleted else [noted, *runs]

    def trial_of(self, run_id: str) -> FrozenTrial | None:
        """Give the trial that a run, or the whole that it is a part of, records."""
        run = self.sweep.runs.get(run_id)
        whole = run.parent_id if run is not None else self.parents.get(run_id)
        return self._trials_by_run.get(run_id) or self._trials_by_run.get(whole or "")

    @cached_property
    def _trials_by_run(self) -> dict[str, FrozenTrial]:
        numbers = {str(trial.number): trial for trial in self.study.trials}
        tagged = {run.run_id: numbers[run.trial_number] for run in self.children if run.trial_number in numbers}
        noted = {run_id: trial for trial in self.study.trials if (run_id := run_id_of(trial.user_attrs))}
        return tagged | noted
