"""The means and variances by which batch normalization normalizes outside training: measured, not followed.

In training, dropout and augmentation change what its layers see, and each step their weights. The moving averages of
that describe neither plain images without dropout nor the weights as they are; with a few hundred images validation can
stay at guessing for the whole training. Wu & Johnson 2021, https://arxiv.org/abs/2105.07576, measure anew, too.
"""

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


def forget(measured: list[layers.BatchNormalization]) -> None:
    """Set the statistics to 0, so that nothing of them remains, not even what is no number."""
    for layer in measured:
        for average in (layer.moving_mean, layer.moving_variance):
            average.assign(tf.zeros_like(average))


@contextmanager
def moving(measured: list[layers.BatchNormalization], momentum: tf.Tensor) -> Iterator[None]:
    """Have layers, while a graph is made, normalize by the batch and move their statistics to its, as in training.

    All else is as outside training, without dropout. The momentum, in 0 to 1, is not that of training.
    """
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
