"""Finds where Optuna, the disk and MLflow disagree about a sweep, and what mends it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from optuna.trial import FrozenTrial

from cnn_sweeps.errors import MovedError, TrackingError
from cnn_sweeps.experiment.notes import STORE, senseless_notes
from cnn_sweeps.selection.agreement import Change, changes, made, useless_checkpoints
from cnn_sweeps.selection.outcome import Sweep
from cnn_sweeps.sweep.study.address import StudyAddress, check_study_exists, has_unfinished_end
from cnn_sweeps.sweep.study.journal import broken_lines, cut_unfinished_end, take_out_lines
from cnn_sweeps.sweep.study.ledger import is_to_be_retried, last_attempt, owner_of, senseless_attributes
from cnn_sweeps.sweep.study.view import StudySnapshot, read_study, reopen_study
from cnn_sweeps.text.passwords import hide_passwords
from cnn_sweeps.tracking.database.address import (
    absolute_uri,
    database_file,
    find_existing_store,
    is_recorded_as,
    user_uri,
)
from cnn_sweeps.tracking.database.moved import bring_along, find_move
from cnn_sweeps.tracking.record.entry import read_record
from cnn_sweeps.tracking.record.record import find_records
from cnn_sweeps.training.checkpoint import FOLDER, remove_checkpoint

__all__ = ["FOLDER", "Place", "find_disagreements", "made"]


@dataclass(frozen=True)
class Place:
    """Where the records of a sweep are.

    Attributes:
        study: the address of its study.
        folder: the folder of its files.
        uri: the address of MLflow's store; None: MLFLOW_TRACKING_URI, or the default.
        dead_hosts: hosts on which all processes count as dead.
        checkpoint_dir: the trainings' checkpoints; only the user may name it, not a run or a study.
    """

    study: StudyAddress
    folder: Path
    uri: str | None = None
    dead_hosts: Collection[str] = ()
    checkpoint_dir: Path = FOLDER

    def read(self) -> tuple[StudySnapshot, Sweep]:
        """Read the study and find the store; change nothing.

        Raises:
            StudyError: if there is no such study, or its storage cannot be read.
            TrackingError: if MLflow's store cannot be used.
        """
        check_study_exists(self.study)
        study = read_study(self.study, self.dead_hosts)
        known = (study.name, study.objectives, study.user_attrs, study.trials, study.ledger)
        return study, Sweep(*known, self.folder, self._find_store(study), self.dead_hosts)

    def _find_store(self, study: StudySnapshot) -> str:
        """Return the address of the user's store, after checking that the study is recorded there.

        A different address that the study notes is not used: whoever wrote the study would get the user's password.
        """
        noted, given = study.user_attrs.get(STORE), user_uri(self.uri)
        if noted is not None and not is_recorded_as(given, str(noted)):
            raise TrackingError(
                f"tracking.uri={hide_passwords(given)}: the study {study.name} is recorded in {str(noted)[:200]!r}; "
                "if you trust that address, give it with tracking.uri=URI"
            )
        return absolute_uri(find_existing_store(given))  # MLflow would keep looking in the first working folder


def find_moved_files(uri: str | None) -> Iterator[Change]:
    """Yield where MLflow's database has old paths of files that were moved or copied with it.

    Args:
        uri: the address of the database; None: MLFLOW_TRACKING_URI, or the default.

    Raises:
        TrackingError: if the database cannot be used.
    """
    if (file := database_file(user_uri(uri))) is None or not file.is_file():
        return
    with suppress(MovedError):
        find_existing_store(uri)
    known = None
    while (move := find_move(file)) not in (None, known):  # there may be several
        known = move
        remedy = f"it gets the paths below {move.now}; a copy of the old database is kept beside it"
        yield Change(f"{file} {move.describe()}", remedy, partial(bring_along, file, move))


def find_disagreements(place: Place) -> Iterator[Change]:
    """Yield where Optuna, the disk and MLflow disagree about a sweep.

    Each disagreement is searched for after the caller has, or has not, mended those before.

    Raises:
        UserError: if one of them cannot be read.
    """
    if place.study.kind == "journal" and place.study.file is not None:
        yield from _of_journal(place.study.file)
        if broken_lines(place.study.file):
            return  # the study cannot be read
    yield from find_moved_files(place.uri)
    if any(find_moved_files(place.uri)):
        return  # MLflow would answer about another folder's files
    study, _ = place.read()
    yield from _senseless(study)
    yield from _lost_trials(study, place)
    study, sweep = place.read()
    if not study.owners:
        yield from _unseen_records(sweep)
    yield from changes(sweep)
    yield from _checkpoints(study, place.checkpoint_dir)


def _of_journal(journal: Path) -> Iterator[Change]:
    if has_unfinished_end(journal):
        yield Change(
            f"{journal}: its last line is unfinished or blank, perhaps after a power cut, a full disk or an edit",
            "that line is cut off",
            partial(cut_unfinished_end, journal),
        )
    broken = broken_lines(journal)
    if spare := [number for number, is_spare in broken.items() if is_spare]:
        yield Change(
            f"{journal}: its lines {', '.join(map(str, spare))} are blank or broken",
            f"they are removed; the old file stays as {journal.name}.before",
            partial(take_out_lines, journal, spare),
        )
    for number in (number for number, is_spare in broken.items() if not is_spare):
        yield Change(
            f"{journal}: its line {number} is broken, and later lines depend on it",
            "restore the file from a copy, or choose another hydra.sweeper.study_name",
        )


def _senseless(study: StudySnapshot) -> Iterator[Change]:
    for trial in study.trials:
        for attribute in [*senseless_attributes(trial), *senseless_notes(trial)]:
            value = repr(trial.user_attrs[attribute])[:80]
            yield Change(
                f"trial {trial.number} has the attribute {attribute}={value}, which makes no sense",
                "it is ignored; another program wrote it, and Optuna cannot remove an attribute",
            )


def _lost_trials(study: StudySnapshot, place: Place) -> Iterator[Change]:
    def recover() -> None:
        reopen_study(place.study).recover(place.dead_hosts)

    for trial in study.trials:
        owner = owner_of(trial)
        host, process = owner.get("owner.host"), owner.get("owner.pid")
        if trial.number in study.abandoned:
            dead = f"its controller, process {process} on {host}, is dead" if owner else "it names no controller"
            what = f"trial {trial.number} is RUNNING in the study, but {dead}"
            yield Change(what, "the trial fails and is queued again, and its run is closed", recover)
        elif study.owners.get(trial.number) == "elsewhere":
            yield Change(
                f"trial {trial.number} has been RUNNING for {_age(trial)}, and its controller, process {process} on "
                f"{host}, cannot be seen from here",
                f"call the doctor on that host or, if no process of the sweep runs there, add dead_host={host}",
            )
        elif is_to_be_retried(trial, study.set_aside) and last_attempt(trial, study.trials) is trial:
            what = f"trial {trial.number} should be tried again, but no trial of the study does that"
            yield Change(what, "it is queued again", recover)


def _age(trial: FrozenTrial) -> str:
    if trial.datetime_start is None:
        return "an unknown time"
    minutes = int((datetime.now() - trial.datetime_start).total_seconds() // 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _unseen_records(sweep: Sweep) -> Iterator[Change]:
    for folder in find_records(sweep.folder):
        with suppress(TrackingError):  # `changes` reports it
            recorded = read_record(folder)
            if recorded is not None and recorded.owner_state(sweep.dead_hosts) == "elsewhere":
                host = recorded.tags["owner.host"]
                yield Change(
                    f"{folder}: the run has no end in its record, and its process on {host} cannot be seen from here",
                    f"call the doctor on that host or, if no process of the sweep runs there, add dead_host={host}",
                )


def _checkpoints(study: StudySnapshot, folder: Path) -> Iterator[Change]:
    for path, trial in useless_checkpoints(folder, study.trials).items():
        if trial is None:
            what = f"{path} has nothing to resume: its process was killed while it saved the first epoch"
        else:
            last = last_attempt(trial, study.trials)
            again = f", tried again as trial {last.number}" if last is not trial else ""
            what = f"{path} belongs to trial {trial.number}{again}, which is {last.state.name}: nobody will resume it"
        yield Change(what, "it is removed", partial(remove_checkpoint, path))
