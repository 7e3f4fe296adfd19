"""Keeps trained models in MLflow, and registers the champion."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import mlflow
import numpy as np
from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model as MlflowModel
from mlflow.models import ModelSignature
from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from cnn_sweeps.errors import TrackingError
from cnn_sweeps.system.files import disk_errors
from cnn_sweeps.system.libraries import slow_imports
from cnn_sweeps.tracking.page import INTERVAL, begin_note
from cnn_sweeps.tracking.record.entry import (
    EXAMPLE_FILE,
    MODEL_FILE,
    MODEL_FOLDER,
    MODEL_PACKAGES,
    RECORD_TAG,
    Data,
    Metrics,
    Model,
    read_entries,
)
from cnn_sweeps.tracking.record.record import Record
from cnn_sweeps.tracking.store import is_unknown, store_errors
from cnn_sweeps.tracking.usage import command_to_predict

if TYPE_CHECKING:
    import keras

RECORD_KEY = "cnn_sweeps"
"""The key of our facts in a model's MLflow metadata."""
KERAS_FILE = f"artifacts/{MODEL_FILE}"
"""The network's file in a model's folder."""


@dataclass(frozen=True)
class ModelFacts:
    """What a user of a model needs beside the network; kept with it."""

    class_names: Annotated[tuple[str, ...], Field(min_length=2)]  # with two, the network gives the second's probability
    image_shape: tuple[int, int, int]  # height, width, channels (1 or 3)
    decision_threshold: Annotated[float, Field(ge=0, le=1)] | None  # lowest for the second of two classes; None: 0.5
    pixels: Literal["0 to 255"]  # the network scales them; models of earlier versions take 0 to 1 and lack this


def log_model(record: Record, name: str, model: keras.Model, about: ModelFacts, example: NDArray[np.uint8]) -> None:
    """Keep a model with its run, for `predict`, for serving, and for Keras alone.

    The model has standard layers only. It takes pixels (B, height, width, channels), 0 to 255, such as `example`, and
    returns probabilities, (B, 1) for two classes, else (B, C).
    """
    folder = record.folder / MODEL_FOLDER
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / EXAMPLE_FILE, example.astype(np.float32))
    model.save(folder / MODEL_FILE)
    metadata = {RECORD_KEY: asdict(about)}
    requirements = [f"{package}=={version(package)}" for package in MODEL_PACKAGES]
    name = re.sub(r"[^\w-]", "-", name)[:100]  # MLflow refuses some other characters
    record.add(Model(name=name, metadata=metadata, num_outputs=model.output_shape[1], requirements=requirements))


def send_model(client: mlflow.MlflowClient, run_id: str, record_id: str, model: Model, files: Path) -> str:
    """Send a record's model, whose network and example are in a folder, to MLflow, unless it is there; return its id.

    The record's id, kept as a tag, tells whether it is there. A model that is there in part is completed.
    """
    run = client.get_run(run_id)
    experiment_id, tags = run.info.experiment_id, {RECORD_TAG: record_id}
    found = client.search_logged_models([experiment_id], f"tags.`{RECORD_TAG}` = '{record_id}'")
    logged = found[0] if found else client.create_logged_model(experiment_id, model.name, run_id, tags, run.data.params)
    if logged.status == LoggedModelStatus.READY:
        return str(logged.model_id)
    model_id, place = logged.model_id, logged.artifact_location
    about = MlflowModel(place, run_id, model_uuid=model_id, metadata=model.metadata, model_id=model_id)
    with tempfile.TemporaryDirectory() as folder:
        _save(Path(folder) / "model", about, model, files)
        client.log_model_artifacts(model_id, str(Path(folder) / "model"))
    if model_id not in models_of(run):
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
    client.finalize_logged_model(model_id, LoggedModelStatus.READY)
    return str(model_id)


def _save(target: Path, about: MlflowModel, model: Model, files: Path) -> None:
    # A signature has one type of elements, numbers or texts. With this one, MLflow accepts any array. The served model
    # itself tells encoded images from pixels, and refuses wrong shapes.
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("object"), (-1,))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, model.num_outputs))]),
        params=ParamSchema([ParamSpec("classes", DataType.boolean, default=False)]),  # names instead of probabilities
    )
    with slow_imports():  # MLflow runs the file of the served model, which imports Keras
        mlflow.pyfunc.save_model(
            path=target,
            mlflow_model=about,
            python_model=Path(__file__).with_name("served_model.py"),  # code, so that nothing is pickled
            artifacts={"model": os.fspath(files / MODEL_FILE)},
            signature=signature,
            input_example=np.load(files / EXAMPLE_FILE),
            pip_requirements=model.requirements,  # MLflow would take 30 s to find them out
        )
    for left in target.rglob("__pycache__"):
        shutil.rmtree(left, ignore_errors=True)


def measured_by(model_id: str, run_id: str, folder: Path) -> list[Metric]:
    """Return the final metrics in a record as metrics of the model and the data set, for MLflow's pages of both."""
    found, about = [], {"model_id": model_id, "run_id": run_id}
    for entry, _ in read_entries(folder):
        match entry:
            case Model():
                break
            case Data():
                about |= {"dataset_name": entry.name, "dataset_digest": entry.digest}
            case Metrics(epoch=0):
                found.append(entry)
    return [
        Metric(name, value, entry.time, 0, **about)
        for entry in found
        for name, value in entry.metrics.items()
        if not name.startswith(INTERVAL)
    ]


def models_of(run: Run) -> list[str]:
    """Return the ids of the models that a run has kept, the newest last."""
    return [each.model_id for each in (run.outputs.model_outputs if run.outputs else [])]


@store_errors()
def find_model(run_id: str) -> str:
    """Return the address of a run's newest model in the store in use, for `mlflow.pyfunc.load_model`."""
    if not (kept := models_of(mlflow.MlflowClient().get_run(run_id))):
        raise TrackingError(f"{run_id}: has no model in MLflow, since somebody removed it; give another run")
    return f"models:/{kept[-1]}"


@store_errors()
def register_champion(
    name: str, model_uri: str, tags: dict[str, str], value: float, measured: str, *, minimize: bool
) -> tuple[ModelVersion, str]:
    """Register a logged model as a new version; make it `champion` if there is none or it is better.

    The version's page shows what was measured and the command that predicts with it. Objectives are compared only if
    the tags `comparable.data` and `comparable.metric` are equal; otherwise the old champion stays. If a sweep chose the
    model by more than its objective (tag `chosen.by`), it replaces a champion of the same sweep without a comparison.

    Returns:
        The version, and what was done with the alias `champion`, to be said after it.
    """
    client, champion, tags = mlflow.MlflowClient(), None, tags | {"objective.value": repr(value)}
    try:
        champion = client.get_model_version_by_alias(name, "champion")
    except MlflowException as error:
        if not is_unknown(error):
            raise
    same_value = client.search_model_versions(f"tags.`objective.value` = '{value!r}'")
    # a process may have registered it and died before it noted that
    known = [each for each in same_value if each.name == name and each.tags == tags and each.source == model_uri]
    registered = known[0] if known else mlflow.register_model(model_uri, name, tags=tags)
    _describe_version(registered, measured)
    if champion and champion.version != registered.version:
        reason = _reason_to_stay(champion.tags, tags, value, minimize=minimize)
        if reason is not None:
            return registered, f"; version {champion.version} stays champion{reason}"
    client.set_registered_model_alias(name, "champion", registered.version)
    return registered, ", alias champion"


def address_of(version: ModelVersion) -> str:
    """Return the address of a registered model's version, for `mlflow.pyfunc.load_model` and `cnn_sweeps.predict`."""
    return f"models:/{version.name}/{version.version}"


def _describe_version(registered: ModelVersion, measured: str) -> None:
    predict = command_to_predict(address_of(registered), mlflow.get_tracking_uri())
    about = begin_note([measured], commands=[predict])
    mlflow.MlflowClient().update_model_version(registered.name, registered.version, about)


def _reason_to_stay(before: dict[str, str], now: dict[str, str], value: float, *, minimize: bool) -> str | None:
    """Return why a champion with these tags stays, as text after "stays champion"; None if it does not."""
    advice = "; to replace it, move the alias in MLflow, or set tracking.registered_model to another name"
    reached = _objective_value(before)
    if reached is None:
        return f": no sweep registered it, so its objective is unknown{advice}"
    for key, what in (("comparable.data", "other images, classes or split"), ("comparable.metric", "another metric")):
        if before.get(key) != now.get(key):
            known = before.get(key, "not recorded")
            return f": its objective was measured with {what} ({known}, now {now.get(key)}){advice}"
    if "chosen.by" in now and before.get("sweep.run_id") == now.get("sweep.run_id"):
        return None
    is_better = value < reached if minimize else value > reached
    return None if is_better else f" with {reached:.4g}"


@store_errors()
def register_beside(name: str, model_uri: str, tags: dict[str, str], measured: str, alias: str) -> str:
    """Register a logged model as a new version with its own alias; the champion stays. Return what was done."""
    registered = mlflow.register_model(model_uri, name, tags=tags)
    _describe_version(registered, measured)
    mlflow.MlflowClient().set_registered_model_alias(name, alias, registered.version)
    return f"registered as {name} version {registered.version}, alias {alias}"


def _objective_value(tags: dict[str, str]) -> float | None:
    """Return the objective in a version's tags, which anybody may have written; None if it is no number."""
    try:
        return float(tags["objective.value"])
    except (KeyError, ValueError):
        return None
