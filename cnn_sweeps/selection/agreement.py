"""What the runs of a sweep are to say, as its study has it, and the changes that have them say so, whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState

from cnn_sweeps.errors import DiskError, TrackingError, TrackingOutageError, UserError
from cnn_sweeps.experiment.notes import record_of, run_id_of, subfolder_of
from cnn_sweeps.selection import outcome
from cnn_sweeps.sweep.console import summarize
from cnn_sweeps.sweep.space import by_setting
from cnn_sweeps.sweep.study.ledger import RETRIED, TrialLedger, error_of, last_attempt
from cnn_sweeps.system.owners import owner_state
from cnn_sweeps.text.numbers import counted
from cnn_sweeps.text.passwords import hide_passwords
from cnn_sweeps.tracking.dead_runs import end_run, find_runs
from cnn_sweeps.tracking.page import begin_note, tags_of
from cnn_sweeps.tracking.projection import project
from cnn_sweeps.tracking.record.entry import (
    NOTE_TAG,
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


@dataclass(frozen=True)
class Sweep:
    """What a study, whose name and attributes these are, says of a sweep now, and where its records are.

    On `dead_hosts` all processes are taken to be dead.
    """

    name: str
    objectives: Sequence[str]
    attributes: Mapping[str, Any]
    trials: Sequence[FrozenTrial]
    ledger: TrialLedger
    folder: Path
    uri: str
    dead_hosts: Collection[str] = ()

    def folder_of(self, trial: FrozenTrial) -> Path:
        """Give the folder of a trial's files."""
        return self.folder / subfolder_of(trial)

    @cached_property
    def about_run(self) -> outcome.AboutRun:
        """What a controller has noted; nothing if that makes no sense."""
        return outcome.noted_about(self.attributes)

    @cached_property
    def searched(self) -> list[str]:
        """The keys that are searched, to which a conditional space adds."""
        return list(dict.fromkeys(key for trial in self.trials for key in by_setting(trial.params)))

    def lacking(self, recorded: Recorded) -> tuple[dict[str, float], dict[str, str], dict[str, str]]:
        """Give the metrics, tags and parameters that the record of the sweep's own run is to have, and has not.

        Its parameters are what is not searched, so that a comparison with it finds only searched keys to differ.
        """
        about, searched = self.about_run, self.searched
        best = outcome.find_champion(self.ledger.best, self.trials, self.attributes)
        metrics, tags = summarize(self.ledger.counts, best, next(iter(self.objectives), ""))
        metrics |= outcome.of_best(best, self.attributes)
        if NOTE_TAG in about.tags:
            told = outcome.describe_outcome(best, self.trials, self.objectives, self.attributes)
            tags[NOTE_TAG] = begin_note(told, about.tags[NOTE_TAG])
        groups = tuple(f"{key}." for key in searched)
        fixed = {key: text for key, text in about.params.items() if key not in searched and not key.startswith(groups)}
        return (
            {key: value for key, value in metrics.items() if recorded.newest.get(key) != value},
            {key: text for key, text in (about.tags | tags).items() if recorded.tags.get(key) != hide_passwords(text)},
            {key: text for key, text in fixed.items() if searched and key not in recorded.params},
        )


def record_sweep(sweep: Sweep, status: Status | None = None) -> None:
    """Have the record of the sweep's own run, which is there, say what the study does; with a status, end it.

    Raises:
        DiskError: if the disk is full.
    """
    record, recorded = Record(sweep.folder), read_record(sweep.folder)
    assert recorded is not None
    metrics, tags, params = sweep.lacking(recorded)
    if recorded.status is not None and (metrics or tags or params or status):  # another controller has ended it
        record.again()
    record.log_metrics(metrics, 0)
    if recorded.data is None and (data := outcome.noted_data(sweep.attributes)) is not None:
        record.add(data)
    if tags:
        record.log_tags(tags)
    if params:
        record.log_params(params)
    if status is not None:
        record.log_files([*sweep.folder.glob("sweep.log"), *(sweep.folder / REPORT).glob("*")])
        record.end(status)


class Change(NamedTuple):
    """Something that is not as the study has it: what is said where."""

    what: str
    remedy: str  # what making the change does or, without `make`, what a person may do
    make: Callable[[], object] | None = None  # None if only a person can tell what is true


def changes(sweep: Sweep, trials: Sequence[FrozenTrial] | None = None) -> Iterator[Change]:
    """Give what is to be changed in the records of a sweep, and in MLflow, each once those before it are made, or not.

    Of some trials only, or of all, and of all records in the sweep's folder.

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
    """Read a record; None if there is none, or it makes no sense, which is told when it is to be delivered."""
    with suppress(TrackingError):
        return read_record(place)
    return None


def _due_end_of(sweep: Sweep, place: Path, trial: FrozenTrial | None) -> Change | None:
    """Give the end that a record lacks: its trial's, or that of a process that died."""
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
    """Have `end` give a run with this status, None if it is open, and these tags what it lacks of its trial's end.

    None if it lacks nothing, or its process may be at work.
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
    """Give the ends that runs in MLflow lack whose records, but for those in `left`, are on other hosts, or gone."""
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
    """Give what the record of the sweep's own run lacks, unless a controller is at work on it."""
    recorded = read_if_sensible(sweep.folder)
    if recorded is None or recorded.status is None or sweep.ledger.counts["RUNNING"]:
        return

    def make() -> None:
        record_sweep(sweep, recorded.status)
        project(sweep.folder, sweep.uri)

    if missing := [f"{key}={value}" for each in sweep.lacking(recorded) for key, value in each.items()]:
        yield Change(f"the sweep's record lacks {', '.join(missing)}", "it is brought up to date with the study", make)


def undeliverable(error: UserError) -> Change:
    """Give what is to be told where a record cannot be changed, or brought to MLflow."""
    reason = str(error).rpartition(";")[0] or str(error)
    return Change(reason, "correct that, or remove it; MLflow does not have what waits there")


def made(changes: Iterable[Change]) -> Iterator[tuple[Change, bool]]:
    """Make changes one after another; give each, or what is to be told instead, and whether it is made.

    Raises:
        TrackingOutageError: if the store is away; what is on this disk has been changed by then.
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
    """Give the checkpoints in a folder that nobody will resume, each with its trial; None: nothing can be resumed."""
    noting = {record: trial for trial in trials if (record := record_of(trial))}
    useless: dict[Path, FrozenTrial | None] = {}
    for path, run in left_checkpoints(folder).items():
        trial = None if run is None else noting.get(run.whole)
        if run is None or (trial is not None and last_attempt(trial, trials).state.is_finished()):
            useless[path] = trial
    return useless
