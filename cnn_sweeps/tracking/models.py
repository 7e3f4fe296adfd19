"""Trained models in MLflow, and the registry's champion."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cnn_sweeps.tracking.store import store_errors

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

_MODEL_REQUIREMENTS = ("keras", "tensorflow", "numpy")


@store_errors()
def log_model(model: keras.Model, input_shape: Sequence[int], example: NDArray[np.uint8]) -> str:
    """Keep the model with the run, with a signature and an example, loadable by `mlflow.pyfunc.load_model`.

    Args:
        model: of standard Keras layers; takes float32 (B, height, width, channels) in 0 to 1, gives probabilities.
        input_shape: height, width, channels.
        example: uint8, (1, height, width, channels).

    Returns:
        The model's address, as `mlflow.pyfunc.load_model` takes it.
    """
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("float32"), (-1, *input_shape))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, model.output_shape[1]))]),
    )
    # not mlflow.keras, which cannot save an input example (3.17)
    logged = mlflow.tensorflow.log_model(
        model,
        name="model",
        signature=signature,
        input_example=example.astype(np.float32) / 255,
        pip_requirements=[
            f"{package}=={version(package)}" for package in _MODEL_REQUIREMENTS
        ],  # else MLflow takes 30 s to find out
    )
    return str(logged.model_uri)


@store_errors()
def register_champion(name: str, model_uri: str, tags: dict[str, str], value: float, *, minimize: bool) -> str:
    """Register a logged model as a new version; make it `champion` unless that one has a better comparable value.

    Args:
        name: of the registered model.
        model_uri: of the logged model.
        tags: of the version; those values are comparable whose tags under "comparable." are equal.
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
    if champion is not None and _comparable(champion.tags) == _comparable(tags):
        before = float(champion.tags["objective.value"])
        if before <= value if minimize else before >= value:
            return (
                f"registered as {name} version {registered.version}; "
                f"version {champion.version} stays champion with {before:.4g}"
            )
    client.set_registered_model_alias(name, "champion", registered.version)
    return f"registered as {name} version {registered.version}, alias champion"


@store_errors()
def register_beside(name: str, model_uri: str, tags: dict[str, str], alias: str) -> str:
    """Register a logged model as a new version under an alias of its own, whatever the champion is; say so."""
    import mlflow

    registered = mlflow.register_model(model_uri, name, tags=tags)
    mlflow.MlflowClient().set_registered_model_alias(name, alias, registered.version)
    return f"registered as {name} version {registered.version}, alias {alias}"


def _comparable(tags: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in tags.items() if key.startswith("comparable.")}
