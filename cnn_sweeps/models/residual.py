"""A small residual network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from cnn_sweeps.models.blocks import (
    AdjustableDropout,
    AdjustableL2,
    FusedBatchNormalization,
    classification_head,
    scaled,
)


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

    Args:
        input_shape: height, width, channels; pixels are 0 to 255.
        num_classes: 2 gives one sigmoid output, more give a softmax.
        filters: one stage each; every stage after the first halves height and width.
        blocks_per_stage: at least 1.
        dropout: rate before the output, in [0, 1); blocks drop half of it.
        l2: penalty on the kernels, times their sum of squares.
    """
    penalty = AdjustableL2(l2)

    def convolution(x: Any, width: int, size: int, stride: int = 1) -> Any:
        return layers.Conv2D(
            width,
            size,
            stride,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            kernel_regularizer=penalty,
        )(x)

    def normalized(x: Any) -> Any:
        return layers.ReLU()(FusedBatchNormalization()(x))

    inputs = keras.Input(input_shape, name="image")
    x = convolution(scaled(inputs), filters[0], 3)
    for stage, width in enumerate(filters):
        for block in range(blocks_per_stage):
            stride = 2 if stage > 0 and block == 0 else 1
            activated = normalized(x)
            shortcut = x if stride == 1 and x.shape[-1] == width else convolution(activated, width, 1, stride)
            y = normalized(convolution(activated, width, 3, stride))
            y = AdjustableDropout(dropout / 2)(y)
            x = layers.Add()([convolution(y, width, 3), shortcut])
    x = layers.GlobalAveragePooling2D()(normalized(x))
    x = AdjustableDropout(dropout)(x)
    return keras.Model(inputs, classification_head(x, num_classes), name="residual")
