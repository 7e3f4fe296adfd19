"""What a run leaves in MLflow."""

from __future__ import annotations

import logging
import os
import platform
import shlex
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cnn_sweeps.config import TrackingConfig
from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.errors import TrackingError
from cnn_sweeps.locks import file_lock

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

_SQLITE = "sqlite:///"
_PACKAGES = ("cnn-sweeps", "tensorflow", "keras", "mlflow", "numpy")
_MODEL_REQUIREMENTS = ("keras", "tensorflow", "numpy")


def find_store(config: TrackingConfig) -> str:
    """Give the tracking URI, having looked whether something can answer there; imports nothing slow.

    Raises:
        TrackingError: if the server does not answer, or the database's folder does not exist.
    """
    uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}mlflow.db"
    if uri.startswith(("http://", "https://")):
        try:
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5):
                pass
        except urllib.error.HTTPError:
            pass  # it answers; what it thinks of /health is its own affair
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise TrackingError(
                f"tracking.uri={uri}: the tracking server does not answer ({reason}); "
                "start it, correct the address, or set tracking.uri=sqlite:///mlflow.db"
            ) from error
    elif uri.startswith(_SQLITE) and not Path(uri.removeprefix(_SQLITE)).absolute().parent.is_dir():
        raise TrackingError(f"tracking.uri={uri}: the folder of the database does not exist; make it or name another")
    return uri


@contextmanager
def tracked_run(
    uri: str,
    config: TrackingConfig,
    name: str,
    settings: dict[str, Any],
    resumed_run_id: str | None,
    log_file: Path,
) -> Iterator[str]:
    """Record the block as one MLflow run and give its id; it ends FINISHED, FAILED by an error or KILLED by a signal.

    Args:
        uri: of the tracking store.
        config: experiment and run name.
        name: of the run if `config` has none.
        settings: logged as parameters.
        resumed_run_id: go on with this run if the store still has it.
        log_file: kept with the run when it ends, whatever its end.

    Raises:
        TrackingError: if the store cannot be used.
    """
    import mlflow

    run_id = _start_run(uri, config, name, settings, resumed_run_id)
    status = "FAILED"
    try:
        yield run_id
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        try:
            if log_file.exists():
                mlflow.log_artifact(str(log_file))
        finally:
            mlflow.end_run(status)


def log_data(dataset: ImageDataset, counts: dict[str, dict[str, int]]) -> None:
    """Record the data set with its fingerprint, and the number of images of each class in each split."""
    import mlflow
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    source = CodeDatasetSource(tags={"source": dataset.source})
    mlflow.log_input(
        MetaDataset(source, name=dataset.name, digest=dataset.fingerprint),  # type: ignore[abstract]
        context="train, val, test",
    )
    mlflow.set_tag("data.fingerprint", dataset.fingerprint)
    mlflow.log_dict({"source": dataset.source, "fingerprint": dataset.fingerprint, "images": counts}, "data.json")


def log_metrics(metrics: dict[str, float], step: int) -> None:
    """Record the metrics under an epoch, counted from 1."""
    import mlflow

    mlflow.log_metrics(metrics, step=step)


def log_files(folder: Path) -> None:
    """Keep the files of a folder with the run."""
    import mlflow

    mlflow.log_artifacts(str(folder))


def log_model(model: keras.Model, input_shape: Sequence[int], example: NDArray[np.uint8]) -> None:
    """Keep the model with the run, with a signature and an example, loadable by `mlflow.pyfunc.load_model`.

    Args:
        model: of standard Keras layers; takes float32 (B, height, width, channels) in 0 to 1, gives probabilities.
        input_shape: height, width, channels.
        example: uint8, (1, height, width, channels).
    """
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("float32"), (-1, *input_shape))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, model.output_shape[1]))]),
    )
    # not mlflow.keras, which cannot save an input example (3.17)
    mlflow.tensorflow.log_model(
        model,
        name="model",
        signature=signature,
        input_example=example.astype(np.float32) / 255,
        pip_requirements=[
            f"{package}=={version(package)}" for package in _MODEL_REQUIREMENTS
        ],  # else MLflow takes 30 s to find out
    )


def _start_run(
    uri: str, config: TrackingConfig, name: str, settings: dict[str, Any], resumed_run_id: str | None
) -> str:
    import mlflow
    from mlflow.exceptions import MlflowException

    is_sqlite = uri.startswith(_SQLITE)
    lock = file_lock(Path(uri.removeprefix(_SQLITE) + ".lock"), wait=True) if is_sqlite else nullcontext()
    mlflow.set_tracking_uri(uri)
    try:
        with lock:  # two processes that make the database or the experiment at once get in each other's way
            experiment_id = mlflow.set_experiment(config.experiment_name).experiment_id
        if resumed_run_id is not None and _has_run(resumed_run_id):
            mlflow.start_run(resumed_run_id)
            mlflow.set_tag("resumed", "true")
            return resumed_run_id
        run = mlflow.start_run(
            experiment_id=experiment_id,
            run_name=config.run_name or name,
            tags=_tags(),
            log_system_metrics=False,
        )
        mlflow.log_params(settings)
    except (MlflowException, OSError) as error:
        raise TrackingError(f"tracking.uri={uri}: cannot be used ({' '.join(str(error).split())})") from error
    return str(run.info.run_id)


def _has_run(run_id: str) -> bool:
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        return bool(mlflow.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException:
        return False


def _tags() -> dict[str, str]:
    tags = {f"version.{package}": version(package) for package in _PACKAGES}
    tags["version.python"] = platform.python_version()
    tags["platform"] = platform.platform()
    tags["host"] = socket.gethostname()
    tags["command"] = shlex.join(["python", *sys.orig_argv[1:]])
    return tags | _git_tags()


def _git_tags() -> dict[str, str]:
    """Commit of the code in the working folder and whether files differ from it; nothing outside a git checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {
            "git.commit": git("rev-parse", "HEAD"),
            "git.dirty": str(bool(git("status", "--porcelain"))).lower(),
        }
    except (OSError, subprocess.SubprocessError):
        return {}
