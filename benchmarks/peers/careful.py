"""A trial as a careful user writes it, for any tool that suggests its parameters.

Each process decodes the images once. A trial drops what Keras kept of the last one, records metrics in MLflow after
each epoch, in a run below the sweep's run, and keeps no model. `steps_per_execution` would save nothing in 10 epochs of
digits, since compiling takes longer than the epochs save.
"""

import functools
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from workload import BATCH_SIZE, note_trial

SWEEP_RUN = "SWEEP_RUN_ID"  # an environment variable, for worker processes


@contextmanager
def sweep_record() -> Iterator[None]:
    """Create MLflow's database, the experiment and the sweep's run, for this process and its workers."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{Path.cwd()}/mlflow.db"
    client = mlflow.MlflowClient()
    os.environ["MLFLOW_EXPERIMENT_ID"] = client.create_experiment("sweep")
    os.environ[SWEEP_RUN] = client.create_run(os.environ["MLFLOW_EXPERIMENT_ID"], run_name="sweep").info.run_id
    yield
    client.set_terminated(os.environ[SWEEP_RUN])


@functools.cache
def load_images(data: str, size: int) -> dict[str, np.ndarray]:
    """Return `train_x`, `train_y`, `val_x`, `val_y`: float32, pixels in 0 to 1, labels (N, 1)."""
    arrays = dict(np.load(data)) if data.endswith(".npz") else decode_folder(Path(data), size)
    pixels = {name: arrays[name] / np.float32(255) for name in ("train_x", "val_x")}
    return pixels | {name: arrays[name].astype(np.float32)[:, np.newaxis] for name in ("train_y", "val_y")}


def decode_folder(folder: Path, size: int) -> dict[str, np.ndarray]:
    """Return `train_x`, `train_y`, `val_x`, `val_y`: pixels uint8, labels int64 (N,)."""
    from PIL import Image

    arrays = {}
    for split in ("train", "val"):
        class_names = sorted(path.name for path in (folder / split).iterdir())
        files = sorted((folder / split).glob("*/*"))
        pictures = [Image.open(file).convert("RGB").resize((size, size), Image.Resampling.BILINEAR) for file in files]
        arrays[f"{split}_x"] = np.stack([np.asarray(picture) for picture in pictures])
        arrays[f"{split}_y"] = np.array([class_names.index(file.parent.name) for file in files])
    return arrays


def begin_anew(seed: int) -> None:
    """Drop what Keras kept of the last trial, and set the seed."""
    import keras

    keras.backend.clear_session()
    gc.collect()
    keras.utils.set_random_seed(seed)


def build(settings: Any, params: dict[str, float]) -> Any:
    """Build the network as if it were the first one of the process."""
    from network import build_network

    begin_anew(settings.seed)
    images = load_images(settings.data, settings.size)["train_x"]
    return build_network(images.shape[1:], -(-len(images) // BATCH_SIZE), **params)


def fit(model: Any, settings: Any, params: dict[str, float], callbacks: tuple[Any, ...] = ()) -> Any:
    """Train on images with `record_fit`."""
    images = load_images(settings.data, settings.size)
    data = {"x": images["train_x"], "y": images["train_y"], "batch_size": BATCH_SIZE}
    return record_fit(model, settings, params, callbacks, **data, validation_data=(images["val_x"], images["val_y"]))


def record_fit(model: Any, settings: Any, params: dict[str, float], callbacks: tuple[Any, ...], **data: Any) -> Any:
    """Train, record and note a trial; return Keras's history."""
    import keras

    log_epoch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: mlflow.log_metrics(logs, step=epoch))
    with mlflow.start_run(parent_run_id=os.environ[SWEEP_RUN]):
        mlflow.log_params(params)
        history = model.fit(**data, epochs=settings.epochs, verbose=0, callbacks=[*callbacks, log_epoch])
        mlflow.log_metric("best_val_log_loss", objective(history))
    note_trial(settings.notes, objective(history))
    return history


def objective(history: Any) -> float:
    """Return the lowest validation log loss over the epochs."""
    return min(history.history["val_log_loss"])


def run_trial(settings: Any, params: dict[str, float]) -> float:
    """Train with these parameters; return the objective."""
    return objective(fit(build(settings, params), settings, params))
