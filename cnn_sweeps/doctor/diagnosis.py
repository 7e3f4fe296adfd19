"""Where the records of a sweep disagree, in Optuna, in MLflow and on disk, and what mends it. Nothing is read here."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from optuna.trial import FrozenTrial

from cnn_sweeps.doctor.evidence import CutJournal, DeliverRecord, Evidence, Finding, RecoverTrials, RemoveCheckpoint
from cnn_sweeps.doctor.run_diagnosis import check_runs
from cnn_sweeps.experiment.trial import FOLDER, senseless_notes, subfolder_of
from cnn_sweeps.sweep.study.ledger import is_to_be_retried, last_attempt, owner_of, senseless_attributes
from cnn_sweeps.system.owners import is_here


def diagnose(evidence: Evidence) -> list[Finding]:
    """Give every disagreement, in an order in which they can be mended.

    What waits for the tracking store comes alone: until it is delivered, MLflow's record cannot be compared.
    """
    if evidence.files.waiting:
        return list(_waiting(evidence))
    of_records = (_undeliverable, _senseless, _journal)
    checks = (*of_records, _running_trials, _retries, check_runs, _folders, _checkpoints, _champions)
    return [finding for check in checks for finding in check(evidence)]


def _waiting(evidence: Evidence) -> Iterator[Finding]:
    for folder, num_entries in evidence.files.waiting.items():
        yield Finding(
            f"{folder}: {num_entries} entries of the run's record wait for the tracking store",
            "they are delivered, and all else is looked at then",
            DeliverRecord(folder),
        )


def _undeliverable(evidence: Evidence) -> Iterator[Finding]:
    for reason in evidence.files.undeliverable.values():
        yield Finding(reason, "correct that, or remove it; MLflow does not have what waits there")


def _senseless(evidence: Evidence) -> Iterator[Finding]:
    for trial in evidence.study.trials:
        for attribute in [*senseless_attributes(trial), *senseless_notes(trial)]:
            value = repr(trial.user_attrs[attribute])[:80]
            yield Finding(
                f"trial {trial.number} has the attribute {attribute}={value}, which makes no sense",
                "nothing reads it; no sweep of cnn-sweeps has written it, and the study lets none be removed",
            )


def _journal(evidence: Evidence) -> Iterator[Finding]:
    if evidence.files.cut_journal is not None:
        yield Finding(
            f"{evidence.files.cut_journal}: its last line is unfinished, as a power cut or a full disk leaves it",
            "what there is of it is cut off",
            CutJournal(evidence.files.cut_journal),
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
                RecoverTrials(),
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
                RecoverTrials(),
            )


def _folders(evidence: Evidence) -> Iterator[Finding]:
    folder, trials = evidence.files.folder, evidence.study.trials
    for trial in trials:
        subfolder, run = subfolder_of(trial), evidence.noted_run(trial)
        is_elsewhere = run is not None and "owner.host" in run.tags and not is_here(run.tags)
        if FOLDER in trial.user_attrs and subfolder not in evidence.files.subfolders and not is_elsewhere:
            yield Finding(
                f"trial {trial.number} has written into {folder / subfolder}, and it is not there",
                "its log, and its weights if it was among the best, are lost; what it measured is in MLflow",
            )
    for name in sorted(evidence.files.subfolders):
        if name.isdecimal() and int(name) >= len(trials) and not evidence.may_be_at_work:
            yield Finding(f"{folder / name} is there, and the study has no trial {name}", "if not needed, remove it")


def _checkpoints(evidence: Evidence) -> Iterator[Finding]:
    for path, run_id in evidence.files.checkpoints.items():
        if not run_id:
            yield Finding(
                f"{path} has nothing to resume: its process was killed while it saved its first epoch",
                "it is removed",
                RemoveCheckpoint(path),
            )
        elif (trial := evidence.trial_of(run_id)) is not None:
            last = last_attempt(trial, evidence.study.trials)
            again = f", tried again as trial {last.number}" if last is not trial else ""
            if last.state.is_finished():
                yield Finding(
                    f"{path} is of trial {trial.number}{again}, which is {last.state.name}: nobody resumes it",
                    "it is removed",
                    RemoveCheckpoint(path),
                )


def _champions(evidence: Evidence) -> Iterator[Finding]:
    for version, run_id in evidence.sweep.lost_champions.items():
        yield Finding(
            f"the champion {version} is of run {run_id}, which is deleted or not in MLflow",
            f"mlflow runs restore --run-id {run_id} brings a deleted run back; else give the alias to another version",
        )
