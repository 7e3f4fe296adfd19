"""What a run leaves in MLflow."""

from __future__ import annotations

import logging
import os
import platform
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.errors import TrackingError
from cnn_sweeps.locks import file_lock
from cnn_sweeps.owners import has_owner_died, owner_tags
from cnn_sweeps.schema import TrackingConfig

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

_SQLITE = "sqlite:///"
_PACKAGES = ("cnn-sweeps", "tensorflow", "keras", "mlflow", "numpy")
_GIT: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 10}
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
def _store_errors() -> Iterator[None]:
    """Tell what MLflow or its store could not do in one line."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError, ImportError) as error:
        raise TrackingError(
            f"tracking.uri={mlflow.get_tracking_uri()}: cannot be used ({' '.join(str(error).split())}); "
            "repair it or name another"
        ) from error


@contextmanager
def tracked_run(
    uri: str, config: TrackingConfig, name: str, settings: dict[str, Any], resumed_run_id: str | None, log_file: Path
) -> Iterator[str]:
    """Record the block as one MLflow run and give its id; it ends FINISHED, FAILED by an error or KILLED by a signal.

    Runs that this host's ended processes left RUNNING in the experiment are closed as KILLED first.

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

    status = "FAILED"
    try:
        with _store_errors():
            run_id = _start_run(uri, config, name, settings, resumed_run_id)
        yield run_id
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    except Exception as error:
        _note_error(error)
        raise
    finally:
        if mlflow.active_run() is not None:
            _keep_log(log_file)
            mlflow.end_run(status)


@_store_errors()
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


@_store_errors()
def log_metrics(metrics: dict[str, float], step: int) -> None:
    """Record the metrics under an epoch, counted from 1."""
    import mlflow

    mlflow.log_metrics(metrics, step=step)


@_store_errors()
def log_files(folder: Path) -> None:
    """Keep the files of a folder with the run."""
    import mlflow

    mlflow.log_artifacts(str(folder))


@_store_errors()
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

    mlflow.set_tracking_uri(uri)
    is_sqlite = uri.startswith(_SQLITE)
    lock = file_lock(Path(uri.removeprefix(_SQLITE) + ".lock"), wait=True) if is_sqlite else nullcontext()
    with lock:  # two processes that make the database or the experiment at once get in each other's way
        if resumed_run_id is not None and _has_run(resumed_run_id):
            mlflow.start_run(resumed_run_id)
            mlflow.set_tags(owner_tags())
            return resumed_run_id
        experiment_id = mlflow.set_experiment(config.experiment_name).experiment_id
        _close_abandoned_runs(experiment_id)
    run = mlflow.start_run(
        experiment_id=experiment_id, run_name=config.run_name or name, tags=_tags(), log_system_metrics=False
    )
    mlflow.log_params(settings)
    return str(run.info.run_id)


def _close_abandoned_runs(experiment_id: str) -> None:
    import mlflow

    client = mlflow.MlflowClient()
    for run in client.search_runs([experiment_id], "attributes.status = 'RUNNING'"):
        if has_owner_died(run.data.tags):
            client.set_terminated(run.info.run_id, "KILLED")
            log.info("run %s was left by a process that ended; it is KILLED now", run.info.run_name)


def _note_error(error: Exception) -> None:
    """Show on the run's page why it failed, if the store still answers."""
    import mlflow
    from mlflow.exceptions import MlflowException

    if mlflow.active_run() is not None:
        with suppress(MlflowException, OSError):
            mlflow.set_tag("error", f"{type(error).__name__}: {error}"[:5000])


def _keep_log(log_file: Path) -> None:
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        if log_file.exists():  # each part of a resumed run has a folder, and so a log, of its own
            mlflow.log_artifact(str(log_file), f"logs/{log_file.parent.name}")
    except (MlflowException, OSError) as error:
        log.warning("the log could not be kept with the run: %s", error)


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
    tags["command"] = shlex.join(["python", *sys.orig_argv[1:]])
    return tags | owner_tags() | _git_tags()


def _git_tags() -> dict[str, str]:
    """Commit of this code's checkout, else of the working folder's, and whether files differ from it; else nothing."""
    for folder in (Path(__file__).parent, Path.cwd()):
        git = ["git", "-C", str(folder)]
        try:
            commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, **_GIT).stdout.strip()
            changes = subprocess.run([*git, "status", "--porcelain"], check=True, **_GIT).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            continue
        return {"git.commit": commit, "git.dirty": str(bool(changes)).lower()}
    return {}
