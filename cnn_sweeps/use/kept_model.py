"""Loads a kept model without running code that was kept with it."""

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

_MOST_CHARACTERS = 2**20  # of the texts that describe a model; ours have 10,000, with a thousand classes 50,000
_CALLS = ("function", "Lambda")  # what Keras calls of a file's own choosing


@dataclass(frozen=True)
class KeptModel:
    """A network with what using it takes, of the same shape and classes."""

    network: keras.Model
    record: ModelFacts

    def outputs(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Give what the network gives for pixels (B, height, width, channels), 0 to 255: (B, 1), or (B, C)."""
        outputs: NDArray[np.float32] = np.asarray(self.network(images.astype(np.float32), training=False))
        return outputs


def load_kept_model(place: ModelPlace) -> KeptModel:
    """Load the network in Keras's safe mode, and its record; nothing of the model's folder is run or unpickled.

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
            f"model={place.name}: its network goes from {found[0]} to {found[1]}, its record says from {recorded[0]} "
            f"to {recorded[1]}; keep the model anew, with a training"
        )
    return KeptModel(network, record)


def exact_address(place: ModelPlace) -> str:
    """Give a model's name or, of an alias, which may move on, the address of its version.

    Raises:
        ModelError: if there is no such alias, or several have it.
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
    with TemporaryDirectory() as temporary:  # MLflow writes into what it gives, and a store is only read
        with store_errors():
            use_store(place.store)
            folder = _files_of(place.name).download_artifacts("", temporary)
        yield Path(folder)


def _files_of(name: str) -> Any:
    """Give MLflow's way to a model's files, having seen that it leads to no server that may not know the password."""
    address = name if name.startswith(ADDRESSES) else _with_alias(name)
    try:
        files = get_artifact_repository(_of_run(address) if address.startswith("runs:/") else address)
    except MlflowException as error:
        if not is_unknown(error) and address not in ADDRESSES:
            raise
        raise ModelError(f"model={name}: there is no such model; {_describe_registry()}") from error
    where = files
    while hasattr(where, "repo"):  # of a model or version: that of the folder where it lies
        where = where.repo
    check_place_of_files(where.artifact_uri)
    return files


def _with_alias(alias: str) -> str:
    """Give the address of the only registered model that has an alias."""
    holders = [model.name for model in mlflow.search_registered_models() if alias in model.aliases]
    if not holders:
        raise ModelError(f"model={alias}: there is no such alias; {_describe_registry()}; give {MODEL_FORMS}")
    if len(holders) > 1:
        raise ModelError(
            f"model={alias}: {', '.join(holders)} have this alias; write model=models:/{holders[0]}@{alias}"
        )
    return f"models:/{holders[0]}@{alias}"


def _of_run(address: str) -> str:
    """Give the address of the model that a run kept, which MLflow itself looks for among all of the experiment."""
    run_id, _, name = address.removeprefix("runs:/").partition("/")
    client = mlflow.MlflowClient()
    kept = models_of(client.get_run(run_id))
    if not kept or name not in ("model", client.get_logged_model(kept[-1]).name):
        raise ModelError(f"model={address}: this run kept no such model; of a sweep, the champion's run has one")
    return f"models:/{kept[-1]}"


def _describe_registry() -> str:
    names = [
        f"{model.name} ({', '.join(f'@{alias}' for alias in sorted(model.aliases)) or 'no alias'})"
        for model in mlflow.search_registered_models()
    ]
    return f"registered are {', '.join(names)}" if names else "no model is registered; a sweep registers its best one"


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
                f"model={name}: is of an earlier version of cnn-sweeps, whose networks take pixels in 0 to 1, not to "
                "255; use it with that version, or train anew"
            ) from error
        raise ModelError(
            f"model={name}: its {ABOUT_FILE} has no record by cnn-sweeps of classes and image size "
            f"({type(error).__name__}); give a model that a training of cnn-sweeps has kept"
        ) from error


def _load_network(file: Path, name: str) -> keras.Model:
    if not file.is_file():
        raise ModelError(f"model={name}: {KERAS_FILE} is not in it; keep the model anew, with a training")
    try:
        _check_description(file)
        return keras.saving.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # whatever Keras meets in a file that somebody may have changed
        reason = " ".join(str(error).split()).partition(". ")[0][:300]
        raise ModelError(
            f"model={name}: {KERAS_FILE} is damaged, or holds code or layers that are not Keras's own, which are not "
            f"loaded ({reason})"
        ) from error


def _check_description(file: Path) -> None:
    """See that a network's description names no function: Keras in its safe mode calls those of its own packages.

    Some of these fetch files, unpickle them or call further functions.

    Raises:
        ValueError: if it does, or names a class by way of a package, or is larger than descriptions are.
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
