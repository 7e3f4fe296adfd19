"""The layers of the networks here.

`plain_copy` replaces the layers of this module by those of Keras, so that a saved model loads without this package.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, regularizers
from numpy.typing import NDArray


def scaled(pixels: Any) -> Any:
    """Scale pixels from 0..255, the range that every network gets, to 0..1, in float32 also under mixed precision."""
    return layers.Rescaling(1 / 255, dtype="float32")(pixels)


def is_scaling(layer: layers.Layer) -> bool:
    """Return whether a layer scales pixels."""
    return isinstance(layer, (layers.Rescaling, layers.Normalization))


def classification_head(features: Any, num_classes: int) -> Any:
    """Turn features (B, D) into probabilities, float32 also under mixed precision.

    Two classes get a sigmoid, (B, 1), the probability of the second class; more get a softmax, (B, C).
    """
    units, activation = (1, "sigmoid") if num_classes == 2 else (num_classes, "softmax")
    return layers.Dense(units, activation=activation, dtype="float32", name="probabilities")(features)


def class_probabilities(outputs: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return one column per class, float64 (N, C), rows summing to 1, from a sigmoid (N, 1) or a softmax (N, C)."""
    exact = outputs.astype(np.float64)
    return np.hstack([1 - exact, exact]) if exact.shape[1] == 1 else exact


class Features(layers.GlobalAveragePooling2D):  # type: ignore[misc]
    """The mean of a feature map; marks the end of a backbone.

    If no layer before it is trained, its output for each image is computed once for all trainings.
    """


class AdjustableDropout(layers.Dropout):  # type: ignore[misc]
    """Dropout that reads its rate, in [0, 1), from a variable at each step, so that another trial needs no new graph.

    A layer that begins with rate 0 does nothing, and its rate cannot be changed later.
    """

    def __init__(self, rate: float, **settings: Any) -> None:
        """Hold the rate in a variable of TensorFlow; one of Keras would become a weight of the network."""
        super().__init__(rate, **settings)
        self.adjustable_rate = tf.Variable(rate, trainable=False, dtype=tf.float32)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Drop in training; scale what stays by 1 / (1 - rate)."""
        if not training or self.rate == 0:
            return inputs
        rate = tf.cast(self.adjustable_rate, inputs.dtype)  # the function of Keras takes no tensor
        seed = tf.cast(self.seed_generator.next(), tf.int32)
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:  # each device drops other outputs
            seed = tf.random.fold_in(seed, replica.replica_id_in_sync_group)
        shape = self.noise_shape and [tf.shape(inputs)[i] if d is None else d for i, d in enumerate(self.noise_shape)]
        return tf.nn.experimental.stateless_dropout(inputs, rate, seed, noise_shape=shape)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration with the current rate."""
        return {**super().get_config(), "rate": float(self.adjustable_rate.numpy())}


class AdjustableL2(regularizers.L2):  # type: ignore[misc]
    """L2 penalty that reads its factor, at least 0, of the sum of squares from a variable at each step."""

    def __init__(self, l2: float) -> None:
        """Hold the factor in a variable."""
        super().__init__(l2)
        self.l2: tf.Variable = tf.Variable(l2, trainable=False, dtype=tf.float32)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration with the current factor."""
        return {"l2": float(self.l2.numpy())}


def adjustable_values(model: keras.Model) -> list[tf.Variable]:
    """Return the dropout rates and L2 factors of a network, in the order of its layers."""
    values = []
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, AdjustableDropout):
            values.append(layer.adjustable_rate)
        values += [each.l2 for each in vars(layer).values() if isinstance(each, AdjustableL2)]
    return values


class FusedBatchNormalization(layers.BatchNormalization):  # type: ignore[misc]
    """BatchNormalization that trains with the fused kernel of TensorFlow.

    It computes the same as Keras's layer, up to rounding. Keras 3 reads the whole activation three times, for mean,
    variance and output. The kernel reads it once, so that training the default network on 128x128 images takes two
    thirds of the CPU time (`benchmarks/batch_normalization.py`).
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalize (B, height, width, channels) by the batch's statistics in training, else by the moving ones.

        The kernel cannot take statistics over several devices. A frozen layer is never in training.
        """
        is_image_batch = len(inputs.shape) == 4 and self._reduction_axes == [0, 1, 2]
        is_in_training = training and self.trainable
        if not is_in_training or not is_image_batch or self.synchronized or self.gamma is None or self.beta is None:
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, unbiased_variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma, self.beta, epsilon=self.epsilon, is_training=True
        )
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], unbiased_variance.dtype)
        for average, value in (
            (self.moving_mean, mean),
            (self.moving_variance, unbiased_variance * (count - 1) / count),
        ):
            average.assign(average * self.momentum + value * (1.0 - self.momentum))
        return outputs


_STANDARD = {
    AdjustableDropout: layers.Dropout,
    Features: layers.GlobalAveragePooling2D,
    FusedBatchNormalization: layers.BatchNormalization,
}


def plain_copy(model: keras.Model) -> keras.Model:
    """Copy a network, with its weights, into standard layers of Keras, so that it loads without this package."""
    uncompiled = keras.Model(model.input, model.output, name=model.name)  # else the optimizer is cloned, too
    copy = keras.models.clone_model(uncompiled, clone_function=_standard_layer, recursive=True)
    copy.set_weights(model.get_weights())
    return copy


def _standard_layer(layer: Any) -> Any:
    config = layer.get_config()
    for name, value in vars(layer).items():
        if isinstance(value, AdjustableL2) and name in config:
            config[name] = regularizers.L2(float(value.l2.numpy()))
    return _STANDARD.get(type(layer), type(layer)).from_config(config)
