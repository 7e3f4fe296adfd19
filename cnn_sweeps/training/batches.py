"""Batches for training: a pure function of seed, epoch and step, so that a resumed run sees the same images."""

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from keras import ops
from numpy.typing import NDArray

from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.data.split import Indices
from cnn_sweeps.settings.schema import AugmentationConfig


@lru_cache(maxsize=1)  # for the next trial
def image_tensor(dataset: ImageDataset) -> tf.Tensor:
    """Return all images as one uint8 tensor in host memory; cached images stay in their file, mapped and shared."""
    return mapped_tensor(dataset.images)


def mapped_tensor(array: NDArray[Any]) -> tf.Tensor:
    """Return an array as a tensor in host memory; an array that maps a whole file stays in that file."""
    with tf.device("CPU:0"):
        if isinstance(array, np.memmap) and array.filename is not None and array.flags.c_contiguous:
            file = Path(str(array.filename))
            if array.nbytes == file.stat().st_size:  # a part of a map has the file of the whole
                # TensorFlow's ImmutableConst would copy all of it once, to see whether it can be folded. NumPy hands
                # over only writable arrays; mode "c" keeps what is written out of the file.
                private = np.memmap(file, array.dtype, "c", shape=array.shape)
                return tf.experimental.dlpack.from_dlpack(private.__dlpack__())
        return tf.constant(array)


class TrainingImages(NamedTuple):
    """The training data; a tuple, so that TensorFlow takes it as an argument."""

    images: tf.Tensor  # uint8, (N, height, width, channels), or features of a frozen backbone, float32 (N, D)
    labels: tf.Tensor  # int32, (N, 1)
    weights: tf.Tensor | None  # float32, (N,), of each image in the loss; None: all 1
    positions: tf.Tensor  # int64, (n,), which of the N images to train on
    seed: tf.Tensor  # int64, of shuffling and augmentation
    batch_size: tf.Tensor  # int32, images per step
    views: tf.Tensor | None = None  # float32, (N, V, D), features of V changed copies of each image; None: no copies


def training_images(
    images: tf.Tensor,
    labels: Indices,
    indices: Indices,
    class_weights: dict[int, float] | None = None,
    *,
    seed: int,
    batch_size: int,
) -> TrainingImages:
    """Return the training data: the `images` at `indices`; `class_weights` weigh their losses by label."""
    with tf.device("CPU:0"):
        weights = None
        if class_weights is not None:
            weights = tf.constant([class_weights.get(label, 1.0) for label in labels.tolist()])
        labels = tf.constant(labels.astype(np.int32)[:, np.newaxis])
        numbers = tf.constant(seed, tf.int64), tf.constant(batch_size, tf.int32)
        return TrainingImages(images, labels, weights, tf.constant(indices), *numbers)


def epoch_order(source: TrainingImages, epoch: tf.Tensor) -> tf.Tensor:
    """Return the positions to train on, each once, shuffled for an epoch, int64, counted from 0."""
    return tf.random.experimental.stateless_shuffle(source.positions, seed=tf.stack([source.seed, epoch]))


def training_batch(
    source: TrainingImages,
    order: tf.Tensor,
    augmentation: AugmentationConfig,
    epoch: tf.Tensor,
    step: tf.Tensor,
) -> tuple[tf.Tensor, ...]:
    """Return one augmented batch: that of a step, int32, in an epoch, int64, both counted from 0.

    Returns:
        (images float32 (B, height, width, channels), 0 to 255, or features (B, D), labels int32 (B, 1)[, weights
        float32 (B,)]); the last batch of an epoch may be smaller.
    """
    positions = order[step * source.batch_size : (step + 1) * source.batch_size]
    with tf.device("CPU:0"):  # where the images are; only the batch goes to a GPU
        pixels = tf.gather(source.images, positions) if source.views is None else _draw_views(source, positions, epoch)
        labels = tf.gather(source.labels, positions)
        weights = () if source.weights is None else (tf.gather(source.weights, positions),)
    images = tf.cast(pixels, tf.float32)
    if augmentation.enabled and len(images.shape) == 4:
        images = augment(images, augmentation, tf.random.fold_in(_epoch_seed(source, epoch), step))
    return images, labels, *weights


def _draw_views(source: TrainingImages, positions: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
    """Draw one view of each image for an epoch; the batch that the image is in changes nothing."""
    assert source.views is not None
    num_images, num_views, _ = tf.unstack(tf.shape(source.views, tf.int64))  # so that one graph takes any number
    drawn = tf.random.stateless_uniform([num_images], _epoch_seed(source, epoch), maxval=num_views, dtype=tf.int64)
    views = tf.reshape(source.views, [num_images * num_views, source.views.shape[-1]])  # without a copy
    return tf.gather(views, positions * num_views + tf.gather(drawn, positions))


def _epoch_seed(source: TrainingImages, epoch: tf.Tensor) -> tf.Tensor:
    return tf.random.fold_in(tf.stack([tf.cast(source.seed, tf.int32), 0]), tf.cast(epoch, tf.int32))


def augment(images: tf.Tensor, augmentation: AugmentationConfig, seed: tf.Tensor) -> tf.Tensor:
    """Flip, rotate, shear, zoom and shift each image at random, in one resampling; edge pixels repeat outwards.

    Images are float32, (B, height, width, channels), before and after; the seed is int32, (2,). Values are drawn
    uniformly from the ranges of the settings.
    """
    return ops.image.affine_transform(images, _random_transforms(images, augmentation, seed), fill_mode="nearest")


def _random_transforms(images: tf.Tensor, augmentation: AugmentationConfig, seed: tf.Tensor) -> tf.Tensor:
    """Draw an affine map for each image, float32 (B, 8), from output to input: x' = a0 x + a1 y + a2 and so on."""
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
