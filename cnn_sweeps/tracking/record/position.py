"""How far a record has been brought to MLflow, kept in `projected.json` beside it.

So a record is not brought twice, and what a person deletes in MLflow stays deleted.
"""

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
    record: RecordId | None = None  # None: the run existed before the record
    run_id: RunId | None = None  # None: the store has not made the run yet
    experiment_id: RunId | None = None
    whole_id: RunId | None = None  # of the run that this one is a part of, or its own id
    offset: Annotated[int, Field(ge=0)] = 0  # of the first entry that the store lacks, in bytes
    has_ended: bool = False  # whether the store has the run's end
    is_gone: bool = False  # somebody has deleted the run in the store
    is_doubtful: bool = False  # the store did not answer a request to make the run, and may have made it


def read_position(folder: Path, uri: str) -> Position:
    """Read how far a record has been brought to a store; the beginning of the record if that is unknown."""
    position = _read(folder)
    if position is not None and is_recorded_as(uri, absolute_uri(position.uri, folder)):
        return position
    return Position(uri=uri_seen_from(folder, uri))


def store_of_record(folder: Path, begin: Begin) -> str:
    """Return the address of a record's store, without a password.

    Anybody may have written the folder. So no password may go to this address unless the user gives it, too.
    """
    return absolute_uri((_read(folder) or begin).uri, folder)


def _read(folder: Path) -> Position | None:
    try:
        with opened_folder(folder) as opened:
            return Position.model_validate_json(read_plain_file(opened, POSITION_FILE, _MOST_BYTES))
    except (OSError, NotPlainError, ValidationError):
        return None


def num_waiting(folder: Path, uri: str) -> int:
    """Return the number of entries of a record that a store lacks; raises what `read_entries` raises."""
    position = read_position(folder, uri)
    return 0 if position.is_gone else sum(1 for _ in read_entries(folder, position.offset))


def keep_position(folder: Path, position: Position) -> None:
    """Keep how far a record has been brought.

    Raises:
        DiskError: if it cannot be written; then some entries are brought again, which changes nothing.
    """
    with disk_errors(folder / POSITION_FILE):
        replace_whole(folder / POSITION_FILE, position.model_dump_json().encode(), is_kept_at_once=False)
