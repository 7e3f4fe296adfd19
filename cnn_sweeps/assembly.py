"""Builds what a configuration describes: the data with their split, and the compiled network."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from cnn_sweeps.config import check_image_fits
from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.data.split import Split, split_dataset
from cnn_sweeps.errors import ConfigError
from cnn_sweeps.schema import RunConfig
from cnn_sweeps.targets import call_target

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)


def prepare_libraries() -> None:
    """Set what the libraries read from the environment when they are imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # errors reach Python as exceptions anyway
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ["JOBLIB_MULTIPROCESSING"] = "0"  # never used, and its trial semaphore is complained about at exit


def load_data(config: RunConfig) -> tuple[ImageDataset, Split]:
    """Load the images and divide them.

    Raises:
        ConfigError: if the source is no such function, or the network is too deep for the images.
        DataError: if the images cannot be used, or not be divided.
    """
    dataset = call_target("data", config.data)
    if not isinstance(dataset, ImageDataset):
        raise ConfigError(
            f"data._target_={config.data['_target_']}: gave a {type(dataset).__name__}; "
            "it must return a cnn_sweeps.data.ImageDataset"
        )
    check_image_fits(config.model, *dataset.image_shape[:2])
    return dataset, split_dataset(dataset, config.split.val_fraction, config.split.test_fraction, config.split.seed)


def build_model(config: RunConfig, dataset: ImageDataset, num_train_images: int) -> keras.Model:
    """Seed the process and give the compiled network.

    Raises:
        ModelError: if the function gives no network that fits the classes.
    """
    from cnn_sweeps.optimizers import build_optimizer
    from cnn_sweeps.training import compile_model, device_names, prepare_process

    prepare_process(config.seed, config.training.precision, xla=config.training.xla)
    num_classes = len(dataset.class_names)
    model = call_target("model", config.model, input_shape=dataset.image_shape, num_classes=num_classes)
    steps_per_epoch = -(-num_train_images // config.training.batch_size)
    optimizer = build_optimizer(config.optimizer, config.schedule, steps_per_epoch, config.training.epochs)
    compile_model(model, optimizer, num_classes)
    log.info("%s with %s parameters on %s", model.name, f"{model.count_params():,}", device_names())
    return model
