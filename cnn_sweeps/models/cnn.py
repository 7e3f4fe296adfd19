"""The seed network: https://github.com/Arahman100198/CNN-Binary-Image-Classify-Net, made general."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import keras
from keras import layers

from cnn_sweeps.errors import ModelError
from cnn_sweeps.models.blocks import (
    AdjustableDropout,
    AdjustableL2,
    FusedBatchNormalization,
    classification_head,
    scaled,
)
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

    Args:
        input_shape: height, width, channels; pixels are 0 to 255.
        num_classes: 2 gives one sigmoid output, more give a softmax.
        filters: of the convolutions, one block each.
        dense_units: of the dense layers, each with ReLU; all but the last with batch norm and dropout.
        dropout: rate in the dense layers, in [0, 1); the last block drops 0.8 of it, the others 0.6 of it.
        l2: penalty on the kernels, times their sum of squares.
        padding: of the convolutions.

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
