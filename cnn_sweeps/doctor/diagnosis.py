"""Where the records of a sweep disagree, in Optuna, on disk and in MLflow, and what mends it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from optuna.trial import FrozenTrial

from cnn_sweeps.errors import TrackingError
from cnn_sweeps.experiment.trial import run_id_of, senseless_notes, subfolder_of
from cnn_sweeps.selection.leftovers import close_run, due_end_of, find_unclosed, useless_checkpoints
from cnn_sweeps.sweep.console import summarize
from cnn_sweeps.sweep.study.address import has_unfinished_line, journal_file
from cnn_sweeps.sweep.study.ledger import is_to_be_retried, last_attempt, owner_of, senseless_attributes
from cnn_sweeps.sweep.study.storage import cut_unfinished_line
from cnn_sweeps.sweep.study.view import StudyRecord, reopen_study
from cnn_sweeps.tracking.entry import Status, read_run
from cnn_sweeps.tracking.position import num_waiting, read_position
from cnn_sweeps.tracking.projection import project
from cnn_sweeps.tracking.record import Record, find_records
from cnn_sweeps.training.checkpoint import remove_checkpoint


@dataclass(frozen=True)
class Finding:
    """One disagreement.

    Attributes:
        what: which records say what.
        remedy: what mending does or, without `mend`, what a person may do.
        mend: None if only a person can tell what is true.
    """

    what: str
    remedy: str
    mend: Callable[[], object] | None = None


@dataclass(frozen=True)
class Evidence:
    """Where the records are, and what is not read again for each question.

    Attributes:
        study: Optuna's record.
        place: the storage's.
        folder: of the sweep's files.
        uri: of MLflow's store.
        checkpoint_dir: the folder of the trainings' checkpoints.
        dead_hosts: hosts all of whose processes are taken to be dead.
    """

    study: StudyRecord
    place: str
    folder: Path
    uri: str
    checkpoint_dir: Path
    dead_hosts: Collection[str] = ()

    @property
    def at_work(self) -> list[str]:
        """What living processes of this machine are at work on."""
        found = [f"trial {number}" for number, owner in self.study.owners.items() if owner == "alive"]
        for folder in find_records(self.folder):
            with suppress(TrackingError):  # which is a finding
                recorded = read_run(folder)
                if recorded is not None and recorded.owner_state() == "alive":
                    found.append(str(folder))
        return found

    def recover(self) -> None:
        """Fail the trials of dead controllers, and queue what is to be tried again and is not."""
        reopen_study(self.place, self.study.name).recover(self.dead_hosts)

    def close(self, folder: Path, status: Status, tags: dict[str, str]) -> None:
        """End a record; an open one as of its last entry."""
        recorded = read_run(folder)
        is_open = recorded is not None and recorded.status is None
        Record(folder).close(status, tags, recorded.last_time if recorded is not None and is_open else None)
        project(folder, self.uri)

    def summarize(self, metrics: dict[str, float], tags: dict[str, str]) -> None:
        """Have the sweep's record, which has an end, tell what its trials add up to."""
        record = Record(self.folder)
        status = record.again().status
        record.log_metrics(metrics, 0)
        record.log_tags(tags)
        record.end(status or "KILLED")
        project(self.folder, self.uri)


def diagnose(evidence: Evidence) -> list[Finding]:
    """Give every disagreement, in an order in which they can be mended.

    What MLflow holds of records elsewhere is looked at once it has all of those that are here.
    """
    findings = [*_senseless(evidence), *_journal(evidence), *_running_trials(evidence), *_retries(evidence)]
    findings += _records(evidence)
    if not any(finding.mend for finding in findings):
        findings += [*_runs_elsewhere(evidence), *_summary(evidence)]
    return [*findings, *_checkpoints(evidence)]


def _senseless(evidence: Evidence) -> Iterator[Finding]:
    for trial in evidence.study.trials:
        for attribute in [*senseless_attributes(trial), *senseless_notes(trial)]:
            value = repr(trial.user_attrs[attribute])[:80]
            yield Finding(
                f"trial {trial.number} has the attribute {attribute}={value}, which makes no sense",
                "nothing reads it; no sweep of cnn-sweeps has written it, and the study lets none be removed",
            )


def _journal(evidence: Evidence) -> Iterator[Finding]:
    journal = journal_file(evidence.place)
    if journal is not None and has_unfinished_line(journal):
        yield Finding(
            f"{journal}: its last line is unfinished, as a power cut or a full disk leaves it",
            "what there is of it is cut off",
            partial(cut_unfinished_line, journal),
        )


def _running_trials(evidence: Evidence) -> Iterator[Finding]:
    for trial in evidence.study.trials:
        owner = owner_of(trial)
        host, process = owner.get("owner.host"), owner.get("owner.pid")
        if trial.number in evidence.study.abandoned:
            dead = f"process {process} on {host}, its controller, is dead" if owner else "nobody signed it"
            yield Finding(
                f"trial {trial.number} is RUNNING in the study and {dead}",
                "it is failed and queued again, its run closed",
                evidence.recover,
            )
        elif evidence.study.owners.get(trial.number) == "elsewhere":
            yield Finding(
                f"trial {trial.number} is RUNNING since {_age(trial)}, and process {process} on {host}, its "
                "controller, cannot be seen from here",
                f"if it is dead, look again there, or, if nothing of the sweep lives there, with dead_host={host}",
            )


def _age(trial: FrozenTrial) -> str:
    if trial.datetime_start is None:
        return "a time that it does not say"
    minutes = int((datetime.now() - trial.datetime_start).total_seconds() // 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _retries(evidence: Evidence) -> Iterator[Finding]:
    for trial in evidence.study.trials:
        if is_to_be_retried(trial, evidence.study.set_aside) and last_attempt(trial, evidence.study.trials) is trial:
            yield Finding(
                f"trial {trial.number} was to be tried again, and no trial of the study does",
                "it is queued again",
                evidence.recover,
            )


def _records(evidence: Evidence) -> Iterator[Finding]:
    of_trial = {evidence.folder / subfolder_of(trial): trial for trial in evidence.study.trials}
    for folder in find_records(evidence.folder):
        try:
            if (finding := _record(evidence, folder, of_trial.get(folder))) is not None:
                yield finding
        except TrackingError as error:
            yield undeliverable(error)


def undeliverable(error: TrackingError) -> Finding:
    """Give what is found where a record cannot be brought to MLflow."""
    reason = str(error).rpartition(";")[0] or str(error)
    return Finding(reason, "correct that, or remove it; MLflow does not have what waits there")


def _record(evidence: Evidence, folder: Path, trial: FrozenTrial | None) -> Finding | None:
    due = None if trial is None else due_end_of(trial, folder, evidence.dead_hosts)
    if trial is not None and due is not None:
        what = f"trial {trial.number} is {trial.state.name} in the study, and the record in {folder} says otherwise"
        return Finding(what, f"it ends {due[0]}", partial(evidence.close, folder, *due))
    recorded = read_run(folder)
    owner = None if recorded is None else recorded.owner_state(evidence.dead_hosts)
    if owner == "dead":
        what = f"{folder}: the run has no end in its record, and the process that made it is dead"
        return Finding(what, "it becomes KILLED", partial(evidence.close, folder, "KILLED", {}))
    if recorded is not None and owner == "elsewhere" and not evidence.study.owners:
        host = recorded.tags["owner.host"]
        return Finding(
            f"{folder}: the run has no end in its record, and its process on {host} cannot be seen from here",
            f"look again there, or, if nothing of the sweep lives there, with dead_host={host}",
        )
    if recorded is not None and (number := num_waiting(folder, evidence.uri)):
        what = f"{folder}: {number} entries of the run's record are not in MLflow"
        return Finding(what, "they are delivered", partial(project, folder, evidence.uri))
    return None


def _runs_elsewhere(evidence: Evidence) -> Iterator[Finding]:
    sweep_run_id = run_id_of(evidence.study.user_attrs)
    experiment_id = read_position(evidence.folder, evidence.uri).experiment_id
    if sweep_run_id is None or experiment_id is None:
        return
    known = (evidence.uri, sweep_run_id, experiment_id, evidence.study.trials, evidence.dead_hosts)
    for run_id, trial, due in find_unclosed(*known):
        yield Finding(
            f"trial {trial.number} is {trial.state.name} in the study, its run {run_id} says otherwise, and its record "
            "is not here",
            f"it becomes {due[0]}",
            partial(close_run, run_id, *due),
        )


def _summary(evidence: Evidence) -> Iterator[Finding]:
    recorded = read_run(evidence.folder)
    may_be_at_work = {"alive", "elsewhere"} & set(evidence.study.owners.values())
    if recorded is None or recorded.status is None or may_be_at_work:
        return
    metrics, tags = summarize(evidence.study.ledger, (evidence.study.objectives or [""])[0])
    metrics = {key: value for key, value in metrics.items() if recorded.newest.get(key) != value}
    tags = {key: text for key, text in tags.items() if recorded.tags.get(key) != text}
    if metrics or tags:
        says = [f"{key}={recorded.newest.get(key)} for {value}" for key, value in metrics.items()]
        says += [f"{key}={recorded.tags.get(key)} for {text}" for key, text in tags.items()]
        what = f"the sweep's record has {', '.join(says)}"
        yield Finding(what, "it is brought up to date with the study", partial(evidence.summarize, metrics, tags))


def _checkpoints(evidence: Evidence) -> Iterator[Finding]:
    for path, trial in useless_checkpoints(evidence.checkpoint_dir, evidence.study.trials).items():
        if trial is None:
            what = f"{path} has nothing to resume: its process was killed while it saved its first epoch"
        else:
            last = last_attempt(trial, evidence.study.trials)
            again = f", tried again as trial {last.number}" if last is not trial else ""
            what = f"{path} is of trial {trial.number}{again}, which is {last.state.name}: nobody resumes it"
        yield Finding(what, "it is removed", partial(remove_checkpoint, path))
