"""How far a record has been brought to MLflow, kept beside it: what a person deletes there stays deleted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from cnn_sweeps.system.files import disk_errors, replace_whole
from cnn_sweeps.system.plain_files import NotPlainError, opened_folder, read_plain_file
from cnn_sweeps.tracking.database.address import absolute_uri, is_recorded_as, uri_seen_from
from cnn_sweeps.tracking.record.entry import POSITION_FILE, Begin, RecordId, RunId, Uri, read_entries

_MOST_BYTES = 2**16


class Position(BaseModel):
    """How far a record has been brought to a store."""

    uri: Uri
    record: RecordId | None = None  # None: its run was there before
    run_id: RunId | None = None  # None: it is not made yet
    experiment_id: RunId | None = None
    whole_id: RunId | None = None  # of the run that it is a part of, or its own
    offset: Annotated[int, Field(ge=0)] = 0  # of the first entry that the store does not have, in bytes
    has_ended: bool = False  # with the last entry that it has
    is_gone: bool = False  # somebody has deleted the run there
    is_doubtful: bool = False  # it was asked to make the run and has not answered: it may still do so


def read_position(folder: Path, uri: str) -> Position:
    """Read how far a record has been brought to a store; from its beginning on if that is not known."""
    position = _read(folder)
    if position is not None and is_recorded_as(uri, absolute_uri(position.uri, folder)):
        return position
    return Position(uri=uri_seen_from(folder, uri))


def store_of_record(folder: Path, begin: Begin) -> str:
    """Give the address of the store that has a record, or is to have it, without a password.

    Whoever wrote the folder has put it there: nobody's password may go to it unless the user names it, too.
    """
    return absolute_uri((_read(folder) or begin).uri, folder)


def _read(folder: Path) -> Position | None:
    try:
        with opened_folder(folder) as opened:
            return Position.model_validate_json(read_plain_file(opened, POSITION_FILE, _MOST_BYTES))
    except (OSError, NotPlainError, ValidationError):
        return None


def num_waiting(folder: Path, uri: str) -> int:
    """Give the number of entries of a record that a store does not have; raises a SenselessError, as `read_entries`."""
    position = read_position(folder, uri)
    return 0 if position.is_gone else sum(1 for _ in read_entries(folder, position.offset))


def keep_position(folder: Path, position: Position) -> None:
    """Keep how far a record has been brought.

    Raises:
        DiskError: if it cannot be written; what was brought is brought again then, which changes nothing.
    """
    with disk_errors(folder / POSITION_FILE, "the same command"):
        replace_whole(folder / POSITION_FILE, position.model_dump_json().encode(), is_kept_at_once=False)
