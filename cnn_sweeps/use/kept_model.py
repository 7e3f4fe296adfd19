"""Loads a kept model without running code from its files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile

import keras
import mlflow
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from numpy.typing import NDArray
from pydantic import TypeAdapter

from cnn_sweeps.errors import ConfigError, ModelError
from cnn_sweeps.settings.stored_config import parse_stored
from cnn_sweeps.tracking.models import KERAS_FILE, RECORD_KEY, ModelFacts, models_of
from cnn_sweeps.tracking.store import check_place_of_files, is_unknown, store_errors, use_store
from cnn_sweeps.use.place import ABOUT_FILE, ADDRESSES, MODEL_FORMS, ModelPlace

_MOST_CHARACTERS = 2**20  # of a text that describes a model; ours have 10,000, with a thousand classes 50,000
_CALLS = ("function", "Lambda")  # class names for which Keras would call a function that the file names


@dataclass(frozen=True)
class KeptModel:
    """A network and the facts to use it; their shapes and classes agree."""

    network: keras.Model
    record: ModelFacts

    def outputs(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Run the network on pixels (B, height, width, channels), 0 to 255; return its outputs, (B, 1) or (B, C)."""
        outputs: NDArray[np.float32] = np.asarray(self.network(images.astype(np.float32), training=False))
        return outputs


def load_kept_model(place: ModelPlace) -> KeptModel:
    """Load a network in Keras's safe mode, and its facts; nothing in the model's folder is run or unpickled.

    Raises:
        ModelError: if there is no such model, or it cannot be used.
        TrackingError: if the store cannot be used.
    """
    with _folder_of(place) as folder:
        record = _read_record(folder, place.name)
        network = _load_network(folder / KERAS_FILE, place.name)
    units = 1 if len(record.class_names) == 2 else len(record.class_names)
    found = (getattr(network, "input_shape", None), getattr(network, "output_shape", None))
    recorded = ((None, *record.image_shape), (None, units))
    if found != recorded:
        raise ModelError(
            f"model={place.name}: its network has input {found[0]} and output {found[1]}, but its description says "
            f"{recorded[0]} and {recorded[1]}; train again, or use another model"
        )
    return KeptModel(network, record)


def exact_address(place: ModelPlace) -> str:
    """Return an address of a model that does not change: an alias, which may move, is replaced by its version.

    Raises:
        ModelError: if there is no such alias, or several models have it.
        TrackingError: if the store cannot be used.
    """
    if place.folder is not None or place.name.startswith("runs:/"):
        return place.name
    with store_errors():
        use_store(place.store)
        address = place.name if place.name.startswith(ADDRESSES) else _with_alias(place.name)
        name, at, alias = address.removeprefix("models:/").partition("@")
        if not at:
            return address
        return f"models:/{name}/{mlflow.MlflowClient().get_model_version_by_alias(name, alias).version}"


@contextmanager
def _folder_of(place: ModelPlace) -> Iterator[Path]:
    if place.folder is not None:
        yield place.folder
        return
    with TemporaryDirectory() as temporary:  # MLflow writes into the model's folder, and the store is only read
        with store_errors():
            use_store(place.store)
            folder = _files_of(place.name).download_artifacts("", temporary)
        yield Path(folder)


def _files_of(name: str) -> Any:
    """Return MLflow's repository of a model's files, after checking that it sends no password to another server."""
    address = name if name.startswith(ADDRESSES) else _with_alias(name)
    try:
        files = get_artifact_repository(_of_run(address) if address.startswith("runs:/") else address)
    except MlflowException as error:
        if not is_unknown(error) and address not in ADDRESSES:
            raise
        raise ModelError(f"model={name}: there is no such model; {_describe_registry()}") from error
    where = files
    while hasattr(where, "repo"):  # the repository of a model or version wraps that of its folder
        where = where.repo
    check_place_of_files(where.artifact_uri)
    return files


def _with_alias(alias: str) -> str:
    """Return the address of the only registered model with this alias."""
    holders = [model.name for model in mlflow.search_registered_models() if alias in model.aliases]
    if not holders:
        raise ModelError(f"model={alias}: there is no such alias; {_describe_registry()}; give {MODEL_FORMS}")
    if len(holders) > 1:
        raise ModelError(
            f"model={alias}: {', '.join(holders)} have this alias; give model=models:/{holders[0]}@{alias}"
        )
    return f"models:/{holders[0]}@{alias}"


def _of_run(address: str) -> str:
    """Return the address of the model that a run kept; MLflow would search all models of the experiment."""
    run_id, _, name = address.removeprefix("runs:/").partition("/")
    client = mlflow.MlflowClient()
    kept = models_of(client.get_run(run_id))
    if not kept or name not in ("model", client.get_logged_model(kept[-1]).name):
        raise ModelError(f"model={address}: this run kept no such model; that of a sweep is in its chosen trial's run")
    return f"models:/{kept[-1]}"


def _describe_registry() -> str:
    names = [
        f"{model.name} ({', '.join(f'@{alias}' for alias in sorted(model.aliases)) or 'no alias'})"
        for model in mlflow.search_registered_models()
    ]
    return f"registered are {', '.join(names)}" if names else "no model is registered; a sweep registers its best model"


def _read_record(folder: Path, name: str) -> ModelFacts:
    record = None
    try:
        with (folder / ABOUT_FILE).open(encoding="utf-8") as file:
            about = parse_stored(file.read(_MOST_CHARACTERS + 1), name, _MOST_CHARACTERS)
        record = about["metadata"][RECORD_KEY]
        return TypeAdapter(ModelFacts).validate_python(record)
    except (OSError, ValueError, ConfigError, LookupError, TypeError) as error:
        if isinstance(record, dict) and "class_names" in record and "pixels" not in record:
            raise ModelError(
                f"model={name}: was made by an earlier version of cnn-sweeps, whose networks take pixels from 0 to 1; "
                "use it with that version, or train again"
            ) from error
        raise ModelError(
            f"model={name}: its {ABOUT_FILE} does not have the classes and the image size that cnn-sweeps writes "
            f"({type(error).__name__}); give a model that a training of cnn-sweeps has kept"
        ) from error


def _load_network(file: Path, name: str) -> keras.Model:
    if not file.is_file():
        raise ModelError(f"model={name}: it has no {KERAS_FILE}; train again, or use another model")
    try:
        _check_description(file)
        return keras.saving.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # a changed file may make Keras raise anything
        reason = " ".join(str(error).split()).partition(". ")[0][:300]
        raise ModelError(
            f"model={name}: {KERAS_FILE} is damaged, or has code or layers that are not Keras's own ({reason}); only "
            "Keras's layers are loaded; use another model"
        ) from error


def _check_description(file: Path) -> None:
    """Check that a network's description names no function.

    Even in safe mode, Keras calls functions of its own packages that a file names. Some of these download files,
    unpickle them, or call other functions.

    Raises:
        ValueError: if it names a function, or a class with a package before it, or is too large.
    """
    with ZipFile(file) as archive, archive.open("config.json") as config:
        text = config.read(_MOST_CHARACTERS + 1)
    if len(text) > _MOST_CHARACTERS:
        raise ValueError(f"its description has more than {_MOST_CHARACTERS:,} bytes")
    left = [json.loads(text)]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            name = part.get("class_name", "_")
            if not (isinstance(name, str) and name.isidentifier()) or name in _CALLS:
                raise ValueError(f"it names {str(name)[:40]!r}")
        left += part.values() if isinstance(part, dict) else part if isinstance(part, list) else []
