"""A run of this process: it is copied to MLflow while it goes on, and ends well even without MLflow."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cnn_sweeps.errors import DiskError, TrackingError, TrackingOutageError, UserError
from cnn_sweeps.system.files import disk_errors
from cnn_sweeps.system.patience import Backoff
from cnn_sweeps.text.passwords import hide_passwords
from cnn_sweeps.tracking.database.address import find_existing_store
from cnn_sweeps.tracking.dead_runs import close_dead_runs, tell_what_waits
from cnn_sweeps.tracking.projection import project
from cnn_sweeps.tracking.record.entry import STATE_TAG, Status, read_record
from cnn_sweeps.tracking.record.position import Position, read_position
from cnn_sweeps.tracking.record.record import Record
from cnn_sweeps.tracking.usage import command_to_predict, describe_page
from cnn_sweeps.tracking.views import TRAINING

log = logging.getLogger(__name__)


class LiveRun:
    """A record and its store. While the store is away, the run goes on and seldom asks it."""

    def __init__(self, folder: Path, uri: str) -> None:
        """Take the folder of the record, which may not exist yet, and the store's address."""
        self.record, self._uri, self.backoff = Record(folder), uri, Backoff()
        self._outage: TrackingOutageError | None = None
        self._is_refused = self._is_ending = False

    def start(self, *, may_be_away: bool, closes_others: bool = False) -> None:
        """Project the record at the start; with `closes_others` also end runs that dead processes left RUNNING.

        Raises:
            TrackingError: if the store refuses the run; also if it is away, unless it `may_be_away`.
        """
        try:
            self._bring(looks_first=may_be_away)
            if closes_others and (experiment_id := self._position.experiment_id):
                with self.backoff.noting_outages():
                    close_dead_runs(self._uri, experiment_id)
        except TrackingOutageError as error:
            if not may_be_away:
                raise
            self._note_outage(error)

    def _bring(self, *, looks_first: bool, wait: bool = True) -> None:
        with self.backoff.noting_outages():
            if looks_first and self._uri.startswith("http"):
                find_existing_store(self._uri)  # finds out soon; a request may take a minute
            project(self.record.folder, self._uri, wait=wait)

    @property
    def may_ask(self) -> bool:
        """Whether it is time to ask the store."""
        return self.backoff.is_over and not self._is_refused

    def catch_up(self, *, at_once: bool = False) -> None:
        """Project what is new, if it is time to ask the store or `at_once`."""
        if not (at_once or self.may_ask):
            return
        try:
            self._bring(looks_first=self._outage is not None, wait=at_once)
        except TrackingOutageError as error:
            self._note_outage(error)
        except TrackingError as error:
            if not self._is_refused:
                log.warning("%s", error)
            self._is_refused = True
        except DiskError as error:
            if at_once:
                log.warning("%s", error)
        else:
            if self._outage is not None:
                log.info("the tracking store is back and has all of the run")
            self._outage = None

    def brought_at_once(self) -> str | None:
        """Project what is new; return the run's id, or None if the store does not have all of the run."""
        self.catch_up(at_once=True)
        position = self._position
        return None if self._outage is not None or self._is_refused or position.is_gone else position.run_id

    def _note_outage(self, error: TrackingOutageError) -> None:
        if self._outage is None and not self._is_ending:
            reason = str(error).rpartition(";")[0]
            log.warning("%s; the run goes on, and its record waits in %s", reason, self.record.folder)
        self._outage = error

    @property
    def _position(self) -> Position:
        return read_position(self.record.folder, self._uri)

    @contextmanager
    def ending(self, log_file: Path, *, is_trial: bool = False) -> Iterator[None]:
        """Run a block that begins or resumes the record; then end the record as FINISHED, FAILED or KILLED.

        The log file is kept in any case. With `is_trial`, an error also sets the tag of the trial's state.
        """
        status: Status = "FAILED"
        tags: dict[str, str] = {}
        try:
            yield
            status = "FINISHED"
        except (KeyboardInterrupt, SystemExit):
            status = "KILLED"
            raise
        except Exception as error:
            tags = {STATE_TAG: "FAIL"} if is_trial else {}
            tags["error"] = hide_passwords(f"{type(error).__name__}: {error}")[:5000]
            raise
        finally:
            recorded = read_record(self.record.folder)
            if recorded is not None and recorded.begin.record == self.record.record_id and recorded.status is None:
                self._end(status, tags, log_file)

    def _end(self, status: Status, tags: dict[str, str], log_file: Path) -> None:
        try:
            if tags:
                self.record.log_tags(tags)
            if log_file.exists():
                self._keep_log(log_file)
            self.record.end(status)
        except UserError as error:
            log.warning("the run's end could not be recorded: %s", error)
        self._is_ending = True  # `tell_what_waits` says the same
        self.catch_up(at_once=True)
        self._is_ending = False
        if self._outage is not None:
            tell_what_waits(self.record.folder, self._uri, self._outage)

    def _keep_log(self, log_file: Path) -> None:
        """Keep the log file; each process that resumes a run has its own, in a folder of its own."""
        to = f"logs/{log_file.parent.absolute().name}"
        if not log_file.is_relative_to(self.record.folder):
            copy = self.record.folder / to / log_file.name
            with disk_errors(copy):
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(log_file, copy)
            log_file = copy
        self.record.log_files([log_file], to)

    def describe_next(self) -> list[str]:
        """Return lines with commands that use the run and its page's address; none while the store lacks a part."""
        if (run_id := self.brought_at_once()) is None:
            return []
        position, recorded = self._position, read_record(self.record.folder)
        lines = []
        if recorded is not None and recorded.model is not None:
            predict = command_to_predict(f"runs:/{run_id}/{recorded.model}", self._uri)
            lines = [predict.what, f"  {predict.command}"]
        page = f"#/experiments/{position.experiment_id}/runs/{position.run_id}?{TRAINING}"
        return [*lines, *describe_page("the run", page, self._uri)]
