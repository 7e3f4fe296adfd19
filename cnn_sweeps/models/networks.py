"""The networks that start with random weights."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import keras
from keras import layers

from cnn_sweeps.errors import ModelError
from cnn_sweeps.models.layers import (
    AdjustableDropout,
    AdjustableL2,
    FusedBatchNormalization,
    classification_head,
    scaled,
)
from cnn_sweeps.settings.config import smallest_cnn_image
from cnn_sweeps.text.numbers import counted


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

    Each dense layer has ReLU; all but the last have batch norm and dropout. This generalizes the seed network,
    https://github.com/Arahman100198/CNN-Binary-Image-Classify-Net. `conf/model/cnn.yaml` describes the settings.

    Args:
        input_shape: height, width, channels; pixels are 0 to 255.
        num_classes: at least 2; 2 gives one sigmoid output, more give a softmax.

    Raises:
        ModelError: if the images are too small for so many blocks.
    """
    smallest = smallest_cnn_image(len(filters), padding)
    if min(input_shape[:2]) < smallest:
        raise ModelError(
            f"images of {input_shape[0]}x{input_shape[1]} pixels are too small for {counted(len(filters), 'block')} "
            f"with model.padding={padding}; allowed: at least {smallest} a side; shorten model.filters "
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
    `conf/model/residual.yaml` describes the settings; `input_shape` and `num_classes` are as in `build_cnn`.
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
