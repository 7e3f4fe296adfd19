"""Training on several devices of a machine: each trains on a part of every batch."""

import logging
from functools import lru_cache
from typing import Any, TypeAlias

import keras
import tensorflow as tf
from keras import layers

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.settings.schema import TrainingConfig

log = logging.getLogger(__name__)

Batch: TypeAlias = tuple[tf.Tensor, ...]


def choose_strategy(config: TrainingConfig) -> tf.distribute.Strategy:
    """Return the strategy, for one device or for all, in whose scope the network must be built.

    Raises:
        ConfigError: if the batch cannot be divided among the devices.
    """
    if config.strategy == "single":
        return tf.distribute.get_strategy()
    gpus = tf.config.list_logical_devices("GPU")
    devices = tuple(device.name for device in gpus or tf.config.list_logical_devices("CPU"))
    if len(devices) == 1:
        log.info("training.strategy=mirrored: this machine has one device; training as with training.strategy=single")
        return tf.distribute.get_strategy()
    if config.batch_size % len(devices):
        raise ConfigError(
            f"training.batch_size={config.batch_size}: training.strategy=mirrored cannot divide it among "
            f"{len(devices)} devices; set a multiple of {len(devices)}, or training.strategy=single"
        )
    log.info("each batch of %d images is divided among %d devices", config.batch_size, len(devices))
    return _mirror_on(devices)


@lru_cache(maxsize=1)  # a network that was compiled earlier and a new one must share it
def _mirror_on(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    has_gpus = "GPU" in devices[0]
    reduction = None if has_gpus else tf.distribute.ReductionToOneDevice()  # TensorFlow's choice, without its warning
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=reduction)


def synchronize(model: keras.Model) -> None:
    """Make batch normalization take its statistics over the whole batch if there are several devices."""
    if model.distribute_strategy.num_replicas_in_sync > 1:
        for layer in model._flatten_layers():
            if isinstance(layer, layers.BatchNormalization):
                layer.synchronized = True


def training_step(model: keras.Model) -> Any:
    """Return the function that trains a compiled model on a batch: a tuple of images, labels and perhaps weights."""
    strategy = model.distribute_strategy
    if strategy.num_replicas_in_sync == 1:
        return model.train_step

    def train_on_part(part: Batch) -> None:
        model.train_step(part)

    def train_on_parts(batch: Batch) -> None:
        parts = strategy.experimental_distribute_values_from_function(
            lambda device: _part(batch, device.replica_id_in_sync_group, device.num_replicas_in_sync)
        )
        strategy.run(train_on_part, args=(parts,))

    return train_on_parts


def _part(batch: Batch, number: int, num_parts: int) -> Batch:
    """Return the part of one device, counted from 0, with weights that make its loss a mean over the whole batch.

    Parts are consecutive images, and their sizes differ by one at most. Only the last batch of an epoch can have uneven
    parts. If it has fewer images than there are devices, every device gets all of it, since kernels fail on empty
    parts. Gradients and statistics are those of the whole batch in each case. The metrics of Keras are not quite:
    `train_loss` weighs uneven parts by their size twice, and counts images once for each device that has them.
    """
    images, labels, *weights = batch
    count = tf.shape(images)[0]
    is_shared = count < num_parts
    start = tf.where(is_shared, 0, number * count // num_parts)
    stop = tf.where(is_shared, count, (number + 1) * count // num_parts)
    total = tf.where(is_shared, num_parts * count, count)
    share = tf.cast((stop - start) * num_parts, tf.float32) / tf.cast(total, tf.float32)
    of_images = weights[0] if weights else tf.ones(count)
    return images[start:stop], labels[start:stop], of_images[start:stop] * share
