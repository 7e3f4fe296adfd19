"""Reads recorded runs back from the store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from pydantic import BaseModel

from cnn_sweeps.errors import TrackingError
from cnn_sweeps.evaluation.per_image import PerImage, average, parse_csv
from cnn_sweeps.text.passwords import hide_passwords
from cnn_sweeps.tracking.page import tags_of
from cnn_sweeps.tracking.record.entry import CONFIRMS_TAG, PARENT_TAG, RECORD_FILE, STATE_TAG, read_record
from cnn_sweeps.tracking.store import check_place_of_files, is_unknown, store_errors, use_store

_NEEDED_FILES = {"config.yaml", "overrides.yaml", "data.json"}
_MOST_BYTES = 2**20  # our files have 2,000; with a thousand classes 100,000
_MOST_BYTES_OF_IMAGES = 2**26  # enough for two million images


class _Data(BaseModel):
    source: str
    fingerprint: str
    images: dict[str, dict[str, int]]


@dataclass(frozen=True)
class RecordedTraining:
    """The metrics of one training."""

    val_log_loss: dict[int, float]  # by epoch, counted from 1
    final: dict[str, float]  # metrics of the final weights; empty if it did not finish


@dataclass(frozen=True)
class RecordedRun:
    """One run, or one trial of a sweep, as the store has it."""

    run_id: str
    name: str
    experiment_name: str
    status: str
    tags: dict[str, str]
    config: str  # the composed configuration, YAML
    overrides: str  # the overrides of the command line, YAML
    data_source: str
    data_fingerprint: str
    num_images: dict[str, int]  # by split
    measured: dict[str, RecordedTraining]  # by the name of the training; a single one has the name ""

    @property
    def was_pruned(self) -> bool:
        """Whether it is a pruned trial."""
        return self.tags.get(STATE_TAG) == "PRUNED"


@store_errors()
def read_recorded_run(uri: str, run_id: str) -> RecordedRun:
    """Read a whole run that this program made.

    Raises:
        TrackingError: if there is no such run, or it cannot be reproduced or compared by itself, as a part of another
            run; the message names the run to give instead.
    """
    use_store(uri)
    client = MlflowClient()
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if not is_unknown(error):
            raise
        message = f"{run_id}: no such run in {hide_passwords(uri)}; give the id that MLflow's page of the run shows"
        raise TrackingError(message) from error
    _check_whole(run)
    check_place_of_files(run.info.artifact_uri)
    _check_files(run, client)
    try:
        texts = {name: mlflow.artifacts.load_text(f"runs:/{run_id}/{name}") for name in _NEEDED_FILES}
        data = _Data.model_validate_json(texts["data.json"])
    except ValueError as error:
        raise TrackingError(
            f"{run_id}: the files of the run {run.info.run_name} make no sense ({type(error).__name__}); "
            "give another run"
        ) from error
    return RecordedRun(
        run_id=run_id,
        name=run.info.run_name,
        experiment_name=client.get_experiment(run.info.experiment_id).name,
        status=run.info.status,
        tags=tags_of(run),
        config=texts["config.yaml"],
        overrides=texts["overrides.yaml"],
        data_source=data.source,
        data_fingerprint=data.fingerprint,
        num_images={split: sum(of_class.values()) for split, of_class in data.images.items()},
        measured={part.info.run_name: _measured(part, client) for part in _parts_of(run, client)}
        or {"": _measured(run, client)},
    )


@store_errors()
def read_per_image(uri: str, run_id: str, name: str) -> PerImage | None:
    """Read a run's results for each image from one of `per_image.FILES`; if all parts have the file, return their mean.

    None if neither the parts nor the run have the file.

    Raises:
        TrackingError: if a file makes no sense.
    """
    use_store(uri)
    client = MlflowClient()
    run = client.get_run(run_id)
    parts = _parts_of(run, client)  # a tested trial also has a file of its first training itself
    runs = parts if parts and all(name in _sizes_of_files(each, client) for each in parts) else [run]
    measured: list[PerImage] = []
    for each in runs:
        if (size := _sizes_of_files(each, client).get(name)) is None:
            return None
        check_place_of_files(each.info.artifact_uri)
        what = f"{run_id}: {name} of the run {each.info.run_name}"
        if size > _MOST_BYTES_OF_IMAGES:
            raise TrackingError(f"{what} has {size:,} bytes, allowed: {_MOST_BYTES_OF_IMAGES:,}; give another run")
        try:
            measured.append(parse_csv(mlflow.artifacts.load_text(f"runs:/{each.info.run_id}/{name}")))
        except ValueError as error:
            raise TrackingError(f"{what} makes no sense ({error}); give another run") from error
    return average(measured) if measured else None


def _sizes_of_files(run: Run, client: MlflowClient) -> dict[str, int]:
    return {file.path: file.file_size or 0 for file in client.list_artifacts(run.info.run_id)}


def _check_whole(run: Run) -> None:
    tags, what = tags_of(run), f"{run.info.run_id}: the run {run.info.run_name}"
    is_trial = "trial.number" in tags or CONFIRMS_TAG in tags
    if "version.cnn-sweeps" not in tags and "trial.duplicate_of" not in tags:
        raise TrackingError(f"{what} was made by another program; give a run of cnn_sweeps.train")
    if trial := tags.get("retrained.trial"):
        raise TrackingError(f"{what} is the retraining of a trial; give the run of trial {trial}")
    if "study" in tags and not is_trial:
        command = tags.get("sweep.command", "")
        raise TrackingError(f"{what} is a whole sweep; give one of its trials, or repeat the sweep: {command}")
    if trial := tags.get("trial.duplicate_of"):
        raise TrackingError(f"{what} was not trained, as a duplicate; give the run of trial {trial}")
    if PARENT_TAG in tags and not is_trial:
        raise TrackingError(f"{what} is a part of another run; give that run, {tags[PARENT_TAG]}")


def _check_files(run: Run, client: MlflowClient) -> None:
    sizes = _sizes_of_files(run, client)
    if missing := _NEEDED_FILES - sizes.keys():
        raise TrackingError(
            f"{run.info.run_id}: the run {run.info.run_name} has no {', '.join(sorted(missing))}; it ended before "
            "its training began, or its files were removed; give another run"
        )
    if large := sorted(name for name in _NEEDED_FILES if sizes[name] > _MOST_BYTES):
        raise TrackingError(
            f"{run.info.run_id}: {large[0]} of the run {run.info.run_name} has {sizes[large[0]]:,} bytes, allowed: "
            f"{_MOST_BYTES:,}; give another run"
        )


def _parts_of(run: Run, client: MlflowClient) -> list[Run]:
    condition = f"tags.`{PARENT_TAG}` = '{run.info.run_id}'"
    return list(client.search_runs([run.info.experiment_id], condition, order_by=["attributes.start_time"]))


def _measured(run: Run, client: MlflowClient) -> RecordedTraining:
    history = client.get_metric_history(run.info.run_id, "val_log_loss")
    return RecordedTraining({metric.step: metric.value for metric in history}, _compared(run.data.metrics))


def _compared(metrics: dict[str, float]) -> dict[str, float]:
    compared = ("final_", "test_", "decision_threshold")
    return {name: value for name, value in sorted(metrics.items()) if name.startswith(compared)}


def measured_in(folder: Path) -> dict[str, RecordedTraining]:
    """Read what a run measured from the record in its folder; the result is as in `RecordedRun.measured`."""
    whole = read_record(folder)
    below = [read_record(file.parent) for file in folder.glob(f"*/{RECORD_FILE}")]
    parts = sorted((each for each in below if each and each.begin.is_part), key=lambda each: each.begin.time)
    found = {part.begin.name: part for part in parts} or ({"": whole} if whole else {})
    return {
        name: RecordedTraining(each.metrics.get("val_log_loss", {}), _compared(each.newest))
        for name, each in found.items()
    }
