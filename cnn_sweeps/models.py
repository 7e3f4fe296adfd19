"""The networks that `model._target_` names, and their parts.

`plain_copy` turns the layers of this module back into Keras's own, so that what is kept loads without this package.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from keras import layers, regularizers
from numpy.typing import NDArray

from cnn_sweeps.errors import ModelError
from cnn_sweeps.settings.config import smallest_cnn_image


def build_cnn(
    input_shape: tuple[int, int, int],
    num_classes: int,
    filters: Sequence[int],
    dense_units: Sequence[int],
    dropout: float,
    l2: float,
    padding: Literal["same", "valid"],
) -> keras.Model:
    """Build blocks of 3x3 convolution, ReLU, batch norm, 2x2 max pooling and dropout; average pooling; dense layers.

    All dense layers have ReLU, all but the last batch norm and dropout. It is the seed network,
    https://github.com/Arahman100198/CNN-Binary-Image-Classify-Net, made general; `conf/model/cnn.yaml` describes the
    settings.

    Args:
        input_shape: height, width, channels; pixels are 0 to 255.
        num_classes: 2 gives one sigmoid output, more give a softmax.

    Raises:
        ModelError: if the image is too small for so many blocks.
    """
    smallest = smallest_cnn_image(len(filters), padding)
    if min(input_shape[:2]) < smallest:
        raise ModelError(
            f"images of {input_shape[0]}x{input_shape[1]} pixels are too small for {len(filters)} blocks with "
            f"model.padding={padding}; allowed: at least {smallest} a side; shorten model.filters "
            "or set model.padding=same"
        )
    penalty = AdjustableL2(l2)
    inputs = keras.Input(input_shape, name="image")
    x = scaled(inputs)
    for i, width in enumerate(filters):
        x = layers.Conv2D(width, 3, padding=padding, activation="relu", kernel_regularizer=penalty)(x)
        x = FusedBatchNormalization()(x)
        x = layers.MaxPooling2D()(x)
        x = AdjustableDropout(dropout * (0.8 if i == len(filters) - 1 else 0.6))(x)
    x = layers.GlobalAveragePooling2D()(x)
    for width in dense_units[:-1]:
        x = layers.Dense(width, activation="relu", kernel_regularizer=penalty)(x)
        x = layers.BatchNormalization()(x)
        x = AdjustableDropout(dropout)(x)
    x = layers.Dense(dense_units[-1], activation="relu", kernel_regularizer=penalty)(x)
    return keras.Model(inputs, classification_head(x, num_classes), name="cnn")


def build_residual(
    input_shape: tuple[int, int, int],
    num_classes: int,
    filters: Sequence[int],
    blocks_per_stage: int,
    dropout: float,
    l2: float,
) -> keras.Model:
    """Build stages of pre-activation residual blocks (He et al. 2016, https://arxiv.org/abs/1603.05027).

    Dropout inside a block sits between its convolutions (Zagoruyko & Komodakis 2016, https://arxiv.org/abs/1605.07146).
    `conf/model/residual.yaml` describes the settings; shape and classes are those of `build_cnn`.
    """
    settings = {"padding": "same", "use_bias": False, "kernel_initializer": "he_normal"}
    convolution = partial(layers.Conv2D, **settings, kernel_regularizer=AdjustableL2(l2))

    def normalized(x: Any) -> Any:
        return layers.ReLU()(FusedBatchNormalization()(x))

    inputs = keras.Input(input_shape, name="image")
    x = convolution(filters[0], 3)(scaled(inputs))
    for stage, width in enumerate(filters):
        for block in range(blocks_per_stage):
            stride = 2 if stage > 0 and block == 0 else 1  # a later stage begins by halving height and width
            activated = normalized(x)
            shortcut = x if stride == 1 and x.shape[-1] == width else convolution(width, 1, stride)(activated)
            y = normalized(convolution(width, 3, stride)(activated))
            y = AdjustableDropout(dropout / 2)(y)
            x = layers.Add()([convolution(width, 3)(y), shortcut])
    x = layers.GlobalAveragePooling2D()(normalized(x))
    x = AdjustableDropout(dropout)(x)
    return keras.Model(inputs, classification_head(x, num_classes), name="residual")


def scaled(pixels: Any) -> Any:
    """Bring pixels from 0 to 255, as every network gets them, to 0 to 1; in float32, also under mixed precision."""
    return layers.Rescaling(1 / 255, dtype="float32")(pixels)


def is_scaling(layer: layers.Layer) -> bool:
    """Tell whether a layer brings pixels to another range."""
    return isinstance(layer, (layers.Rescaling, layers.Normalization))


def classification_head(features: Any, num_classes: int) -> Any:
    """Turn features (B, D) into probabilities: sigmoid (B, 1) of the second of two classes, else softmax (B, C).

    In float32, also under mixed precision.
    """
    units, activation = (1, "sigmoid") if num_classes == 2 else (num_classes, "softmax")
    return layers.Dense(units, activation=activation, dtype="float32", name="probabilities")(features)


def class_probabilities(outputs: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Give one column a class, float64 (N, C), rows summing to 1, from a sigmoid (N, 1) or a softmax (N, C)."""
    exact = outputs.astype(np.float64)
    return np.hstack([1 - exact, exact]) if exact.shape[1] == 1 else exact


class AdjustableDropout(layers.Dropout):  # type: ignore[misc]
    """Keras's Dropout, whose rate, in [0, 1), is read from a variable at each step: another trial needs no new graph.

    Without effect, and without a graph to be adjusted, where the rate is 0.
    """

    def __init__(self, rate: float, **settings: Any) -> None:
        """Hold the rate in TensorFlow's variable; Keras's would become a weight of the network."""
        super().__init__(rate, **settings)
        self.adjustable_rate = tf.Variable(rate, trainable=False, dtype=tf.float32)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Drop in training; scale what stays by 1 / (1 - rate)."""
        if not training or self.rate == 0:
            return inputs
        rate = tf.cast(self.adjustable_rate, inputs.dtype)  # which Keras's own function takes only as a number
        seed = tf.cast(self.seed_generator.next(), tf.int32)
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:  # others drop other outputs of their images
            seed = tf.random.fold_in(seed, replica.replica_id_in_sync_group)
        shape = self.noise_shape and [tf.shape(inputs)[i] if d is None else d for i, d in enumerate(self.noise_shape)]
        return tf.nn.experimental.stateless_dropout(inputs, rate, seed, noise_shape=shape)

    def get_config(self) -> dict[str, Any]:
        """Give the rate as it is now."""
        return {**super().get_config(), "rate": float(self.adjustable_rate.numpy())}


class AdjustableL2(regularizers.L2):  # type: ignore[misc]
    """Keras's L2 penalty, whose factor of the sum of squares, at least 0, is read from a variable at each step."""

    def __init__(self, l2: float) -> None:
        """Hold the factor in a variable."""
        super().__init__(l2)
        self.l2: tf.Variable = tf.Variable(l2, trainable=False, dtype=tf.float32)

    def get_config(self) -> dict[str, Any]:
        """Give the factor as it is now."""
        return {"l2": float(self.l2.numpy())}


def adjustable_values(model: keras.Model) -> list[tf.Variable]:
    """Give the dropout rates and penalty factors of a network, in the order of its layers."""
    values = []
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, AdjustableDropout):
            values.append(layer.adjustable_rate)
        values += [each.l2 for each in vars(layer).values() if isinstance(each, AdjustableL2)]
    return values


class FusedBatchNormalization(layers.BatchNormalization):  # type: ignore[misc]
    """Keras's BatchNormalization, computed in training by TensorFlow's fused kernel.

    The same function, statistics and variables (to rounding). Keras 3 computes mean, variance and output one after the
    other, each reading the whole activation; the kernel reads it once, and training the default network on 128x128
    images takes two thirds of the CPU time (`benchmarks/batch_normalization.py`).
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalize (B, height, width, channels) by the batch's statistics in training, else by the moving ones.

        Statistics over the batches of several devices are beyond the kernel. A frozen layer is never in training.
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


_STANDARD = {AdjustableDropout: layers.Dropout, FusedBatchNormalization: layers.BatchNormalization}


def plain_copy(model: keras.Model) -> keras.Model:
    """Copy a network into standard Keras layers only, with the same weights, so that it loads without this package."""
    uncompiled = keras.Model(model.input, model.output, name=model.name)  # whose optimizer is not cloned along
    copy = keras.models.clone_model(uncompiled, clone_function=_standard_layer, recursive=True)
    copy.set_weights(model.get_weights())
    return copy


def _standard_layer(layer: Any) -> Any:
    config = layer.get_config()
    for name, value in vars(layer).items():
        if isinstance(value, AdjustableL2) and name in config:
            config[name] = regularizers.L2(float(value.l2.numpy()))
    return _STANDARD.get(type(layer), type(layer)).from_config(config)
