"""What a run leaves in MLflow."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.owners import owner_tags
from cnn_sweeps.passwords import hide_passwords
from cnn_sweeps.schema import TrackingConfig
from cnn_sweeps.tracking.process import describe_process
from cnn_sweeps.tracking.store import close_abandoned_runs, connected, store_errors

if TYPE_CHECKING:
    from mlflow.entities import Metric

log = logging.getLogger(__name__)

PARENT_TAG, STATE_TAG, NOTE_TAG = "mlflow.parentRunId", "trial.state", "mlflow.note.content"


@contextmanager
def tracked_run(
    uri: str,
    config: TrackingConfig,
    name: str,
    settings: dict[str, Any],
    log_file: Path,
    *,
    resumed_run_id: str | None = None,
    tags: dict[str, str] | None = None,
) -> Iterator[str]:
    """Record the block as one MLflow run and give its id; it ends FINISHED, FAILED by an error or KILLED by a signal.

    A run within another one's block becomes its child. Runs that this host's ended processes left RUNNING in the
    experiment are closed as KILLED first, unless the run is a part of another one.

    Args:
        uri: of the tracking store.
        config: experiment and run name.
        name: of the run if `config` has none.
        settings: logged as parameters.
        log_file: kept with the run when it ends, whatever its end.
        resumed_run_id: go on with this run if the store still has it.
        tags: further ones; PARENT_TAG names the run that this one is a part of.

    Raises:
        TrackingError: if the store cannot be used.
    """
    import mlflow

    outer, status, tags = mlflow.active_run(), "FAILED", tags or {}
    try:
        with store_errors():
            is_nested = outer is not None or PARENT_TAG in tags
            run_id = _start_run(uri, config, name, settings, resumed_run_id, tags, is_nested=is_nested)
        yield run_id
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    except Exception as error:
        if mlflow.active_run() is not outer:
            _note_error(error, {STATE_TAG: "FAIL"} if STATE_TAG in tags else {})
        raise
    finally:
        if mlflow.active_run() is not outer:
            _keep_log(log_file)
            mlflow.end_run(status)


@contextmanager
def reopened_run(uri: str, run_id: str) -> Iterator[None]:
    """Add to a run that has ended; it is FINISHED again afterwards.

    Raises:
        TrackingError: if the store cannot be used.
    """
    import mlflow

    status = "FAILED"
    with store_errors():
        mlflow.set_tracking_uri(uri)
        mlflow.start_run(run_id)
        mlflow.set_tags(owner_tags())
    try:
        yield
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        mlflow.end_run(status)


@store_errors()
def log_data(dataset: ImageDataset, counts: dict[str, dict[str, int]], description: str) -> None:
    """Record the data set with its fingerprint, the images of each class in each split, and the run's page."""
    import mlflow
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    source = CodeDatasetSource(tags={"source": dataset.source})
    mlflow.log_input(
        MetaDataset(source, name=dataset.name, digest=dataset.fingerprint),  # type: ignore[abstract]
        context="train, val, test",
    )
    mlflow.set_tags({"data.fingerprint": dataset.fingerprint, NOTE_TAG: description})
    mlflow.log_dict({"source": dataset.source, "fingerprint": dataset.fingerprint, "images": counts}, "data.json")


@store_errors()
def set_tags(tags: dict[str, str]) -> None:
    """Tag the run."""
    import mlflow

    mlflow.set_tags(tags)


@store_errors()
def log_metrics(metrics: dict[str, float], step: int) -> None:
    """Record the metrics under an epoch, counted from 1."""
    import mlflow

    mlflow.log_metrics(metrics, step=step)


class EpochMetrics:
    """Metrics of the active run's epochs that are written together."""

    def __init__(self) -> None:
        """Hold none."""
        self._waiting: list[Metric] = []

    def add(self, metrics: dict[str, float], epoch: int) -> None:
        """Take an epoch's metrics, counted from 1, as of now."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(name, value, now, epoch) for name, value in metrics.items()]

    @store_errors()
    def write(self) -> None:
        """Record what was taken."""
        import mlflow

        run = mlflow.active_run()
        if self._waiting and run is not None:
            mlflow.MlflowClient().log_batch(run.info.run_id, self._waiting)
            self._waiting = []


@store_errors()
def log_files(folder: Path) -> None:
    """Keep the files of a folder with the run."""
    import mlflow

    mlflow.log_artifacts(str(folder))


def _start_run(
    uri: str,
    config: TrackingConfig,
    name: str,
    settings: dict[str, Any],
    resumed_run_id: str | None,
    tags: dict[str, str],
    *,
    is_nested: bool,
) -> str:
    import mlflow

    with connected(uri, config.experiment_name) as experiment_id:
        if resumed_run_id is not None and _has_run(resumed_run_id):
            mlflow.start_run(resumed_run_id)
            mlflow.set_tags(owner_tags())
            return resumed_run_id
        if not is_nested:
            close_abandoned_runs(experiment_id)
    run = mlflow.start_run(
        experiment_id=experiment_id,
        run_name=config.run_name or name,
        nested=mlflow.active_run() is not None,
        tags=describe_process() | tags,
        log_system_metrics=False,
    )
    mlflow.log_params({key: hide_passwords(str(value)) for key, value in settings.items()})
    return str(run.info.run_id)


def _note_error(error: Exception, tags: dict[str, str]) -> None:
    """Show on the run's page why it failed, if the store still answers."""
    import mlflow
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException, OSError):
        mlflow.set_tags(tags | {"error": f"{type(error).__name__}: {error}"[:5000]})


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
