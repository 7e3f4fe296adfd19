"""Writes a run's record, each entry whole and on the disk before the next statement."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.system.files import append_whole, disk_errors
from cnn_sweeps.system.owners import WORD, owner_tags
from cnn_sweeps.text.passwords import hide_passwords
from cnn_sweeps.tracking.address import uri_seen_from
from cnn_sweeps.tracking.entry import (
    POSITION_FILE,
    RECORD_FILE,
    Again,
    Begin,
    End,
    Entry,
    Files,
    Metrics,
    Params,
    Status,
    Tags,
    senseless,
)
from cnn_sweeps.tracking.record_folder import locked, short_path
from cnn_sweeps.tracking.recorded import FOLDER_TAG, Recorded, read_run

_EARLIER = "earlier"  # folder of records whose place another run has taken


def place_tags(folder: Path) -> dict[str, str]:
    """Give the tags that say which process has a record, and where that is: below the working folder, if it is."""
    return owner_tags() | {FOLDER_TAG: str(short_path(folder))}


def now() -> int:
    """Give the time as MLflow counts it: in ms since 1970."""
    return int(time.time() * 1000)


class Record:
    """Writes the record of one run. Each entry is on the disk, whole, before the next statement."""

    def __init__(self, folder: Path) -> None:
        """Of a run whose files are in `folder`."""
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
        """Begin a new record. One that is there is kept in a folder of its own below, from which it is delivered, too.

        Args:
            experiment: the name of MLflow's.
            name: of the run.
            uri: of the store.
            tags: of the run; those of its process are added.
            is_part: whether the run is a part of the one whose record is in the folder above.
            run_id: of a run of the store that is gone on with; None: it is made.

        Raises:
            ConfigError: if a living process is at work on the one that is there.
            DiskError: if it cannot be written.
        """
        with locked(self.folder, wait=True):
            if (earlier := read_run(self.folder)) is not None:
                self._set_aside(earlier)
            (self.folder / RECORD_FILE).unlink(missing_ok=True)  # a first line that is not whole
        self.record_id, self._known = secrets.token_hex(16), set()
        self.add(
            Begin(
                record=self.record_id,
                run_id=run_id,
                experiment=experiment,
                name=name,
                is_part=is_part,
                uri=uri_seen_from(self.folder, uri),
                time=now(),
                tags=dict(tags) | place_tags(self.folder),
            )
        )

    def _set_aside(self, earlier: Recorded) -> None:
        is_ours = earlier.tags.get(WORD) == owner_tags()[WORD]
        if earlier.owner_state() == "alive" and not is_ours:
            raise ConfigError(f"{self.folder}: another run is at work there; name another hydra.run.dir")
        aside = self.folder / _EARLIER / earlier.begin.record
        aside.mkdir(parents=True, exist_ok=True)
        for file in (POSITION_FILE, RECORD_FILE):
            with suppress(FileNotFoundError):
                (self.folder / file).replace(aside / file)

    def again(self) -> Recorded:
        """Go on with a record that is there, as this process; give what it says.

        Raises:
            FileNotFoundError: if there is none.
            SenselessError: if it makes no sense.
            DiskError: if it cannot be written.
        """
        with locked(self.folder, wait=True):
            recorded = read_run(self.folder)
            if recorded is None:
                raise FileNotFoundError(self.folder / RECORD_FILE)
            self._cut_torn_line()
            self.record_id = recorded.begin.record
            self._known = {(name, epoch) for name, by_epoch in recorded.metrics.items() for epoch in by_epoch if epoch}
            self.add(Again(time=now(), tags=place_tags(self.folder)))
        return recorded

    def close(self, status: Status, tags: Mapping[str, str], ended: int | None = None) -> None:
        """Give an end to the run of another process, whatever end it had; `ended` in ms since 1970, None: now.

        Raises:
            SenselessError: if there is no record that makes sense.
            DiskError: if it cannot be written.
        """
        with locked(self.folder, wait=True):
            recorded = read_run(self.folder)
            if recorded is None:
                raise senseless(self.folder, "there is no record")
            self._cut_torn_line()
            if recorded.status is not None:
                self.add(Again(time=recorded.last_time, tags={}))
            if tags:
                self.log_tags(tags)
            self.add(End(status=status, time=ended or now()))

    def end(self, status: Status) -> None:
        """End the run, as of now."""
        self.add(End(status=status, time=now()))

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record parameters; of two with one name the first counts, since MLflow lets none be changed."""
        self.add(Params(params={key: str(value) for key, value in params.items()}))

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Tag the run."""
        self.add(Tags(tags=dict(tags)))

    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Record metrics of an epoch, counted from 1, as of now, but for those that it has; under 0 newest values."""
        new = {name: float(value) for name, value in metrics.items() if (name, epoch) not in self._known}
        if epoch:
            self._known |= {(name, epoch) for name in new}
        if new:
            self.add(Metrics(epoch=epoch, time=now(), metrics=new))

    def log_files(self, files: Iterable[Path], to: str | None = None) -> None:
        """Keep files, which lie below the record's folder, with the run; in its folder `to`, None: the topmost."""
        names = [file.relative_to(self.folder).as_posix() for file in files]
        self.add(Files(files=sorted(names), to=to))

    def add(self, entry: Entry) -> None:
        """Write an entry, after those that a full disk did not take.

        Raises:
            DiskError: if the disk cannot take it now; it is written with what comes next.
        """
        self._unwritten += json.dumps(_without_passwords(entry.model_dump())).encode() + b"\n"
        with disk_errors(self.folder / RECORD_FILE, "the same command"):
            self.folder.mkdir(parents=True, exist_ok=True)
            append_whole(self.folder / RECORD_FILE, self._unwritten)
        self._unwritten = b""

    def _cut_torn_line(self) -> None:
        file = self.folder / RECORD_FILE
        content = file.read_bytes()
        if (whole := content.rfind(b"\n") + 1) < len(content):
            os.truncate(file, whole)


def close_if_died(folder: Path, dead_hosts: Collection[str] = ()) -> bool:
    """End a record as KILLED, at the time of its last entry, if its process died without doing so; tell whether it did.

    Raises:
        SenselessError: if it makes no sense.
        DiskError: if it cannot be written.
    """
    recorded = read_run(folder)
    if recorded is None or recorded.owner_state(dead_hosts) != "dead":
        return False
    Record(folder).close("KILLED", {}, recorded.last_time)
    return True


def _without_passwords(value: Any) -> Any:
    if isinstance(value, str):
        return hide_passwords(value)
    if isinstance(value, dict):
        return {key: _without_passwords(each) for key, each in value.items()}
    return [_without_passwords(each) for each in value] if isinstance(value, list) else value
