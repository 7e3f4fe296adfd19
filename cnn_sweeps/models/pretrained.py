"""The network that goes on from a backbone."""

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

    A backbone that begins with weights is frozen but for its last `fine_tune` layers; its batch normalization always
    is, as https://keras.io/guides/transfer_learning has it. `conf/model/pretrained.yaml` describes the settings; shape
    and classes are those of `build_cnn`.

    Raises:
        ModelError: if the images do not fit the backbone, the weights are not its own, or it has fewer layers than are
            to be fine-tuned.
    """
    beginning = load_backbone(backbone, alpha, weights, input_shape, is_frozen=not fine_tune)
    if fine_tune >= (num_layers := len(beginning.layers)):
        raise ModelError(f"model.fine_tune={fine_tune}: {backbone} has {num_layers - 1} layers; set at most so many")
    if weights is not None:
        for i, layer in enumerate(beginning.layers, 1):
            is_frozen = i < num_layers - fine_tune or isinstance(layer, layers.BatchNormalization)
            layer.trainable = not is_frozen
    penalty = AdjustableL2(l2)
    x = AdjustableDropout(dropout, name="head_dropout")(beginning.output)
    for i, width in enumerate(dense_units, 1):
        x = layers.Dense(width, activation="relu", kernel_regularizer=penalty, name=f"head_dense_{i}")(x)
        x = layers.BatchNormalization(name=f"head_normalization_{i}")(x)
        x = AdjustableDropout(dropout, name=f"head_dropout_{i}")(x)
    return keras.Model(beginning.input, classification_head(x, num_classes), name=beginning.name)


def features_of(model: keras.Model) -> keras.KerasTensor | None:
    """Give the output of a network's layer `Features`, (B, D), if it has one, and nothing up to there is trained."""
    found = [layer for layer in model.layers if isinstance(layer, Features)]
    if not found or keras.Model(model.input, found[0].output).trainable_weights:
        return None
    return found[0].output
