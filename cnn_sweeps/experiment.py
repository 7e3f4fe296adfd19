"""One run, from the configuration to the record."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig

from cnn_sweeps.checkpoint import Checkpoint, TrainingProgress, claim_checkpoint
from cnn_sweeps.config import check_image_fits
from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.data.split import Split, balanced_class_weights, split_dataset
from cnn_sweeps.errors import ConfigError
from cnn_sweeps.schema import RunConfig
from cnn_sweeps.targets import call_target
from cnn_sweeps.tracking import find_store, tracked_run

if TYPE_CHECKING:
    import keras

    from cnn_sweeps.training import Predictor


log = logging.getLogger(__name__)


def run_experiment(config: RunConfig) -> float:
    """Load, split, build, train, evaluate, record; return the validation log loss of the final weights.

    Raises:
        UserError: for whatever the user can fix.
    """
    _prepare_libraries()
    results_dir = Path(HydraConfig.get().runtime.output_dir) / "results"
    store = find_store(config.tracking)
    dataset = _load_dataset(config)
    split = split_dataset(dataset, config.split.val_fraction, config.split.test_fraction, config.split.seed)
    _tell_data(dataset, split)
    with _claim_checkpoint(config, dataset) as checkpoint, _tracked_run(store, config, dataset, checkpoint) as run_id:
        with _native_messages_off():
            from cnn_sweeps import results, tracking
            from cnn_sweeps.models import plain_copy

        model = _build_model(config, dataset, split)
        progress = checkpoint.restore(model)
        if config.resume:
            log.info(f"resuming after epoch {progress.epochs_done}" if progress.epochs_done else "nothing to resume")
        if run_id != checkpoint.read_run_id():
            results.write_settings(results_dir, config, dataset, split)
            _record_start(dataset, split, progress, results_dir)
            checkpoint.save(model, progress, run_id)
        predict = _train(config, dataset, split, model, progress, lambda: checkpoint.save(model, progress, run_id))
        final, test_probabilities = results.evaluate(predict, dataset, split, progress)
        results.write_pictures(results_dir, config, dataset, split, progress, test_probabilities)
        tracking.log_metrics(final, step=progress.epochs_done)
        tracking.log_files(results_dir)
        if config.tracking.log_model:
            tracking.log_model(plain_copy(model), dataset.image_shape, dataset.images[split.train[:1]])
    return final["final_val_log_loss"]


def _prepare_libraries() -> None:
    """Set what the libraries read from the environment when they are imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # errors reach Python as exceptions anyway
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ["KERAS_BACKEND"] = "tensorflow"


@contextmanager
def _native_messages_off() -> Iterator[None]:
    """Keep off the terminal what TensorFlow's libraries write to it while loading, which no setting of theirs does."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _load_dataset(config: RunConfig) -> ImageDataset:
    dataset = call_target("data", config.data)
    if not isinstance(dataset, ImageDataset):
        raise ConfigError(
            f"data._target_={config.data['_target_']}: gave a {type(dataset).__name__}; "
            "it must return a cnn_sweeps.data.ImageDataset"
        )
    check_image_fits(config.model, *dataset.image_shape[:2])
    return dataset


def _claim_checkpoint(config: RunConfig, dataset: ImageDataset) -> AbstractContextManager[Checkpoint]:
    folder = Path(config.training.checkpoint_dir)
    return claim_checkpoint(folder, config.settings_of_result, dataset.fingerprint, resume=config.resume)


def _tracked_run(
    store: str, config: RunConfig, dataset: ImageDataset, checkpoint: Checkpoint
) -> AbstractContextManager[str]:
    name = f"{dataset.name} {_target_name(config)} seed {config.seed}"
    log_file = Path(HydraConfig.get().runtime.output_dir) / f"{HydraConfig.get().job.name}.log"
    return tracked_run(store, config.tracking, name, config.settings, checkpoint.read_run_id(), log_file)


def _target_name(config: RunConfig) -> str:
    return str(config.model["_target_"]).rpartition(".")[2].removeprefix("build_")


def _tell_data(dataset: ImageDataset, split: Split) -> None:
    counts = {name: f"{len(getattr(split, name))} {name}" for name in ("train", "val", "test")}
    log.info("%s: %s images of %d classes", dataset.name, ", ".join(counts.values()), len(dataset.class_names))
    if split.num_duplicates:
        log.info("%d images repeat another one; equal images are in one split", split.num_duplicates)
    for names, what in (
        (dataset.skipped_files, "files are no usable images and were skipped"),
        (split.left_out, "images equal one in a later split and are left out"),
        (split.conflicts, "groups of equal images have different classes"),
    ):
        if names:
            log.warning("%d %s: %s", len(names), what, "; ".join(names))


def _build_model(config: RunConfig, dataset: ImageDataset, split: Split) -> keras.Model:
    from cnn_sweeps.optimizers import build_optimizer
    from cnn_sweeps.training import compile_model, device_names, prepare_process

    prepare_process(config.seed, config.training.precision, xla=config.training.xla)
    num_classes = len(dataset.class_names)
    model = call_target("model", config.model, input_shape=dataset.image_shape, num_classes=num_classes)
    steps_per_epoch = -(-len(split.train) // config.training.batch_size)
    optimizer = build_optimizer(config.optimizer, config.schedule, steps_per_epoch, config.training.epochs)
    compile_model(model, optimizer, num_classes)
    log.info("%s with %s parameters on %s", model.name, f"{model.count_params():,}", device_names())
    return model


def _record_start(dataset: ImageDataset, split: Split, progress: TrainingProgress, results_dir: Path) -> None:
    """Record what is known before training, and the epochs of a resumed run that the store has lost."""
    from cnn_sweeps import tracking

    tracking.log_files(results_dir)
    tracking.log_data(dataset, split.counts(dataset))
    for epoch, metrics in enumerate(progress.history, 1):
        tracking.log_metrics(metrics, step=epoch)


def _train(
    config: RunConfig,
    dataset: ImageDataset,
    split: Split,
    model: keras.Model,
    progress: TrainingProgress,
    keep_checkpoint: Callable[[], None],
) -> Predictor:
    """Train the model from where `progress` stands, recording each epoch; give its predictor."""
    from cnn_sweeps import tracking, training
    from cnn_sweeps.data.pipeline import build_training_batches, image_tensor

    images = image_tensor(dataset)
    balanced = config.training.class_weight == "balanced"
    batches = build_training_batches(
        images,
        dataset.labels,
        split.train,
        batch_size=config.training.batch_size,
        seed=config.seed,
        epochs=range(progress.epochs_done, config.training.epochs),
        augmentation=config.augmentation,
        class_weights=balanced_class_weights(dataset.labels[split.train]) if balanced else None,
    )
    predict = training.Predictor(model, images)

    def record_epoch(metrics: dict[str, float]) -> None:
        tracking.log_metrics(metrics, step=progress.epochs_done)
        keep_checkpoint()

    def validate() -> dict[str, float]:
        return training.measure(predict, split.val, dataset.labels)

    training.train(model, batches, len(split.train), validate, config.training, progress, record_epoch)
    return predict
