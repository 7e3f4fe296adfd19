"""Measures the means and variances that batch normalization uses outside training, in place of moving averages.

In training, dropout and augmentation change the inputs of its layers, and each step changes the weights. So the moving
averages fit neither plain images without dropout nor the current weights: with a few hundred images, validation can
stay at chance for the whole training. Wu & Johnson 2021, https://arxiv.org/abs/2105.07576, also measure them anew.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf
from keras import layers


def measurable_layers(model: keras.Model) -> list[layers.BatchNormalization]:
    """Return the batch normalization layers of a network, nested ones included, whose statistics may be replaced.

    A frozen layer keeps the statistics that it came with. Batch renormalization uses its averages in training.
    """
    found = [layer for layer in model._flatten_layers() if isinstance(layer, layers.BatchNormalization)]
    return [layer for layer in found if layer.trainable and not layer.renorm]


def forget(measured: list[layers.BatchNormalization]) -> None:
    """Set the statistics to 0, so that no earlier value remains, not even NaN."""
    for layer in measured:
        for average in (layer.moving_mean, layer.moving_variance):
            average.assign(tf.zeros_like(average))


@contextmanager
def moving(measured: list[layers.BatchNormalization], momentum: tf.Tensor) -> Iterator[None]:
    """Make layers use and follow the batch's statistics, as in training, in a graph that is traced in this block.

    All other layers act as outside training, without dropout. The momentum, 0 to 1, replaces that of the layers.
    """
    momenta = [layer.momentum for layer in measured]
    for layer in measured:
        vars(layer).update(call=_as_in_training(layer), momentum=momentum)  # setattr of Keras would track them
    try:
        yield
    finally:
        for layer, own in zip(measured, momenta, strict=True):
            del vars(layer)["call"]
            vars(layer)["momentum"] = own


def _as_in_training(layer: layers.BatchNormalization) -> Any:
    own_call = layer.call
    return lambda inputs, training=None, mask=None: own_call(inputs, training=True, mask=mask)  # noqa: ARG005
