"""What the networks share."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import layers


class FusedBatchNormalization(layers.BatchNormalization):  # type: ignore[misc]
    """Keras's BatchNormalization, computed in training by TensorFlow's fused kernel.

    The same function, statistics and variables (to rounding). Keras 3 computes mean, variance and output one after the
    other, each reading the whole activation; the kernel reads it once, and training the default network on 128x128
    images takes two thirds of the CPU time (`benchmarks/batch_normalization.py`). `plain_copy` turns it back into the
    standard layer.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalize (B, height, width, channels) by the batch's statistics in training, else by the moving ones."""
        is_image_batch = len(inputs.shape) == 4 and self._reduction_axes == [0, 1, 2]
        if not training or not is_image_batch or self.gamma is None or self.beta is None:
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, unbiased_variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma, self.beta, epsilon=self.epsilon, is_training=True
        )
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], unbiased_variance.dtype)
        self._move(self.moving_mean, mean)
        self._move(self.moving_variance, unbiased_variance * (count - 1) / count)
        return outputs

    def _move(self, average: Any, value: Any) -> None:
        average.assign(average * self.momentum + value * (1.0 - self.momentum))


def classification_head(features: Any, num_classes: int) -> Any:
    """Turn features (B, D) into probabilities: sigmoid (B, 1) of the second of two classes, else softmax (B, C).

    In float32, also under mixed precision.
    """
    units, activation = (1, "sigmoid") if num_classes == 2 else (num_classes, "softmax")
    return layers.Dense(units, activation=activation, dtype="float32", name="probabilities")(features)


def plain_copy(model: keras.Model) -> keras.Model:
    """Copy a network into standard Keras layers only, with the same weights, so that it loads without this package."""

    def standard(layer: Any) -> Any:
        kind = layers.BatchNormalization if isinstance(layer, FusedBatchNormalization) else type(layer)
        return kind.from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=standard)
    copy.set_weights(model.get_weights())
    return copy
