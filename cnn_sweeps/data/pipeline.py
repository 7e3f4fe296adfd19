"""Batches for training: a pure function of seed, epoch and step, so that a resumed run sees what it would have seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf
from keras import ops

from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.data.split import Indices
from cnn_sweeps.schema import AugmentationConfig


def image_tensor(dataset: ImageDataset) -> tf.Tensor:
    """Give all images as one uint8 tensor in host memory; cached ones stay in their file, mapped and shared."""
    images = dataset.images
    with tf.device("CPU:0"):
        if isinstance(images, np.memmap) and images.filename is not None and _is_whole_file(images):
            return tf.raw_ops.ImmutableConst(
                dtype=tf.uint8, shape=images.shape, memory_region_name=str(images.filename)
            )
        return tf.constant(images)


def _is_whole_file(images: np.memmap) -> bool:
    """Whether the map is all of its file; a part of a map keeps the file name and offset of the whole."""
    return bool(images.flags.c_contiguous) and images.nbytes == Path(str(images.filename)).stat().st_size


def build_training_batches(
    images: tf.Tensor,
    labels: Indices,
    indices: Indices,
    *,
    batch_size: int,
    seed: int,
    epochs: range,
    augmentation: AugmentationConfig,
    class_weights: dict[int, float] | None,
) -> tf.data.Dataset:
    """Batches of all epochs in a row, each epoch all images once in its own order, the last batch perhaps smaller.

    Args:
        images: uint8, (N, height, width, channels).
        labels: int64, (N,).
        indices: which images to train on.
        batch_size: images a batch.
        seed: of order and augmentation.
        epochs: which epochs, from 0.
        augmentation: random changes of the images.
        class_weights: weight of each label in the loss; None: all 1.

    Returns:
        (images float32 (B, height, width, channels) in 0 to 1, labels int32 (B, 1)[, weights float32 (B,)]).
    """
    with tf.device("CPU:0"):
        positions = tf.constant(indices)
        all_labels = tf.constant(labels.astype(np.int32)[:, np.newaxis])
        weight_of_label = None if class_weights is None else tf.constant(_weight_list(class_weights))

    def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(positions, seed=tf.stack([np.int64(seed), epoch]))
        batches = tf.data.Dataset.from_tensor_slices(order).batch(batch_size).enumerate()
        return batches.map(lambda step, batch: (epoch, step, batch))

    def load(epoch: tf.Tensor, step: tf.Tensor, batch: tf.Tensor) -> tuple[tf.Tensor, ...]:
        pixels = tf.cast(tf.gather(images, batch), tf.float32) / 255.0
        if augmentation.enabled:
            epoch_seed = tf.random.fold_in([seed, 0], tf.cast(epoch, tf.int32))
            pixels = augment(pixels, augmentation, tf.random.fold_in(epoch_seed, tf.cast(step, tf.int32)))
        batch_labels = tf.gather(all_labels, batch)
        if weight_of_label is None:
            return pixels, batch_labels
        return pixels, batch_labels, tf.gather(weight_of_label, batch_labels[:, 0])

    return (
        tf.data.Dataset.range(epochs.start, epochs.stop)
        .flat_map(epoch_batches)
        .map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def augment(images: tf.Tensor, augmentation: AugmentationConfig, seed: tf.Tensor) -> tf.Tensor:
    """Flip, turn, shear, zoom and shift each image at random, as one resampling; edges repeat outwards.

    Args:
        images: float32, (B, height, width, channels).
        augmentation: the ranges; values are drawn uniformly from them.
        seed: int32, (2,).

    Returns:
        float32, of the same shape.
    """
    return ops.image.affine_transform(images, _random_transforms(images, augmentation, seed), fill_mode="nearest")


def _random_transforms(images: tf.Tensor, augmentation: AugmentationConfig, seed: tf.Tensor) -> tf.Tensor:
    """Draw one affine map of output to input coordinates an image, float32 (B, 8): x' = a0 x + a1 y + a2 and so on."""
    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    u = tf.random.stateless_uniform((7, count), seed=seed, minval=-1.0, maxval=1.0)
    angle = u[0] * np.deg2rad(augmentation.rotation_degrees)
    shear = u[1] * np.deg2rad(augmentation.shear_degrees)
    zoom_x = 1.0 + u[2] * augmentation.zoom_fraction
    zoom_y = 1.0 + u[3] * augmentation.zoom_fraction
    shift_x = u[4] * augmentation.shift_fraction * width
    shift_y = u[5] * augmentation.shift_fraction * height
    mirror = tf.where(u[6] < 0, -1.0, 1.0) if augmentation.horizontal_flip else tf.ones(count)

    cos, sin = tf.cos(angle), tf.sin(angle)
    # rotation x shear x zoom, as in Keras's ImageDataGenerator; the mirror is a zoom by -1
    xx, xy = mirror * zoom_x * cos, -zoom_y * tf.sin(angle + shear)
    yx, yy = mirror * zoom_x * sin, zoom_y * tf.cos(angle + shear)
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    x0 = centre_x - xx * centre_x - xy * centre_y + shift_x
    y0 = centre_y - yx * centre_x - yy * centre_y + shift_y
    zero = tf.zeros(count)
    return tf.stack([xx, xy, x0, yx, yy, y0, zero, zero], axis=1)


def _weight_list(class_weights: dict[int, float]) -> list[float]:
    return [class_weights.get(label, 1.0) for label in range(max(class_weights) + 1)]
