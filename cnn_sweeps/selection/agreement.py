"""Brings the records of a sweep's runs, and what MLflow has of them, to say what the sweep's study says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from optuna.trial import FrozenTrial, TrialState

from cnn_sweeps.errors import DiskError, TrackingError, TrackingOutageError, UserError
from cnn_sweeps.experiment.notes import record_of, run_id_of
from cnn_sweeps.selection.outcome import Sweep, noted_data
from cnn_sweeps.sweep.study.ledger import RETRIED, error_of, last_attempt
from cnn_sweeps.system.owners import owner_state
from cnn_sweeps.text.numbers import counted
from cnn_sweeps.tracking.dead_runs import end_run, find_runs
from cnn_sweeps.tracking.page import tags_of
from cnn_sweeps.tracking.projection import project
from cnn_sweeps.tracking.record.entry import (
    PARENT_TAG,
    RECORD_FILE,
    RECORD_TAG,
    STATE_TAG,
    Recorded,
    Status,
    read_record,
)
from cnn_sweeps.tracking.record.position import num_waiting, read_position
from cnn_sweeps.tracking.record.record import Record, find_records
from cnn_sweeps.training.checkpoint import left_checkpoints

REPORT = "report"  # folder, below a sweep's, of what is drawn and written of it


def record_sweep(sweep: Sweep, status: Status | None = None) -> None:
    """Write what the study says into the record of the sweep's own run, which exists; with a status, end the run.

    Raises:
        DiskError: if the disk is full.
    """
    record, recorded = Record(sweep.folder), read_record(sweep.folder)
    assert recorded is not None
    metrics, tags, params = sweep.lacking(recorded)
    if recorded.status is not None and (metrics or tags or params or status):  # another controller has ended it
        record.again()
    record.log_metrics(metrics, 0)
    if recorded.data is None and (data := noted_data(sweep.attributes)) is not None:
        record.add(data)
    if tags:
        record.log_tags(tags)
    if params:
        record.log_params(params)
    if status is not None:
        record.log_files([*sweep.folder.glob("sweep.log"), *(sweep.folder / REPORT).glob("*")])
        record.end(status)


class Change(NamedTuple):
    """One place where a record, or MLflow, does not say what the study says, and what mends it."""

    what: str
    remedy: str  # what `make` does or, without it, what a person may do
    make: Callable[[], object] | None = None  # None if only a person can tell what is true


def changes(sweep: Sweep, trials: Sequence[FrozenTrial] | None = None) -> Iterator[Change]:
    """Return the changes that a sweep's records and MLflow need to say what its study says.

    Make each change, or leave it, before you ask for the next: later ones depend on it. With `trials`, only the
    records of these are looked at; without, all records in the sweep's folder are.

    Raises:
        TrackingError: if the store cannot be used.
    """
    of_trial = {sweep.folder_of(trial): trial for trial in (sweep.trials if trials is None else trials)}
    places = find_records(sweep.folder) if trials is None else [p for p in of_trial if (p / RECORD_FILE).is_file()]
    ends = {place: end for place in places if (end := _due_end_of(sweep, place, of_trial.get(place))) is not None}
    yield from ends.values()
    open_places = [place for place in ends if _due_end_of(sweep, place, of_trial.get(place)) is not None]
    for place in places:
        try:
            if place not in open_places and (num_entries := num_waiting(place, sweep.uri)):
                what = f"{place}: MLflow lacks {counted(num_entries, 'entry', 'entries')} of the run's record"
                yield Change(what, "they are delivered", partial(project, place, sweep.uri))
        except TrackingError as error:
            yield undeliverable(error)
    left = {recorded.begin.record for place in open_places if (recorded := read_if_sensible(place)) is not None}
    yield from _ends_elsewhere(sweep, list(of_trial.values()), left)
    if trials is None:
        yield from _summary(sweep)


def read_if_sensible(place: Path) -> Recorded | None:
    """Read a record; None if there is none or it makes no sense, which its delivery will tell."""
    with suppress(TrackingError):
        return read_record(place)
    return None


def _due_end_of(sweep: Sweep, place: Path, trial: FrozenTrial | None) -> Change | None:
    """Return the end that a record lacks: its trial's, or that of a process that died."""
    if (recorded := read_if_sensible(place)) is None:
        return None
    close = Record(place).close
    if trial is not None and recorded.tags.get("trial.number") == str(trial.number):
        where = f"and the record in {place}"
        if (change := _end_as_trial(sweep, trial, recorded.status, recorded.tags, where, close)) is not None:
            return change
    if recorded.owner_state(sweep.dead_hosts) != "dead":
        return None
    what = f"{place}: the run has no end in its record, and the process that made it is dead"
    return Change(what, "it becomes KILLED", partial(close, "KILLED", {}))


def _end_as_trial(
    sweep: Sweep, trial: FrozenTrial, status: str | None, tags: Mapping[str, str], where: str, end: Callable[..., None]
) -> Change | None:
    """Return the change by which `end` brings a run, with this status and these tags, to the end of its trial.

    None if it has that end, or its process may be at work. `status` is None while the run is open.
    """
    has_failed, state = trial.state == TrialState.FAIL, trial.state.name
    is_being_tested = status is None and not has_failed and owner_state(tags, sweep.dead_hosts) != "dead"
    due = "FINISHED" if not has_failed else "FAILED" if status == "FAILED" else "KILLED"
    if not trial.state.is_finished() or is_being_tested or (status, tags.get(STATE_TAG)) == (due, state):
        return None
    reason = {"error": error_of(trial)} if has_failed and error_of(trial) and "error" not in tags else {}
    what = f"trial {trial.number} is {state} in the study, {where} says otherwise"
    return Change(what, f"it becomes {due}", partial(end, due, {STATE_TAG: state} | reason))


def _ends_elsewhere(sweep: Sweep, trials: Sequence[FrozenTrial], left: Collection[str]) -> Iterator[Change]:
    """Return the ends that runs in MLflow lack whose records are on other hosts or gone; skip the records in `left`."""
    whole, experiment_id = run_id_of(sweep.attributes), read_position(sweep.folder, sweep.uri).experiment_id
    if whole is None or experiment_id is None:
        return
    by_number = {str(trial.number): trial for trial in trials}
    retried = [f"tags.`trial.number` = '{trial.number}'" for trial in trials if RETRIED in trial.user_attrs]
    runs = {
        run.info.run_id: run
        for condition in ["attributes.status != 'FINISHED'", *retried]
        for run in find_runs(sweep.uri, experiment_id, f"tags.`{PARENT_TAG}` = '{whole}' and {condition}")
        if run.data.tags.get("trial.number") in by_number and run.data.tags.get(RECORD_TAG) not in left
    }
    for run_id, run in runs.items():
        trial, status = by_number[run.data.tags["trial.number"]], run.info.status
        known = (None if status == "RUNNING" else status, tags_of(run), f"its run {run_id}")
        if (change := _end_as_trial(sweep, trial, *known, partial(end_run, run_id))) is not None:
            yield change


def _summary(sweep: Sweep) -> Iterator[Change]:
    """Return what the record of the sweep's own run lacks; nothing while a controller works on it."""
    recorded = read_if_sensible(sweep.folder)
    if recorded is None or recorded.status is None or sweep.ledger.counts["RUNNING"]:
        return

    def make() -> None:
        record_sweep(sweep, recorded.status)
        project(sweep.folder, sweep.uri)

    if missing := [f"{key}={value}" for each in sweep.lacking(recorded) for key, value in each.items()]:
        yield Change(f"the sweep's record lacks {', '.join(missing)}", "it is brought up to date with the study", make)


def undeliverable(error: UserError) -> Change:
    """Return what to tell a person about a record that cannot be changed, or delivered to MLflow."""
    reason = str(error).rpartition(";")[0] or str(error)
    return Change(reason, "correct that, or remove it; MLflow does not have what waits there")


def made(changes: Iterable[Change]) -> Iterator[tuple[Change, bool]]:
    """Make changes one by one; give each with True or, where it cannot be made, what to tell of it with False.

    Raises:
        TrackingOutageError: if the store is away; the changes on this disk have been made by then.
    """
    for change in changes:
        try:
            if change.make is not None:
                change.make()
            yield change, change.make is not None
        except TrackingOutageError:
            raise
        except (DiskError, TrackingError) as error:
            yield undeliverable(error), False


def useless_checkpoints(folder: Path, trials: Sequence[FrozenTrial]) -> dict[Path, FrozenTrial | None]:
    """Return the checkpoints in a folder that nobody will resume, with their trials; None if nothing can be resumed."""
    noting = {record: trial for trial in trials if (record := record_of(trial))}
    useless: dict[Path, FrozenTrial | None] = {}
    for path, run in left_checkpoints(folder).items():
        trial = None if run is None else noting.get(run.whole)
        if run is None or (trial is not None and last_attempt(trial, trials).state.is_finished()):
            useless[path] = trial
    return useless
