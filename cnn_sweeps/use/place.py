"""Where the model is that a command line names: found before anything slow is imported."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cnn_sweeps.errors import ModelError
from cnn_sweeps.tracking.address import find_existing_store

MODEL_FORMS = "an alias (champion), models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/model, or a model's folder"
ADDRESSES = ("models:/", "runs:/")
ABOUT_FILE = "MLmodel"


@contextmanager
def naming(setting: str) -> Iterator[None]:
    """Have what is wrong with a model named by another setting than `model`."""
    try:
        yield
    except ModelError as error:
        raise ModelError(str(error).replace("model=", f"{setting}=")) from error


class ModelPlace(NamedTuple):
    """Where a model is."""

    name: str  # as the command line has it: an alias, an address as MLflow has it, or a folder
    folder: Path | None  # of an MLflow model, which goes before everything else; None: it is in the store
    store: str = ""  # its address; for a folder none is needed


def find_place(name: str, uri: str | None) -> ModelPlace:
    """Find the folder or the store that has a model; `uri` of the store, None: the environment's, or the default.

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
