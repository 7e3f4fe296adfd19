"""Finds the model that a command line names, and loads it without running code that was kept with it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from zipfile import ZipFile

from pydantic import TypeAdapter

from cnn_sweeps.errors import ConfigError, ModelError
from cnn_sweeps.settings.stored_config import parse_stored
from cnn_sweeps.tracking.address import find_existing_store
from cnn_sweeps.tracking.models import KERAS_FILE, RECORD_KEY, ModelRecord
from cnn_sweeps.tracking.store import check_place_of_files, registered_models, store_errors, unknown_as

if TYPE_CHECKING:
    import keras
    from mlflow import MlflowClient

MODEL_FORMS = "an alias (champion), models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/model, or a model's folder"
_ADDRESSES = ("models:/", "runs:/")
_ABOUT_FILE = "MLmodel"
_MOST_CHARACTERS = 2**20  # of the texts that describe a model; ours have 10,000, with a thousand classes 50,000
_CALLS = ("function", "Lambda")  # what Keras calls of a file's own choosing


@dataclass(frozen=True)
class KeptModel:
    """A network with what using it takes.

    Attributes:
        network: takes float32 (B, height, width, channels), 0 to 255, gives float32 (B, 1) or (B, C).
        record: of the same shape and classes.
    """

    network: keras.Model
    record: ModelRecord


def load_kept_model(text: str, uri: str | None) -> KeptModel:
    """Load the network in Keras's safe mode, and its record; nothing of the model's folder is run or unpickled.

    Args:
        text: which model: an alias, an address as MLflow has it, or the folder of an MLflow model, which goes before
            everything else.
        uri: of the tracking store; None: the environment's, or the default. For a folder none is needed.

    Raises:
        ModelError: if there is no such model, or it cannot be used.
        TrackingError: if the store cannot be used.
    """
    with _folder_of(text, uri) as folder:
        record = _read_record(folder, text)
        network = _load_network(folder / KERAS_FILE, text)
    units = 1 if len(record.class_names) == 2 else len(record.class_names)
    found = (getattr(network, "input_shape", None), getattr(network, "output_shape", None))
    recorded = ((None, *record.image_shape), (None, units))
    if found != recorded:
        raise ModelError(
            f"model={text}: its network goes from {found[0]} to {found[1]}, its record says from {recorded[0]} to "
            f"{recorded[1]}; keep the model anew, with a training"
        )
    return KeptModel(network, record)


@contextmanager
def _folder_of(text: str, uri: str | None) -> Iterator[Path]:
    own = Path(os.path.expanduser(text))  # noqa: PTH111  takes any text
    if (own / _ABOUT_FILE).is_file():
        yield own
        return
    if "/" in text and not text.startswith(_ADDRESSES):
        missing = f"there is no {_ABOUT_FILE} in it" if own.is_dir() else "there is no such folder"
        raise ModelError(f"model={text}: {missing}; give {MODEL_FORMS}")
    store = find_existing_store(uri)  # before MLflow is imported
    import mlflow

    with TemporaryDirectory() as temporary:  # MLflow writes into what it gives, and a store is only read
        with store_errors():
            mlflow.set_tracking_uri(store)
            client = mlflow.MlflowClient()
            address = text if text.startswith(_ADDRESSES) else _with_alias(text, client)
            with unknown_as(ModelError(f"model={text}: there is no such model; {_describe_registry(client)}")):
                files = _files_of(address, client)
                place = _place_of(files, client)
            check_place_of_files(place)
            folder = mlflow.artifacts.download_artifacts(artifact_uri=files, dst_path=temporary)
        yield Path(folder)


def _with_alias(alias: str, client: MlflowClient) -> str:
    """Give the address of the only registered model that has an alias."""
    holders = [model.name for model in registered_models(client) if alias in model.aliases]
    if not holders:
        raise ModelError(f"model={alias}: there is no such alias; {_describe_registry(client)}; give {MODEL_FORMS}")
    if len(holders) > 1:
        raise ModelError(
            f"model={alias}: {', '.join(holders)} have this alias; write model=models:/{holders[0]}@{alias}"
        )
    return f"models:/{holders[0]}@{alias}"


def _files_of(address: str, client: MlflowClient) -> str:
    """Give where a model's files are in the store, of an address as MLflow has it: of a version, an alias, or a run."""
    kind, _, named = address.partition(":/")
    if kind == "runs":
        run = client.get_run(named.partition("/")[0])
        if named != f"{run.info.run_id}/model" or not (run.outputs and run.outputs.model_outputs):
            raise ModelError(f"model={address}: this run kept no such model; of a sweep, the champion's run has one")
        return f"models:/{run.outputs.model_outputs[-1].model_id}"
    name, at, alias = named.rpartition("@")
    if at:
        return client.get_model_version_download_uri(name, client.get_model_version_by_alias(name, alias).version)
    name, _, version = named.rpartition("/")
    return client.get_model_version_download_uri(name, version) if name else address


def _place_of(files: str, client: MlflowClient) -> str:
    """Give the folder on a disk or server that the store names for a model's files."""
    is_model = files.startswith("models:/")
    return str(client.get_logged_model(files.removeprefix("models:/")).artifact_location) if is_model else files


def _describe_registry(client: MlflowClient) -> str:
    names = [
        f"{model.name} ({', '.join(f'@{alias}' for alias in sorted(model.aliases)) or 'no alias'})"
        for model in registered_models(client)
    ]
    return f"registered are {', '.join(names)}" if names else "no model is registered; a sweep registers its best one"


def _read_record(folder: Path, text: str) -> ModelRecord:
    try:
        with (folder / _ABOUT_FILE).open(encoding="utf-8") as file:
            about = parse_stored(file.read(_MOST_CHARACTERS + 1), text, _MOST_CHARACTERS)
        record = about["metadata"][RECORD_KEY]
        is_of_before = "class_names" in record and "pixels" not in record
        kept = None if is_of_before else TypeAdapter(ModelRecord).validate_python(record)
    except (OSError, ValueError, ConfigError, LookupError, TypeError) as error:
        raise ModelError(
            f"model={text}: its {_ABOUT_FILE} has no record by cnn-sweeps of classes and image size "
            f"({type(error).__name__}); give a model that a training of cnn-sweeps has kept"
        ) from error
    if kept is None:
        raise ModelError(
            f"model={text}: is of an earlier version of cnn-sweeps, whose networks take pixels in 0 to 1, not to 255; "
            "use it with that version, or train anew"
        )
    return kept


def _load_network(file: Path, text: str) -> keras.Model:
    import keras

    if not file.is_file():
        raise ModelError(f"model={text}: {KERAS_FILE} is not in it; keep the model anew, with a training")
    try:
        _check_description(file)
        return keras.saving.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # whatever Keras meets in a file that somebody may have changed
        reason = " ".join(str(error).split()).partition(". ")[0][:300]
        raise ModelError(
            f"model={text}: {KERAS_FILE} is damaged, or holds code or layers that are not Keras's own, which are not "
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
