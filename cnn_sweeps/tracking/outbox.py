"""Where a run's record goes: to the tracking store at once, or, while that is away, to a folder from which it follows.

`outbox/RUN_ID` beside the run's log then holds each entry that waits as `000001.json`, with its files in `000001`, and
`about.json` with the store's address. Entries are written in their order, with the times of then, and each leaves the
folder once the store has it, so that nothing is written twice.

Such a folder may come from anybody: names in it lead nowhere else, links are not followed, and what makes no sense is
left where it is.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from itertools import compress
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from cnn_sweeps.errors import TrackingError, TrackingOutageError
from cnn_sweeps.system.files import disk_errors, is_disk_full, replace_whole
from cnn_sweeps.system.locks import file_lock
from cnn_sweeps.system.patience import Backoff
from cnn_sweeps.system.plain_files import (
    NotPlainError,
    check_plain_name,
    copy_plain_files,
    opened_folder,
    read_plain_file,
)
from cnn_sweeps.text.passwords import hide_passwords
from cnn_sweeps.tracking.entries import Content, check_entry, write_entry
from cnn_sweeps.tracking.store import (
    absolute_uri,
    find_existing_store,
    is_recorded_as,
    is_run_id,
    store_errors,
    user_uri,
)

log = logging.getLogger(__name__)

FOLDER, _ABOUT = "outbox", "about.json"
_ENTRY = re.compile(r"[0-9]{6,12}\.json")
_MOST_ENTRY_BYTES, _MOST_FILES_BYTES = 2**26, 2**31
_LOUD = ("mlflow.store.db.utils", "urllib3.connectionpool")  # they log each failed request, with its traceback


class _About(BaseModel):
    uri: Annotated[str, Field(pattern=r"^[!-~]{1,1000}$")]  # one word, which a terminal shows as it is


class _Entry(BaseModel):
    kind: str
    content: Content
    has_files: bool
    file: Annotated[str, AfterValidator(check_plain_name)] | None


class _SenselessError(Exception):
    """What is kept is not what this program keeps; the message says why."""


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
            with self._backoff.noting_outages(), self._disk_errors(), self._locked():
                self._deliver_all()
        except TrackingOutageError:
            return False
        except (TrackingError, _SenselessError) as error:
            raise self._undeliverable(error) from error
        log.info("the tracking store has all of the run again")
        return True

    def _undeliverable(self, error: TrackingError | _SenselessError) -> TrackingError:
        reason = str(error).rpartition(";")[0] or str(error)
        return TrackingError(f"{self.folder}: cannot be delivered ({reason}); correct that, or remove it")

    def why_senseless(self) -> str | None:
        """Say why what waits can never be delivered; None if nothing speaks against it."""
        try:
            with self._opened() as folder:
                for name in _entry_names(folder):
                    _read_entry(folder, name)
        except FileNotFoundError:  # another process delivers it
            return None
        except _SenselessError as error:
            return str(self._undeliverable(error)).rpartition(";")[0]
        return None

    @property
    def recorded_uri(self) -> str:
        """The address of the store that what waits is for, without the password that it may have.

        Whoever wrote the folder has put it there: nobody's password may go to it unless the user names it, too.

        Raises:
            FileNotFoundError: if nothing waits any longer.
            TrackingError: if it makes no sense.
        """
        try:
            with self._opened() as folder, _senseless_told(_ABOUT):
                return _About.model_validate_json(read_plain_file(folder, _ABOUT, _MOST_ENTRY_BYTES)).uri
        except _SenselessError as error:
            if not self.num_waiting:
                raise FileNotFoundError from error
            raise self._undeliverable(error) from error

    @property
    def begun(self) -> float:
        """When the first entry that waits was kept; 0 if nothing waits."""
        assert self.folder is not None
        with suppress(OSError):
            return (self.folder / _ABOUT).lstat().st_mtime
        return 0.0

    @property
    def num_waiting(self) -> int:
        """How many entries wait."""
        with suppress(FileNotFoundError, _SenselessError), self._opened() as folder:
            return len(_entry_names(folder))
        return 0

    def keep(self, kind: str, content: Content, files: Path | None = None) -> None:
        """Keep an entry, after those that wait.

        Raises:
            DiskError: if that cannot be done.
            TrackingError: if the folder is a link.
        """
        try:
            with self._disk_errors(), self._locked():
                self._keep(kind, content, files)
        except _SenselessError as error:
            raise self._undeliverable(error) from error

    def _keep(self, kind: str, content: Content, files: Path | None) -> None:
        import mlflow

        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._opened() as folder:  # and no link to another one
            last = max((int(Path(name).stem) for name in _entry_names(folder)), default=0)
        if not (self.folder / _ABOUT).exists():
            uri = hide_passwords(absolute_uri(mlflow.get_tracking_uri()))
            _write_json(self.folder / _ABOUT, {"uri": uri})
        entry = self.folder / f"{last + 1:06d}.json"
        if files is not None:
            shutil.rmtree(entry.with_suffix(""), ignore_errors=True)  # of one that was cut off
            _copy(files, entry.with_suffix(""))
        name = None if files is None or files.is_dir() else files.name
        _write_json(entry, {"kind": kind, "content": content, "has_files": files is not None, "file": name})

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """Give a descriptor of the folder.

        Raises:
            FileNotFoundError: if there is none.
            _SenselessError: if it is a link, or no folder.
        """
        if self.folder is None:
            raise FileNotFoundError
        with ExitStack() as opened_one:
            try:
                folder = opened_one.enter_context(opened_folder(self.folder.parent.parent, FOLDER, self.run_id))
            except FileNotFoundError:
                raise
            except (NotPlainError, OSError) as error:
                raise _SenselessError(str(error)) from error
            yield folder

    def _deliver_all(self) -> None:
        import mlflow

        assert self.folder is not None
        if (uri := mlflow.get_tracking_uri()).startswith("http"):
            find_existing_store(uri)  # soon tells what a request may take a minute to find out
        with suppress(FileNotFoundError), self._opened() as folder:
            for name in _entry_names(folder):
                with tempfile.TemporaryDirectory() as copies:  # which nobody can replace while they are sent
                    entry = _read_entry(folder, name)
                    files = _copy_files(folder, Path(name).stem, entry, Path(copies))
                    with store_errors(), _quiet():
                        write_entry(self.run_id, entry.kind, entry.content, files)
                os.unlink(name, dir_fd=folder)
                if entry.has_files:
                    shutil.rmtree(Path(name).stem, ignore_errors=True, dir_fd=folder)
            with suppress(OSError):
                os.unlink(_ABOUT, dir_fd=folder)
        with suppress(OSError):
            self.folder.rmdir()
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
        with ExitStack() as lock:
            try:
                lock.enter_context(file_lock(self._lock_file, wait=True))
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENXIO):
                    raise _SenselessError(f"{self._lock_file.name} is a link, or no file") from error
                raise
            yield


def _entry_names(folder: int) -> list[str]:
    names = filter(_ENTRY.fullmatch, os.listdir(folder))
    return sorted(names, key=lambda name: int(Path(name).stem))


def _read_entry(folder: int, name: str) -> _Entry:
    with _senseless_told(name):
        entry = _Entry.model_validate_json(read_plain_file(folder, name, _MOST_ENTRY_BYTES))
        check_entry(entry.kind, entry.content, has_files=entry.has_files)
    return entry


def _copy_files(folder: int, name: str, entry: _Entry, target: Path) -> Path | None:
    """Copy the files of an entry, if it has some; give the copy, of its only file or of a folder."""
    if not entry.has_files:
        return None
    with _senseless_told(name):
        copy_plain_files(folder, name, target / name, _MOST_FILES_BYTES)
    return target / name if entry.file is None else target / name / entry.file


@contextmanager
def _senseless_told(name: str) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise _SenselessError(f"{name}: {error.errors()[0]['msg']}") from error
    except (NotPlainError, ValueError) as error:
        raise _SenselessError(f"{name}: {error}") from error
    except OSError as error:
        if is_disk_full(error):
            raise
        raise _SenselessError(f"{name}: {error.strerror}") from error


def find_outboxes(folder: Path) -> list[Outbox]:
    """Give the outboxes in which something waits, in a folder at any depth or the folder itself, oldest first.

    No link below the folder is followed, and other folders that are called "outbox" are left alone.
    """
    places = list(_folders_below(folder))
    is_outbox = [place.parent.name == FOLDER and is_run_id(place.name) for place in places]
    found = [Outbox(place.parent.parent, place.name) for place in compress(places, is_outbox)]
    found.sort(key=lambda outbox: outbox.begun)
    return [outbox for outbox in found if outbox.num_waiting]


def _folders_below(folder: Path) -> Iterator[Path]:
    """Give a folder and all below it, however deep; others may remove some meanwhile."""
    left = [folder]
    while left:
        place = left.pop()
        yield place
        with suppress(OSError), os.scandir(place) as found:
            left += [place / each.name for each in found if each.is_dir(follow_symlinks=False)]


def deliver_all(folder: Path, say: Callable[[TrackingError], None] = log.warning) -> None:
    """Write all that waits in a folder, at any depth; of a run of which something cannot be delivered, what is before.

    Args:
        folder: of the runs.
        say: is told what cannot be delivered of a run; the others are.

    Raises:
        TrackingOutageError: if the store is still away.
    """
    for outbox in find_outboxes(folder):
        try:
            is_delivered = outbox.deliver(at_once=True)
        except TrackingError as error:
            say(error)
            continue
        if not is_delivered:
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
            "%s; %d entries of the record wait in %s; once the store is back, give:\n  %s",
            *(str(error).rpartition(";")[0], num_waiting, folder, _command_to_deliver(folder)),
        )


def _command_to_deliver(folder: Path) -> str:
    import mlflow

    uri = hide_passwords(absolute_uri(mlflow.get_tracking_uri()))
    named = [] if is_recorded_as(user_uri(None), uri) else [f"tracking.uri={uri}"]
    return shlex.join(["python", "-m", "cnn_sweeps.deliver", str(folder), *named])


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
