"""A sweep's records read, compared and mended."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from cnn_sweeps.doctor.diagnosis import diagnose
from cnn_sweeps.doctor.evidence import (
    CutJournal,
    DeliverRecord,
    Evidence,
    Finding,
    RecoverTrials,
    RemoveCheckpoint,
    Repair,
)
from cnn_sweeps.doctor.sweep_files import read_files
from cnn_sweeps.errors import StudyError, TrackingError, TrackingOutageError
from cnn_sweeps.experiment.trial import STORE, run_id_of, subfolder_of
from cnn_sweeps.selection.leftovers import AmendRun, due_ending
from cnn_sweeps.selection.sweep_records import amend_run, read_parents, read_sweep
from cnn_sweeps.sweep.study.address import check_study_exists, default_storage, sweep_folder
from cnn_sweeps.sweep.study.recovery import SharedStudy
from cnn_sweeps.sweep.study.storage import cut_unfinished_line
from cnn_sweeps.sweep.study.view import StudyRecord, read_study, reopen_study
from cnn_sweeps.text.passwords import hide_passwords
from cnn_sweeps.tracking.outbox import deliver_all
from cnn_sweeps.tracking.store import absolute_uri, find_existing_store, is_recorded_as, user_uri
from cnn_sweeps.training.checkpoint import FOLDER as CHECKPOINTS
from cnn_sweeps.training.checkpoint import remove_checkpoint

_NOTHING: Mapping[Path, str] = MappingProxyType({})
_MOST_PASSES = 4  # mending one thing may show another


@dataclass(frozen=True)
class Sweep:
    """Where the records of a sweep are.

    Attributes:
        study: the study's name.
        storage: of the study; None: the journal in the sweep's folder.
        folder: of the sweep; None: `outputs/sweeps/NAME`.
        uri: of MLflow's store; None: the environment's, or the default.
        dead_hosts: hosts all of whose processes are taken to be dead.
        checkpoint_dir: the trainings' checkpoints; never a folder that only a run or a study names.
    """

    study: str
    storage: str | None = None
    folder: Path | None = None
    uri: str | None = None
    dead_hosts: Collection[str] = ()
    checkpoint_dir: Path = CHECKPOINTS

    @property
    def place(self) -> str:
        """The storage's."""
        return self.storage or default_storage(self.study)

    def collect(self, refused: Mapping[Path, str] = _NOTHING) -> Evidence:
        """Read the records, without changing anything.

        Args:
            refused: folders of what MLflow's store has refused to take, each with the reason.

        Raises:
            StudyError: if there is no such study, or its storage cannot be read.
            TrackingError: if MLflow's store cannot be used.
        """
        check_study_exists(self.place, self.study)
        study = read_study(self.place, self.study, self.dead_hosts)
        noted = [run_id for trial in study.trials if (run_id := run_id_of(trial.user_attrs))]
        store = self._find_store(study)
        record = read_sweep(store, self.study, run_id_of(study.user_attrs), noted, self.dead_hosts)
        folder, subfolders = self.folder or sweep_folder(self.study), [subfolder_of(trial) for trial in study.trials]
        files = read_files(folder, subfolders, self.place, self.checkpoint_dir, refused)
        unknown = {run_id for run_id in files.checkpoints.values() if run_id} - record.runs.keys()
        return Evidence(study, record, files, read_parents(unknown))

    def _find_store(self, study: StudyRecord) -> str:
        """Give the address of the user's store, having seen that the study is recorded there.

        Another one that the study notes is not used: whoever wrote the study would get the user's password.
        """
        noted, given = study.user_attrs.get(STORE), user_uri(self.uri)
        if noted is not None and not is_recorded_as(given, str(noted)):
            raise TrackingError(
                f"tracking.uri={hide_passwords(given)}: the study {self.study} is recorded in {str(noted)[:200]!r}; "
                "if that is yours, too, name it with tracking.uri=URI"
            )
        return absolute_uri(find_existing_store(given))  # a file MLflow would look for in the folder where it first did


def find_disagreements(sweep: Sweep, refused: Mapping[Path, str] = _NOTHING) -> list[Finding]:
    """Give where Optuna, MLflow and the disk disagree about a sweep; nothing is changed.

    Args:
        sweep: where they are.
        refused: see `Sweep.collect`.

    Raises:
        UserError: if one of them cannot be read.
    """
    return diagnose(sweep.collect(refused))


def mend(sweep: Sweep) -> Iterator[tuple[Finding, bool]]:
    """Mend what can be; give each disagreement, and whether it is mended now.

    Raises:
        StudyError: if a controller of the sweep lives.
        UserError: if one of the records cannot be read or written.
    """
    refused: dict[Path, str] = {}
    for _ in range(_MOST_PASSES):
        evidence = sweep.collect(refused)
        if evidence.owners_at_work:
            raise StudyError(
                f"{sweep.study}: living processes are at work on it ({', '.join(evidence.owners_at_work)}); "
                "wait for the sweep's end, or stop it, before --fix"
            )
        repairs, num_made = _Repairs(sweep, evidence), 0
        for finding in diagnose(evidence):
            if finding.repair is None:
                continue
            num_made += 1
            try:
                repairs.make(finding.repair)
            except TrackingError as error:
                if not isinstance(finding.repair, DeliverRecord) or isinstance(error, TrackingOutageError):
                    raise
                refused[finding.repair.folder] = str(error).rpartition(";")[0]  # without the advice
            else:
                yield finding, True
        if not num_made:
            break
    for finding in find_disagreements(sweep, refused):
        yield finding, False


class _Repairs:
    """Mends one disagreement after another, as a sweep that goes on does."""

    def __init__(self, sweep: Sweep, evidence: Evidence) -> None:
        self._sweep, self._evidence = sweep, evidence

    @cached_property
    def _study(self) -> SharedStudy:
        return reopen_study(self._sweep.place, self._sweep.study)

    def make(self, repair: Repair) -> None:
        """Do what a repair says."""
        match repair:
            case DeliverRecord(folder):
                deliver_all(folder, _raise)
            case CutJournal(path):
                cut_unfinished_line(path)
            case RecoverTrials():
                self._recover()
            case AmendRun(run_id, status, tags, metrics, params):
                amend_run(run_id, status, tags, metrics, params)
            case RemoveCheckpoint(path):
                remove_checkpoint(path)

    def _recover(self) -> None:
        for trial in self._study.recover(self._sweep.dead_hosts):
            for run in self._evidence.runs_of(trial):
                if (repair := due_ending(trial, run)) is not None:
                    self.make(repair)


def _raise(error: TrackingError) -> None:
    raise error
