"""What a run leaves in MLflow."""

from __future__ import annotations

import json
import logging
import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.errors import TrackingError, TrackingOutageError, UserError
from cnn_sweeps.settings.schema import TrackingConfig
from cnn_sweeps.system.owners import owner_tags
from cnn_sweeps.system.patience import patiently
from cnn_sweeps.text.passwords import hide_passwords
from cnn_sweeps.tracking.outbox import Outbox, deliver_or_tell, opened, write
from cnn_sweeps.tracking.process import describe_process
from cnn_sweeps.tracking.store import close_abandoned_runs, connected, store_errors

log = logging.getLogger(__name__)

PARENT_TAG, STATE_TAG, NOTE_TAG = "mlflow.parentRunId", "trial.state", "mlflow.note.content"
REPRODUCES_TAG = "reproduces"
_FOLDER_TAG = "output.folder"


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
    experiment are closed as KILLED first, unless the run is a part of another one. Once it has begun, a store that does
    not answer does not end it: what is recorded meanwhile waits in the log's folder.

    Args:
        uri: of the tracking store.
        config: experiment and run name.
        name: of the run if `config` has none.
        settings: logged as parameters.
        log_file: kept with the run when it ends, whatever its end.
        resumed_run_id: go on with this run if the store still has it.
        tags: further ones; PARENT_TAG names the run that this one is a part of.

    Raises:
        TrackingError: if the store cannot be used; by a part of another run only after some patience.
    """
    import mlflow

    outer, status, tags, folder = mlflow.active_run(), "FAILED", tags or {}, log_file.parent.absolute()
    last_tags: dict[str, str] = {}
    try:
        is_nested = outer is not None or PARENT_TAG in tags
        all_tags = tags | {_FOLDER_TAG: str(folder)}
        start = partial(_start_run, uri, config, name, resumed_run_id, all_tags, is_nested=is_nested)
        run_id, known = patiently(start, log.warning) if is_nested else start()
        with opened(Outbox(folder, run_id)):
            if new := {key: hide_passwords(str(value)) for key, value in settings.items() if key not in known}:
                write("params", {"params": new})
            yield run_id
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    except Exception as error:
        last_tags = {STATE_TAG: "FAIL"} if STATE_TAG in tags else {}
        last_tags["error"] = hide_passwords(f"{type(error).__name__}: {error}")[:5000]
        raise
    finally:
        if (run := mlflow.active_run()) is not None and run is not outer:
            outbox = Outbox(folder, run.info.run_id)
            _write_last(outbox, last_tags, log_file)
            _end_run(outbox, status)


@contextmanager
def reopened_run(uri: str, run_id: str) -> Iterator[None]:
    """Add to a run that has ended; it is FINISHED again afterwards. Nothing of it waits: the block can be done again.

    Raises:
        TrackingError: if the store cannot be used, in the block too.
    """
    import mlflow

    status = "FAILED"
    with store_errors():
        mlflow.set_tracking_uri(uri)
        mlflow.start_run(run_id)
        mlflow.set_tags(owner_tags())
    outbox = Outbox(None, run_id)
    try:
        with opened(outbox):
            yield
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        _end_run(outbox, status)


@store_errors()
def find_part(run_id: str, name: str) -> str | None:
    """Give the newest part of this name that a run of the store in use has.

    Raises:
        TrackingError: if the store cannot be used.
    """
    import mlflow

    client = mlflow.MlflowClient()
    parts = client.search_runs(
        [client.get_run(run_id).info.experiment_id],
        f"tags.`{PARENT_TAG}` = '{run_id}' and attributes.run_name = '{name}'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return str(parts[0].info.run_id) if parts else None


def adopt(part_id: str, run_id: str, folder: Path) -> None:
    """Make a run a part of another one than before; in `folder` that waits for a store that does not answer."""
    try:
        Outbox(folder, part_id).write("tags", {"tags": {PARENT_TAG: run_id}})
    except TrackingError as error:  # somebody has deleted it
        log.warning("a part that was finished before is not shown below the run: %s", error)


def log_data(dataset: ImageDataset, counts: dict[str, dict[str, int]], description: str) -> None:
    """Record the data set with its fingerprint, the images of each class in each split, and the run's page."""
    with store_errors():
        from mlflow.data.code_dataset_source import CodeDatasetSource
        from mlflow.data.meta_dataset import MetaDataset

        place = hide_passwords(dataset.source)
        source = CodeDatasetSource(tags={"source": place})
        described = MetaDataset(source, name=dataset.name, digest=dataset.fingerprint)  # type: ignore[abstract]
    write("data", {"dataset": described.to_dict(), "context": "train, val, test"})
    set_tags({"data.fingerprint": dataset.fingerprint, NOTE_TAG: description})
    with tempfile.TemporaryDirectory() as folder:
        about = {"source": place, "fingerprint": dataset.fingerprint, "images": counts}
        Path(folder, "data.json").write_text(json.dumps(about, indent=2), encoding="utf-8")
        log_files(Path(folder))


def set_tags(tags: dict[str, str]) -> None:
    """Tag the run."""
    write("tags", {"tags": tags})


def log_metrics(metrics: dict[str, float], step: int) -> None:
    """Record the metrics under an epoch, counted from 1."""
    epoch_metrics = EpochMetrics()
    epoch_metrics.add(metrics, step)
    epoch_metrics.write()


class EpochMetrics:
    """Metrics of the open run's epochs that are written together."""

    def __init__(self) -> None:
        """Hold none."""
        self._waiting: list[tuple[str, float, int, int]] = []

    def add(self, metrics: dict[str, float], epoch: int) -> None:
        """Take an epoch's metrics, counted from 1, as of now."""
        now = int(time.time() * 1000)
        self._waiting += [(name, float(value), now, epoch) for name, value in metrics.items()]

    def write(self) -> None:
        """Record what was taken."""
        if self._waiting:
            write("metrics", {"metrics": self._waiting})
            self._waiting = []


def log_files(folder: Path) -> None:
    """Keep the files of a folder with the run."""
    write("files", {"path": None}, folder)


def describe_next(*, has_model: bool) -> list[str]:
    """Say which commands use the open run, and where its page is; nothing of a part, or of another run made again."""
    import mlflow

    run = mlflow.active_run()
    if run is None or {PARENT_TAG, REPRODUCES_TAG} & run.data.tags.keys():
        return []
    uri = hide_passwords(mlflow.get_tracking_uri())
    page = f"/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    is_server, is_default = uri.startswith("http"), uri == "sqlite:///mlflow.db"
    lines = []
    if has_model:
        place = [] if is_default else [f"tracking.uri={uri}"]
        command = ["python", "-m", "cnn_sweeps.predict", "PHOTOS", f"model=runs:/{run.info.run_id}/model", *place]
        lines += ["To give images their classes:", f"  {shlex.join(command)}"]
    if is_server:
        return [*lines, f"The run's page: {uri.rstrip('/')}{page}"]
    command = ["mlflow", "ui", *([] if is_default else ["--backend-store-uri", uri])]
    return [*lines, "To look at the run:", f"  {shlex.join(command)}", f"  http://127.0.0.1:5000{page}"]


@store_errors()
def _start_run(
    uri: str, config: TrackingConfig, name: str, resumed_run_id: str | None, tags: dict[str, str], *, is_nested: bool
) -> tuple[str, dict[str, str]]:
    """Start a run, or go on with the resumed one; give its id and those of its parameters that it has."""
    import mlflow

    with connected(uri, config.experiment_name) as experiment_id:
        if resumed_run_id is not None and _has_run(resumed_run_id):
            _deliver_of_earlier_part(resumed_run_id)
            mlflow.start_run(
                resumed_run_id,
                nested=mlflow.active_run() is not None,
                tags=owner_tags() | {_FOLDER_TAG: tags[_FOLDER_TAG]},
            )
            return resumed_run_id, dict(mlflow.get_run(resumed_run_id).data.params)
        if not is_nested:
            close_abandoned_runs(experiment_id)
    run = mlflow.start_run(
        experiment_id=experiment_id,
        run_name=config.run_name or name,
        nested=mlflow.active_run() is not None,
        tags=_without_passwords(describe_process() | tags),
        log_system_metrics=False,
    )
    return str(run.info.run_id), {}


def _without_passwords(tags: dict[str, str]) -> dict[str, str]:
    """Give tags, and those that MLflow adds, such as the address of the repository around the program."""
    from mlflow.tracking.context.registry import resolve_tags

    return {key: hide_passwords(str(text)) for key, text in resolve_tags(tags).items()}


def _deliver_of_earlier_part(run_id: str) -> None:
    """Deliver what waits of a run that was interrupted while the store was away."""
    import mlflow

    folder = mlflow.get_run(run_id).data.tags.get(_FOLDER_TAG)
    if folder is None:
        return
    try:  # that run's own alone: anybody who writes to the store can have it name any folder
        is_delivered = Outbox(Path(folder), run_id).deliver(at_once=True)
    except TrackingOutageError:
        raise
    except TrackingError as error:
        log.warning("%s", error)
        return
    if not is_delivered:
        raise TrackingOutageError(f"{folder}: what waits there was not delivered; give the same command again")


def _write_last(outbox: Outbox, tags: dict[str, str], log_file: Path) -> None:
    """Show on the run's page why it failed, if it has, and keep its log; what cannot be does not matter then."""
    try:
        if tags:
            outbox.write("tags", {"tags": tags})
        if log_file.exists():  # each part of a resumed run has a folder, and so a log, of its own
            outbox.write("files", {"path": f"logs/{log_file.parent.name}"}, log_file)
    except UserError as error:
        log.warning("the log could not be kept with the run: %s", error)


def _end_run(outbox: Outbox, status: str) -> None:
    """End the active run, in the store or in what waits for it."""
    import mlflow

    ended = int(time.time() * 1000)
    try:
        with store_errors():
            mlflow.end_run(status)  # which also makes it no longer the active one
    except TrackingOutageError:
        if outbox.folder is None:
            raise
        outbox.keep("end", {"status": status, "end_time": ended})
    if outbox.folder is not None and outbox.num_waiting:
        deliver_or_tell(outbox.folder)


def _has_run(run_id: str) -> bool:
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        return bool(mlflow.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return False
