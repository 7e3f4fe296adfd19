"""A sweep's records read, compared and mended."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from cnn_sweeps.doctor.diagnosis import Evidence, Finding, diagnose, undeliverable
from cnn_sweeps.errors import StudyError, TrackingError, TrackingOutageError
from cnn_sweeps.experiment.trial import STORE
from cnn_sweeps.sweep.study.address import StudyAddress, check_study_exists, parse_address, sweep_folder
from cnn_sweeps.sweep.study.view import StudyRecord, read_study
from cnn_sweeps.text.passwords import hide_passwords
from cnn_sweeps.tracking.address import absolute_uri, find_existing_store, is_recorded_as, user_uri
from cnn_sweeps.training.checkpoint import FOLDER as CHECKPOINTS

_MOST_PASSES = 5  # mending one thing may show another


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
    def place(self) -> StudyAddress:
        """The study's."""
        return parse_address(self.storage, self.study)

    def collect(self) -> Evidence:
        """Read the study and find the store, without changing anything.

        Raises:
            StudyError: if there is no such study, or its storage cannot be read.
            TrackingError: if MLflow's store cannot be used.
        """
        check_study_exists(self.place)
        study = read_study(self.place, self.dead_hosts)
        folder = self.folder or sweep_folder(self.study)
        return Evidence(study, self.place, folder, self._find_store(study), self.checkpoint_dir, self.dead_hosts)

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


def find_disagreements(sweep: Sweep) -> list[Finding]:
    """Give where Optuna, the disk and MLflow disagree about a sweep; nothing is changed.

    Raises:
        UserError: if one of them cannot be read.
    """
    return diagnose(sweep.collect())


def mend(sweep: Sweep) -> Iterator[tuple[Finding, bool]]:
    """Mend what can be; give each disagreement, and whether it is mended now.

    Raises:
        StudyError: if a controller of the sweep lives.
        UserError: if one of the records cannot be read or written.
    """
    refused: dict[str, TrackingError] = {}
    for _ in range(_MOST_PASSES):
        evidence = sweep.collect()
        if at_work := evidence.at_work:
            raise StudyError(
                f"{sweep.study}: living processes are at work on it ({', '.join(at_work)}); "
                "wait for the sweep's end, or stop it, before --fix"
            )
        findings = [each for each in diagnose(evidence) if each.mend is not None and each.what not in refused]
        for finding in findings:
            assert finding.mend is not None
            try:
                finding.mend()
            except TrackingOutageError:
                raise
            except TrackingError as error:
                refused[finding.what] = error
            else:
                yield finding, True
        if not findings:
            break
    for finding in find_disagreements(sweep):
        yield undeliverable(refused[finding.what]) if finding.what in refused else finding, False
