"""The frozen MobileNetV2 and the trained head of trials, as in `model=pretrained`."""

from typing import Any

import keras
from careful import objective, record_fit
from keras import layers
from workload import BATCH_SIZE, PATIENCE


def build_backbone(settings: Any) -> keras.Model:
    """Return a network from pixels, 0 to 255, (N, size, size, 3), to the mean of the feature map, (N, 1280)."""
    shape = (settings.size, settings.size, 3)
    backbone = keras.applications.MobileNetV2(
        input_shape=shape, include_top=False, weights=settings.weights, pooling="avg"
    )
    backbone.trainable = False
    pixels = keras.Input(shape)
    return keras.Model(pixels, backbone(layers.Rescaling(1 / 127.5, -1)(pixels), training=False))


def train_head(beginning: keras.Model | None, settings: Any, params: dict[str, float], num: int, **data: Any) -> float:
    """Train and record a head on a network or, if that is None, on features; return the objective.

    `num` is the number of training images.
    """
    inputs = keras.Input((1280,)) if beginning is None else beginning.input
    penalty = keras.regularizers.L2(params["l2"])
    x = layers.Dropout(params["dropout"])(inputs if beginning is None else beginning.output)
    x = layers.Dense(64, activation="relu", kernel_regularizer=penalty)(x)
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.Dropout(params["dropout"])(x)
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))
    rate = keras.optimizers.schedules.ExponentialDecay(1e-3, -(-num // BATCH_SIZE), params["decay_rate"])
    log_loss = keras.metrics.BinaryCrossentropy(name="log_loss")
    model.compile(
        keras.optimizers.Adam(rate),
        "binary_crossentropy",
        metrics=[log_loss, "accuracy"],
        steps_per_execution=8,  # a third faster on features
    )
    stopping = keras.callbacks.EarlyStopping("val_log_loss", patience=PATIENCE, restore_best_weights=True)
    return objective(record_fit(model, settings, params, (stopping,), **data))
