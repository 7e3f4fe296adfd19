"""The means and variances by which batch normalization normalizes outside training: measured, not followed.

In training, dropout and augmentation change what its layers see, and each step their weights. The moving averages of
that describe neither plain images without dropout nor the weights as they are; with a few hundred images validation can
stay at guessing for the whole training. Wu & Johnson 2021, https://arxiv.org/abs/2105.07576, measure anew, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf
from keras import layers


def measurable_layers(model: keras.Model) -> list[layers.BatchNormalization]:
    """Give the batch normalizations of a network, wherever in it, whose training does not depend on their averages.

    A frozen one keeps the statistics that it came with, and batch renormalization trains by its own.
    """
    found = [layer for layer in model._flatten_layers() if isinstance(layer, layers.BatchNormalization)]
    return [layer for layer in found if layer.trainable and not layer.renorm]


def measuring_step(model: keras.Model) -> Any:
    """Give the function that moves the statistics of a network by `weight`, in 0 to 1, to those of a batch.

    Each layer normalizes by the batch; all else is as outside training, without dropout.
    """
    measured = measurable_layers(model)

    def step(images: tf.Tensor, weight: tf.Tensor) -> None:
        with _moving(measured, 1.0 - weight):
            model(images, training=False)

    return step


def forget(model: keras.Model) -> None:
    """Set the statistics to 0, so that nothing of them remains, not even what is no number."""
    for layer in measurable_layers(model):
        for average in (layer.moving_mean, layer.moving_variance):
            average.assign(tf.zeros_like(average))


@contextmanager
def _moving(measured: list[layers.BatchNormalization], momentum: tf.Tensor) -> Iterator[None]:
    """Have layers, while a graph is made, behave as in training, with a momentum of its own."""
    momenta = [layer.momentum for layer in measured]
    for layer in measured:
        vars(layer).update(call=_as_in_training(layer), momentum=momentum)  # past Keras, which would keep track of them
    try:
        yield
    finally:
        for layer, own in zip(measured, momenta, strict=True):
            del vars(layer)["call"]
            vars(layer)["momentum"] = own


def _as_in_training(layer: layers.BatchNormalization) -> Any:
    own_call = layer.call
    return lambda inputs, training=None, mask=None: own_call(inputs, training=True, mask=mask)  # noqa: ARG005
