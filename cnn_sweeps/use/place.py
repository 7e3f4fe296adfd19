"""Finds the model that a command line names, or that a run has kept, before slow imports."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cnn_sweeps.errors import ModelError
from cnn_sweeps.tracking.database.address import find_existing_store
from cnn_sweeps.tracking.record.entry import Model, read_entries, read_record
from cnn_sweeps.tracking.record.position import read_position, store_of_record

MODEL_FORMS = "an alias (champion), models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/NAME, or a model's folder"
ADDRESSES = ("models:/", "runs:/")
ABOUT_FILE = "MLmodel"


@contextmanager
def naming(setting: str) -> Iterator[None]:
    """Let errors about a model name another setting than `model`."""
    try:
        yield
    except ModelError as error:
        raise ModelError(str(error).replace("model=", f"{setting}=")) from error


class ModelPlace(NamedTuple):
    """Where a model is."""

    name: str  # as on the command line: an alias, an address of MLflow, or a folder
    folder: Path | None  # of an MLflow model; None: the model is in the store
    store: str = ""  # the address of the store; empty for a folder


def find_place(name: str, uri: str | None) -> ModelPlace:
    """Find the folder or the store that has a model; `uri` is that of the store, None: the user's.

    Raises:
        ModelError: if the name is that of a folder, and there is no model in it.
        TrackingError: if the store cannot be used.
    """
    folder = Path(os.path.expanduser(name))  # noqa: PTH111  takes any text
    if (folder / ABOUT_FILE).is_file():
        return ModelPlace(name, folder)
    if "/" in name and not name.startswith(ADDRESSES):
        missing = f"there is no {ABOUT_FILE} in it" if folder.is_dir() else "there is no such folder"
        raise ModelError(f"model={name}: {missing}; give {MODEL_FORMS}")
    return ModelPlace(name, None, find_existing_store(uri))


def kept_by(folder: Path) -> ModelPlace:
    """Find the newest model that a run has kept; its record is in the folder, those of its trials or parts below.

    Raises:
        ModelError: if there is none, or the store does not have it.
        TrackingError: if a record makes no sense.
    """
    newest = (0, "", "")
    for place in [folder, *(each for each in folder.iterdir() if each.is_dir())]:
        recorded = read_record(place)
        if recorded is not None and any(isinstance(entry, Model) for entry, _ in read_entries(place)):
            store = store_of_record(place, recorded.begin)
            newest = max(newest, (recorded.last_time, read_position(place, store).run_id or "", store))
    _, run_id, store = newest
    if not run_id:
        raise ModelError(f"{folder}: this run kept no model; train with tracking.log_model=true")
    return ModelPlace(f"runs:/{run_id}/model", None, store)
