"""Writes a run's record, each entry whole and at once, and finds the records in a folder."""

from __future__ import annotations

import errno
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from cnn_sweeps.errors import ConfigError, TrackingError
from cnn_sweeps.system.files import append_whole, disk_errors
from cnn_sweeps.system.locks import file_lock
from cnn_sweeps.system.owners import WORD, owner_tags
from cnn_sweeps.text.passwords import hide_passwords
from cnn_sweeps.tracking.database.address import uri_seen_from
from cnn_sweeps.tracking.page import begin_note
from cnn_sweeps.tracking.record import entry as entries
from cnn_sweeps.tracking.record.entry import (
    NOTE_TAG,
    POSITION_FILE,
    RECORD_FILE,
    Recorded,
    Status,
    read_record,
    senseless,
)
from cnn_sweeps.tracking.record.position import keep_position, read_position, store_of_record
from cnn_sweeps.tracking.usage import STORE, THIS_RUN_ID, command_to_predict

FOLDER_TO = "CNN_SWEEPS_FOLDER_TO"
"""An environment variable with the path of a new file. The process writes the folder of its first record into it.

So the caller of a command finds its run without reading the output. The first record is that of the whole run or sweep.
"""
_EARLIER = "earlier"  # the folder of records that another run has replaced
_LOCK_FILE = "record.lock"


def _now() -> int:
    return int(time.time() * 1000)  # as MLflow counts it


@contextmanager
def locked(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a record's lock while the block runs; yield whether it is held. With `wait` it always is."""
    with ExitStack() as lock:
        try:
            is_held = lock.enter_context(file_lock(folder / _LOCK_FILE, wait=wait))
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise senseless(folder, f"{_LOCK_FILE} is a link, or no file") from error
            with disk_errors(folder / _LOCK_FILE):
                raise
        yield is_held


class Record:
    """Writes the record of one run.

    If the disk is full, methods raise a DiskError, and the entry is written together with the next one. Methods that
    need an existing record raise a SenselessError if there is none, or it makes no sense.
    """

    def __init__(self, folder: Path) -> None:
        """Take the folder of the run's files, which may not exist yet."""
        self.folder = folder
        self.record_id = ""
        self._unwritten = b""  # what a full disk did not take
        self._known: set[tuple[str, int]] = set()

    def begin(
        self,
        experiment: str,
        name: str,
        uri: str,
        tags: Mapping[str, str],
        *,
        is_part: bool = False,
        run_id: str | None = None,
    ) -> None:
        """Begin a new record; see `entry.Begin`. An older record moves to a folder below, from where it is delivered.

        Raises:
            ConfigError: if a living process works on the older record.
        """
        with locked(self.folder, wait=True):
            if (earlier := read_record(self.folder)) is not None:
                self._set_aside(earlier)
            (self.folder / RECORD_FILE).unlink(missing_ok=True)  # its first line may be unfinished
        self.record_id, self._known = secrets.token_hex(16), set()
        self._tell_folder()
        uri, tags = uri_seen_from(self.folder, uri), dict(tags) | self._place_tags()
        known = {"record": self.record_id, "run_id": run_id, "is_part": is_part, "time": _now()}
        self.add(entries.Begin(experiment=experiment, name=name, uri=uri, tags=tags, **known))

    def _tell_folder(self) -> None:
        if (file := os.environ.get(FOLDER_TO)) is not None:
            with suppress(OSError), Path(file).open("x", encoding="utf-8") as folder_file:  # "x": only the first one
                folder_file.write(str(self.folder.absolute()))

    def _place_tags(self) -> dict[str, str]:
        return owner_tags() | {entries.FOLDER_TAG: str(short_path(self.folder))}

    def _set_aside(self, earlier: Recorded) -> None:
        is_ours = earlier.tags.get(WORD) == owner_tags()[WORD]
        if earlier.owner_state() == "alive" and not is_ours:
            raise ConfigError(f"{self.folder}: another run works there; give another hydra.run.dir")
        aside = self.folder / _EARLIER / earlier.begin.record
        aside.mkdir(parents=True, exist_ok=True)
        uri = store_of_record(self.folder, earlier.begin)
        position = read_position(self.folder, uri).model_copy(update={"uri": uri_seen_from(aside, uri)})
        keep_position(aside, position)
        (self.folder / POSITION_FILE).unlink(missing_ok=True)  # before the record, else it could seem the next one's
        (self.folder / RECORD_FILE).replace(aside / RECORD_FILE)

    def again(self) -> Recorded:
        """Go on with the existing record, as this process; return what it says."""
        with self._reopened() as recorded:
            self.record_id = recorded.begin.record
            self._tell_folder()
            self._known = {(name, epoch) for name, by_epoch in recorded.metrics.items() for epoch in by_epoch if epoch}
            self.add(entries.Again(time=_now(), tags=self._place_tags()))
        return recorded

    def close(self, status: Status, tags: Mapping[str, str]) -> None:
        """End another process's run, with the time of its last entry; this replaces an end that it already has."""
        with self._reopened() as recorded:
            if recorded.status is not None:
                self.add(entries.Again(time=recorded.last_time, tags={}))
            if tags:
                self.log_tags(tags)
            self.add(entries.End(status=status, time=recorded.last_time))

    @contextmanager
    def _reopened(self) -> Iterator[Recorded]:
        """Lock and read the record, and cut off an unfinished last line."""
        with locked(self.folder, wait=True):
            if (recorded := read_record(self.folder)) is None:
                raise senseless(self.folder, "there is no record")
            file = self.folder / RECORD_FILE
            os.truncate(file, file.read_bytes().rfind(b"\n") + 1)
            yield recorded

    def end(self, status: Status) -> None:
        """End the run now."""
        self.add(entries.End(status=status, time=_now()))

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record parameters; those that the run already has stay as they are."""
        self.add(entries.Params(params={key: str(value) for key, value in params.items()}))

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Tag the run."""
        self.add(entries.Tags(tags=dict(tags)))

    def log_outcome(self, *outcome: str) -> None:
        """Put the outcome, lines of Markdown, at the top of the run's description, and how to use a kept model."""
        recorded = read_record(self.folder)
        note, model = ("", None) if recorded is None else (recorded.note, recorded.model)
        commands = [] if model is None else [command_to_predict(f"runs:/{THIS_RUN_ID}/{model}", STORE)]
        self.log_tags({NOTE_TAG: begin_note(outcome, note, commands)})

    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Record metrics of an epoch, counted from 1, with the present time; skip those that the epoch already has.

        Epoch 0 is for metrics that belong to no epoch: MLflow draws them as bars instead of curves of one point.
        """
        new = {name: float(value) for name, value in metrics.items() if (name, epoch) not in self._known}
        if epoch:
            self._known |= {(name, epoch) for name in new}
        if new:
            self.add(entries.Metrics(epoch=epoch, time=_now(), metrics=new))

    def log_machine(self, load: Mapping[str, float], epoch: int) -> None:
        """Record how busy the machine is, as of now, after an epoch, counted from 1."""
        self.add(entries.Machine(epoch=epoch, time=_now(), load=dict(load)))

    def log_files(self, files: Iterable[Path], to: str | None = None) -> None:
        """Keep files below the record's folder with the run; in MLflow in the run's folder `to`, None: the topmost."""
        names = [file.relative_to(self.folder).as_posix() for file in files]
        self.add(entries.Files(files=sorted(names), to=to))

    def add(self, entry: entries.Entry) -> None:
        """Write an entry, after those that a full disk refused."""
        self._unwritten += json.dumps(_without_passwords(entry.model_dump())).encode() + b"\n"
        with disk_errors(self.folder / RECORD_FILE):
            self.folder.mkdir(parents=True, exist_ok=True)
            append_whole(self.folder / RECORD_FILE, self._unwritten)
        self._unwritten = b""


def _without_passwords(value: Any) -> Any:
    if isinstance(value, str):
        return hide_passwords(value)
    if isinstance(value, dict):
        return {key: _without_passwords(each) for key, each in value.items()}
    return [_without_passwords(each) for each in value] if isinstance(value, (list, tuple)) else value


def close_if_died(folder: Path) -> bool:
    """End a record as KILLED, with the time of its last entry, if its process has died; return whether it had."""
    recorded = read_record(folder)
    if recorded is None or recorded.owner_state() != "dead":
        return False
    Record(folder).close("KILLED", {})
    return True


def short_path(path: Path) -> Path:
    """Return a path relative to the working folder if it is below that, else the absolute path."""
    path = path.absolute()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def find_records(folder: Path) -> list[Path]:
    """Return the folders with a record, the given one or at any depth below it, sorted; follow no links."""
    return sorted(place for place in _folders_below(folder) if (place / RECORD_FILE).is_file())


def refuse_outboxes(folder: Path) -> list[TrackingError]:
    """Return an error for each folder that an early version kept for the store in another form."""
    return [
        TrackingError(
            f"{place}: is in the form of cnn-sweeps 0.1.0 before record.jsonl; deliver it with the code that the page "
            f"of run {place.name} names as git.commit, or remove it"
        )
        for place in sorted(_folders_below(folder))
        if place.parent.name == "outbox" and (place / "about.json").is_file()
    ]


def _folders_below(folder: Path) -> Iterator[Path]:
    """Yield a folder and all below it, at any depth (os.walk would recurse); folders may vanish meanwhile."""
    left = [folder]
    while left:
        place = left.pop()
        yield place
        with suppress(OSError), os.scandir(place) as found:
            left += [place / each.name for each in found if each.is_dir(follow_symlinks=False)]
