"""The network with a backbone of `keras.applications`."""

from collections.abc import Sequence

import keras
from keras import layers

from cnn_sweeps.errors import ModelError
from cnn_sweeps.models.backbone import load_backbone
from cnn_sweeps.models.layers import AdjustableDropout, AdjustableL2, Features, classification_head


def build_pretrained(
    input_shape: tuple[int, int, int],
    num_classes: int,
    backbone: str,
    alpha: float | None,
    weights: str | None,
    dense_units: Sequence[int],
    dropout: float,
    l2: float,
    fine_tune: int,
) -> keras.Model:
    """Build a backbone of `keras.applications` with dense layers on its pooled features.

    A backbone with given weights is frozen, except for its last `fine_tune` layers. Its batch normalization is always
    frozen, as https://keras.io/guides/transfer_learning recommends. `conf/model/pretrained.yaml` describes the
    settings; `input_shape` and `num_classes` are as in `build_cnn`.

    Raises:
        ModelError: if the images do not fit the backbone, the weights are not its own, or it has fewer than `fine_tune`
            layers.
    """
    base = load_backbone(backbone, alpha, weights, input_shape, is_frozen=not fine_tune)
    if fine_tune >= (num_layers := len(base.layers)):
        raise ModelError(
            f"model.fine_tune={fine_tune}: {backbone} has {num_layers - 1} layers; set at most {num_layers - 1}"
        )
    if weights is not None:
        for i, layer in enumerate(base.layers, 1):
            is_frozen = i < num_layers - fine_tune or isinstance(layer, layers.BatchNormalization)
            layer.trainable = not is_frozen
    penalty = AdjustableL2(l2)
    x = AdjustableDropout(dropout, name="head_dropout")(base.output)
    for i, width in enumerate(dense_units, 1):
        x = layers.Dense(width, activation="relu", kernel_regularizer=penalty, name=f"head_dense_{i}")(x)
        x = layers.BatchNormalization(name=f"head_normalization_{i}")(x)
        x = AdjustableDropout(dropout, name=f"head_dropout_{i}")(x)
    return keras.Model(base.input, classification_head(x, num_classes), name=base.name)


def features_of(model: keras.Model) -> keras.KerasTensor | None:
    """Return the output of the network's `Features` layer, (B, D); None if it has none, or a layer before it trains."""
    found = [layer for layer in model.layers if isinstance(layer, Features)]
    if not found or keras.Model(model.input, found[0].output).trainable_weights:
        return None
    return found[0].output
