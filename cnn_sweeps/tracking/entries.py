"""What a run's record is made of, each entry as plain JSON and perhaps files, so that it can be written later too.

An entry that is written twice leaves what one leaves, in MLflow's SQL stores and among its files: a metric's value is
known by its name, epoch and time, and all else takes its own place again. Only a model is logged as another one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, Field

from cnn_sweeps.system.plain_files import check_plain_name
from cnn_sweeps.tracking.store import check_place_of_files

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODEL_FILE, EXAMPLE_FILE = "model.keras", "example.npy"
"""The files of a model's entry: the network, and float32 (1, height, width, channels), 0 to 255."""

MODEL_PACKAGES = ("keras", "tensorflow", "numpy")
"""What a model's entry may require."""

Content = dict[str, Any]


def check_entry(kind: str, content: Content, *, has_files: bool) -> None:
    """See that an entry that was read from a file is one that this program writes.

    Raises:
        ValueError: if it is not.
    """
    if kind not in _CONTENTS:
        raise ValueError(f"{kind[:40]!r} is no kind of entry")
    _CONTENTS[kind].model_validate(content)
    if has_files != (kind in ("files", "model")):
        raise ValueError(f"an entry of {kind} {'has no' if has_files else 'has'} files")


def write_entry(run_id: str, kind: str, content: Content, files: Path | None) -> Any:
    """Write to a run of MLflow's tracking store.

    Args:
        run_id: of the run, which may have ended.
        kind: a key of the table below.
        content: of JSON types; see the function of that kind.
        files: a file, or a folder; of some kinds.

    Returns:
        Of a model, its address.

    Raises:
        MlflowException, OSError: if that cannot be done.
        TrackingError: if the store has its files where the user's password may not go.
    """
    from mlflow import MlflowClient

    client = MlflowClient()
    if files is not None:
        check_place_of_files(client.get_run(run_id).info.artifact_uri)
    return _WRITERS[kind](client, run_id, content, files)


def _write_metrics(client: MlflowClient, run_id: str, content: Content, _files: Path | None) -> None:
    """`metrics`: a list of name, value, time in ms since 1970, epoch."""
    from mlflow.entities import Metric

    client.log_batch(run_id, metrics=[Metric(*each) for each in content["metrics"]])


def _write_params(client: MlflowClient, run_id: str, content: Content, _files: Path | None) -> None:
    """`params`: by key."""
    from mlflow.entities import Param

    client.log_batch(run_id, params=[Param(*each) for each in content["params"].items()])


def _write_tags(client: MlflowClient, run_id: str, content: Content, _files: Path | None) -> None:
    """`tags`: by key."""
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(*each) for each in content["tags"].items()])


def _write_data(client: MlflowClient, run_id: str, content: Content, _files: Path | None) -> None:
    """`dataset`: as MLflow describes one; `context`: what it is for."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    context = InputTag("mlflow.data.context", content["context"])
    client.log_inputs(run_id, datasets=[DatasetInput(Dataset(**content["dataset"]), tags=[context])])


def _write_files(client: MlflowClient, run_id: str, content: Content, files: Path | None) -> None:
    """`path`: of the folder among the run's artifacts; None: the topmost."""
    assert files is not None
    if files.is_dir():
        client.log_artifacts(run_id, str(files), content["path"])
    else:
        client.log_artifact(run_id, str(files), content["path"])


def _write_end(client: MlflowClient, run_id: str, content: Content, _files: Path | None) -> None:
    """`status`: FINISHED, FAILED or KILLED; `end_time`: in ms since 1970."""
    client.set_terminated(run_id, content["status"], content["end_time"])


def _write_model(client: MlflowClient, run_id: str, content: Content, files: Path | None) -> str:
    """`metadata`: kept with it; `num_outputs`: numbers for each image; `requirements`: as pip takes them."""
    import mlflow
    from mlflow.models import Model, ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    assert files is not None
    # A signature has one type of elements, pixels or texts. This one MLflow lets any array through, so that the model
    # itself tells encoded images from pixels, and refuses wrong shapes.
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("object"), (-1,))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, content["num_outputs"]))]),
        params=ParamSchema([ParamSpec("classes", DataType.boolean, default=False)]),  # names instead of probabilities
    )
    if mlflow.active_run() is None:  # MLflow takes the experiment from what is active
        mlflow.set_experiment(experiment_id=client.get_run(run_id).info.experiment_id)
    logged = Model.log(
        artifact_path=None,
        name="model",
        flavor=mlflow.pyfunc,
        run_id=run_id,
        python_model=Path(__file__).with_name("served_model.py"),  # code, so that nothing is pickled
        artifacts={"model": os.fspath(files / MODEL_FILE)},
        signature=signature,
        input_example=np.load(files / EXAMPLE_FILE),
        metadata=content["metadata"],
        pip_requirements=content["requirements"],  # else MLflow takes 30 s to find out
    )
    return str(logged.model_uri)


def _check_folder(path: str) -> str:
    return "/".join(map(check_plain_name, path.split("/")))


_Milliseconds = Annotated[int, Field(ge=0, lt=2**53)]
_Requirement = Annotated[str, Field(pattern=rf"^({'|'.join(MODEL_PACKAGES)})==[\w.+!-]+$")]


class _Metrics(BaseModel):
    metrics: list[tuple[str, float, _Milliseconds, Annotated[int, Field(ge=-(2**53), lt=2**53)]]]


class _Params(BaseModel):
    params: dict[str, str]


class _Tags(BaseModel):
    tags: dict[str, str]


class _Data(BaseModel):
    dataset: dict[str, str | None]
    context: str


class _Files(BaseModel):
    path: Annotated[str, AfterValidator(_check_folder)] | None


class _End(BaseModel):
    status: Literal["FINISHED", "FAILED", "KILLED"]
    end_time: _Milliseconds


class _Model(BaseModel):
    metadata: dict[str, Any]
    num_outputs: Annotated[int, Field(ge=1)]
    requirements: list[_Requirement]


_CONTENTS: dict[str, type[BaseModel]] = {
    "metrics": _Metrics,
    "params": _Params,
    "tags": _Tags,
    "data": _Data,
    "files": _Files,
    "end": _End,
    "model": _Model,
}
_WRITERS: dict[str, Callable[[MlflowClient, str, Content, Path | None], Any]] = {
    "metrics": _write_metrics,
    "params": _write_params,
    "tags": _write_tags,
    "data": _write_data,
    "files": _write_files,
    "end": _write_end,
    "model": _write_model,
}
