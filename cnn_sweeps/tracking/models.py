"""Trained models in MLflow, and the registry's champion."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from cnn_sweeps.tracking.entries import EXAMPLE_FILE, MODEL_FILE, MODEL_PACKAGES
from cnn_sweeps.tracking.outbox import write
from cnn_sweeps.tracking.store import store_errors

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

RECORD_KEY = "cnn_sweeps"
"""What a model's record is called in its MLflow metadata."""
KERAS_FILE = f"artifacts/{MODEL_FILE}"
"""Where in a model's folder its network is."""


@dataclass(frozen=True)
class ModelRecord:
    """What using a model takes beside the network; kept with it.

    Attributes:
        class_names: at least two; with exactly two, the network gives the probability of the second.
        image_shape: height, width, channels (1 or 3).
        decision_threshold: of two classes the second is chosen from this probability on, 0 to 1; None: from 0.5.
        pixels: what the network takes, which scales them itself. Those of before took 0 to 1, and do not say so.
    """

    class_names: Annotated[tuple[str, ...], Field(min_length=2)]
    image_shape: tuple[int, int, int]
    decision_threshold: Annotated[float, Field(ge=0, le=1)] | None
    pixels: Literal["0 to 255"]

    def as_metadata(self) -> dict[str, Any]:
        """Give it as MLflow keeps it: of plain lists, numbers and texts."""
        plain = asdict(self)
        return {
            RECORD_KEY: plain | {"class_names": list(map(str, self.class_names)), "image_shape": list(self.image_shape)}
        }


def log_model(model: keras.Model, record: ModelRecord, example: NDArray[np.uint8]) -> str | None:
    """Keep the model with the run, with its record and an example, to be used, served or loaded by Keras alone.

    Args:
        model: of standard Keras layers; takes (B, height, width, channels), 0 to 255, gives probabilities.
        record: what using it takes.
        example: uint8, (1, height, width, channels).

    Returns:
        The model's address, as `mlflow.pyfunc.load_model` takes it; None while it waits with the run's record.
    """
    content = {
        "metadata": record.as_metadata(),
        "num_outputs": model.output_shape[1],
        "requirements": [f"{package}=={version(package)}" for package in MODEL_PACKAGES],
    }
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / MODEL_FILE)
        np.save(Path(folder) / EXAMPLE_FILE, example.astype(np.float32))
        address: str | None = write("model", content, Path(folder))
    return address


@store_errors()
def register_champion(name: str, model_uri: str, tags: dict[str, str], value: float, *, minimize: bool) -> str:
    """Register a logged model as a new version; make it `champion` if there is none, or if its value is better.

    Values are compared only on the same data and metric: of another champion nothing can be said, and it stays.

    Args:
        name: of the registered model.
        model_uri: of the logged model.
        tags: of the version; `comparable.data` and `comparable.metric` say what the value is measured on and as.
        value: the objective.
        minimize: whether lower is better.

    Returns:
        What was done, for a person.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient()
    registered = mlflow.register_model(model_uri, name, tags=tags | {"objective.value": repr(value)})
    try:
        champion = client.get_model_version_by_alias(name, "champion")
    except MlflowException:
        champion = None
    told = f"registered as {name} version {registered.version}"
    if champion is not None and (reason := _reason_to_stay(champion.tags, tags, value, minimize=minimize)) is not None:
        return f"{told}; version {champion.version} stays champion{reason}"
    client.set_registered_model_alias(name, "champion", registered.version)
    return f"{told}, alias champion"


def _reason_to_stay(before: dict[str, str], now: dict[str, str], value: float, *, minimize: bool) -> str | None:
    """Say why a champion with these tags stays, after "stays champion"; None if the new value is better."""
    advice = "; to replace it, give the alias in MLflow, or set tracking.registered_model to another name"
    reached = _objective_value(before)
    if reached is None:
        return f": no sweep has registered it, so that its value is not known{advice}"
    for key, what in (("comparable.data", "other images, classes or split"), ("comparable.metric", "another metric")):
        if before.get(key) != now.get(key):
            known = before.get(key, "not recorded")
            return f": its value is of {what} ({known}, now {now.get(key)}){advice}"
    is_better = value < reached if minimize else value > reached
    return None if is_better else f" with {reached:.4g}"


@store_errors()
def register_beside(name: str, model_uri: str, tags: dict[str, str], alias: str) -> str:
    """Register a logged model as a new version under an alias of its own, whatever the champion is; say so."""
    import mlflow

    registered = mlflow.register_model(model_uri, name, tags=tags)
    mlflow.MlflowClient().set_registered_model_alias(name, alias, registered.version)
    return f"registered as {name} version {registered.version}, alias {alias}"


def _objective_value(tags: dict[str, str]) -> float | None:
    """Give the objective that a version's tags, which anybody may have written, tell; None if that is no number."""
    try:
        return float(tags["objective.value"])
    except (KeyError, ValueError):
        return None
