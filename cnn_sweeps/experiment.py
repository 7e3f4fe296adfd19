"""One run, from the configuration to the record."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig

from cnn_sweeps.checkpoint import claim_checkpoint
from cnn_sweeps.config import RunConfig, check_image_fits
from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.data.split import Split, balanced_class_weights, split_dataset
from cnn_sweeps.errors import ConfigError
from cnn_sweeps.targets import call_target
from cnn_sweeps.tracking import find_store, tracked_run

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


log = logging.getLogger(__name__)


def run_experiment(config: RunConfig) -> float:
    """Load, split, build, train, evaluate, record; return the validation log loss of the final weights.

    Raises:
        UserError: for whatever the user can fix.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # errors reach Python as exceptions anyway
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    output_dir = Path(HydraConfig.get().runtime.output_dir)
    store = find_store(config.tracking)
    dataset = _load_dataset(config)
    check_image_fits(config.model, *dataset.image_shape[:2])
    split = split_dataset(dataset, config.split.val_fraction, config.split.test_fraction, config.split.seed)
    _tell_data(dataset, split)
    run_name = f"{dataset.name} {_target_name(config)} seed {config.seed}"
    log_file = output_dir / f"{HydraConfig.get().job.name}.log"
    with (
        claim_checkpoint(
            Path(config.training.checkpoint_dir),
            config.settings_of_result,
            dataset.fingerprint,
            resume=config.resume,
        ) as checkpoint,
        tracked_run(store, config.tracking, run_name, config.settings, checkpoint.read_run_id(), log_file) as run_id,
    ):
        with _native_messages_off():
            from cnn_sweeps import results, tracking, training
            from cnn_sweeps.data.pipeline import image_tensor
            from cnn_sweeps.models import plain_copy

        model = _build_model(config, dataset, split)
        progress = checkpoint.restore(model)
        if config.resume:
            log.info(f"resuming after epoch {progress.epochs_done}" if progress.epochs_done else "nothing to resume")
        if run_id != checkpoint.read_run_id():
            results.write_settings(output_dir / "results", config, dataset, split)
            tracking.log_files(output_dir / "results")
            tracking.log_data(dataset, split.counts(dataset))
            for epoch, metrics in enumerate(progress.history, 1):
                tracking.log_metrics(metrics, step=epoch)
            checkpoint.save(model, progress, run_id)
        images = image_tensor(dataset)
        predict = training.Predictor(model, images)

        def record_epoch(metrics: dict[str, float]) -> None:
            tracking.log_metrics(metrics, step=progress.epochs_done)
            checkpoint.save(model, progress, run_id)

        training.train(
            model,
            _training_batches(config, dataset, split, images, first_epoch=progress.epochs_done),
            len(split.train),
            lambda: training.measure(predict, split.val, dataset.labels),
            config.training,
            progress,
            record_epoch,
        )
        final, test_probabilities = results.evaluate(predict, dataset, split, progress)
        results.write_pictures(output_dir / "results", config, dataset, split, progress, test_probabilities)
        tracking.log_metrics(final, step=progress.epochs_done)
        tracking.log_files(output_dir / "results")
        if config.tracking.log_model:
            tracking.log_model(plain_copy(model), dataset.image_shape, dataset.images[split.train[:1]])
    return final["final_val_log_loss"]


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
    return dataset


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


def _training_batches(
    config: RunConfig, dataset: ImageDataset, split: Split, images: tf.Tensor, first_epoch: int
) -> tf.data.Dataset:
    from cnn_sweeps.data.pipeline import build_training_batches

    balanced = config.training.class_weight == "balanced"
    return build_training_batches(
        images,
        dataset.labels,
        split.train,
        batch_size=config.training.batch_size,
        seed=config.seed,
        epochs=range(first_epoch, config.training.epochs),
        augmentation=config.augmentation,
        class_weights=balanced_class_weights(dataset.labels[split.train]) if balanced else None,
    )
