"""Where a run's record goes: to the tracking store at once, or, while that is away, to a folder from which it follows.

`outbox/RUN_ID` beside the run's log then holds each entry that waits as `000001.json`, with its files in `000001`, and
`about.json` with the store's address. Entries are written in their order, with the times of then, and each leaves the
folder once the store has it, so that nothing is written twice.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from cnn_sweeps.errors import TrackingError, TrackingOutageError
from cnn_sweeps.locks import file_lock
from cnn_sweeps.passwords import hide_passwords
from cnn_sweeps.patience import Backoff
from cnn_sweeps.tracking.entries import Content, write_entry
from cnn_sweeps.tracking.store import absolute_uri, find_existing_store, store_errors
from cnn_sweeps.whole_files import disk_errors, replace_whole

log = logging.getLogger(__name__)

FOLDER, _ABOUT = "outbox", "about.json"
_LOUD = ("mlflow.store.db.utils", "urllib3.connectionpool")  # they log each failed request, with its traceback


class Outbox:
    """The record of one run, written in order."""

    def __init__(self, folder: Path | None, run_id: str) -> None:
        """Of a run whose files are in `folder`; None: nothing is kept, and what the store cannot take is an error."""
        self.run_id = run_id
        self.folder = None if folder is None else folder / FOLDER / run_id
        self._backoff = Backoff()

    def write(self, kind: str, content: Content, files: Path | None = None) -> Any:
        """Write an entry, after those that wait, or keep it.

        Args:
            kind, content, files: as `write_entry` takes them; files are copied if the entry is kept.

        Returns:
            What `write_entry` does; None for an entry that is kept.

        Raises:
            TrackingError: if the store refuses it.
            DiskError: if it can be neither written nor kept.
        """
        if self.deliver():
            try:
                with self._backoff.noting_outages(), store_errors(), _quiet():
                    return write_entry(self.run_id, kind, content, files)
            except TrackingOutageError as error:
                if self.folder is None:
                    raise
                reason = str(error).rpartition(";")[0]
                log.warning("%s; the run goes on, and its record waits in %s", reason, self.folder)
        self.keep(kind, content, files)
        return None

    def deliver(self, *, at_once: bool = False) -> bool:
        """Write what waits, if it is time to try again or `at_once`; tell whether nothing waits any longer.

        Raises:
            TrackingError: if the store refuses an entry.
            DiskError: if the folder cannot be written.
        """
        if not self.num_waiting:
            return True
        if not (self._backoff.is_over or at_once):
            return False
        try:
            with self._backoff.noting_outages(), self._disk_errors(), self._locked(), store_errors(), _quiet():
                self._deliver_all()
        except TrackingOutageError:
            return False
        except TrackingError as error:
            reason = str(error).rpartition(";")[0]
            raise TrackingError(f"{self.folder}: cannot be delivered ({reason}); correct that, or remove it") from error
        log.info("the tracking store has all of the run again")
        return True

    @property
    def recorded_uri(self) -> str:
        """The address of the store that what waits is for, without the password that it may have."""
        assert self.folder is not None
        return str(json.loads((self.folder / _ABOUT).read_text(encoding="utf-8"))["uri"])

    @property
    def begun(self) -> float:
        """When the first entry that waits was kept; 0 if nothing waits."""
        assert self.folder is not None
        with suppress(FileNotFoundError):
            return (self.folder / _ABOUT).stat().st_mtime
        return 0.0

    @property
    def num_waiting(self) -> int:
        """How many entries wait."""
        return len(self._entries())

    def keep(self, kind: str, content: Content, files: Path | None = None) -> None:
        """Keep an entry, after those that wait.

        Raises:
            DiskError: if that cannot be done.
        """
        import mlflow

        assert self.folder is not None
        with self._disk_errors(), self._locked():
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / _ABOUT).exists():
                uri = hide_passwords(absolute_uri(mlflow.get_tracking_uri()))
                _write_json(self.folder / _ABOUT, {"uri": uri})
            last = max((int(entry.stem) for entry in self._entries()), default=0)
            entry = self.folder / f"{last + 1:06d}.json"
            if files is not None:
                shutil.rmtree(entry.with_suffix(""), ignore_errors=True)  # of one that was cut off
                _copy(files, entry.with_suffix(""))
            name = None if files is None or files.is_dir() else files.name
            _write_json(entry, {"kind": kind, "content": content, "has_files": files is not None, "file": name})

    def _entries(self) -> list[Path]:
        if self.folder is None:
            return []
        with suppress(FileNotFoundError):  # while another process removes it
            return sorted(self.folder.glob("[0-9]*.json"))
        return []

    def _deliver_all(self) -> None:
        import mlflow

        assert self.folder is not None
        if (uri := mlflow.get_tracking_uri()).startswith("http"):
            find_existing_store(uri)  # soon tells what a request may take a minute to find out
        for entry in self._entries():
            about = json.loads(entry.read_text(encoding="utf-8"))
            files = entry.with_suffix("") if about["has_files"] else None
            if files is not None and about["file"] is not None:
                files /= about["file"]
            write_entry(self.run_id, about["kind"], about["content"], files)
            entry.unlink()
            shutil.rmtree(entry.with_suffix(""), ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):
            self.folder.parent.rmdir()
            self._lock_file.unlink()

    def _disk_errors(self) -> AbstractContextManager[None]:
        assert self.folder is not None
        return disk_errors(self.folder, "the same command")

    @property
    def _lock_file(self) -> Path:
        assert self.folder is not None
        return self.folder.parent.with_suffix(".lock")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process at a time write or keep: the run's own, its sweep's, or that of a person who delivers."""
        with file_lock(self._lock_file, wait=True):
            yield


def find_outboxes(folder: Path) -> list[Outbox]:
    """Give the outboxes in which something waits, in a folder at any depth or the folder itself, oldest first."""
    places = [Path(place) for place, _, _ in os.walk(folder)]  # which takes it that others remove folders meanwhile
    found = [Outbox(place.parent.parent, place.name) for place in places if place.parent.name == FOLDER]
    found.sort(key=lambda outbox: outbox.begun)
    return [outbox for outbox in found if outbox.num_waiting]


def deliver_all(folder: Path) -> None:
    """Write all that waits in a folder, at any depth.

    Raises:
        TrackingOutageError: if the store is still away.
        TrackingError: if it refuses something.
    """
    for outbox in find_outboxes(folder):
        if not outbox.deliver(at_once=True):
            raise TrackingOutageError(
                f"{outbox.folder}: waits for the tracking store, which does not answer; start it and give the same "
                "command again"
            )


def deliver_or_tell(folder: Path) -> None:
    """Write all that waits in a folder; if the store is still away, say how to do it once it is back."""
    try:
        deliver_all(folder)
    except TrackingError as error:
        num_waiting = sum(outbox.num_waiting for outbox in find_outboxes(folder))
        log.warning(
            "%s; %d entries of the record wait in %s; once the store is back, give:\n  python -m cnn_sweeps.deliver %s",
            *(str(error).rpartition(";")[0], num_waiting, folder, shlex.quote(str(folder))),
        )


# The runs of this process that are open, the innermost last.
_open: list[Outbox] = []


@contextmanager
def opened(outbox: Outbox) -> Iterator[None]:
    """Have `write` write to this run while the block runs."""
    _open.append(outbox)
    try:
        yield
    finally:
        _open.pop()


def write(kind: str, content: Content, files: Path | None = None) -> Any:
    """Write an entry of the run that is open in this process, as `Outbox.write` does."""
    return _open[-1].write(kind, content, files)


def _write_json(file: Path, content: Content) -> None:
    replace_whole(file, json.dumps(content).encode())


def _copy(files: Path, target: Path) -> None:
    target.mkdir()
    try:
        for file in [files] if files.is_file() else files.iterdir():
            (shutil.copytree if file.is_dir() else shutil.copy2)(file, target / file.name)
    except OSError:
        shutil.rmtree(target, ignore_errors=True)  # so that it takes no space
        raise


@contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _LOUD]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, was_disabled in zip(loggers, before, strict=True):
            logger.disabled = was_disabled
