"""This project's network `model=cnn` in plain Keras, compiled as every peer trains it."""

import keras
from keras import layers


def build_network(
    input_shape: tuple[int, int, int], steps_per_epoch: int, dropout: float, l2: float, decay_rate: float
) -> keras.Model:
    """Build a model of two classes for pixels in 0 to 1, with the metric `log_loss` without L2 penalty."""
    penalty = keras.regularizers.L2(l2)
    model = keras.Sequential([keras.Input(input_shape)])
    for filters, share in ((32, 0.6), (64, 0.6), (128, 0.8)):
        model.add(layers.Conv2D(filters, 3, padding="same", activation="relu", kernel_regularizer=penalty))
        model.add(layers.BatchNormalization(momentum=0.9))
        model.add(layers.MaxPooling2D())
        model.add(layers.Dropout(share * dropout))
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(128, activation="relu", kernel_regularizer=penalty))
    model.add(layers.BatchNormalization(momentum=0.9))
    model.add(layers.Dropout(dropout))
    model.add(layers.Dense(64, activation="relu", kernel_regularizer=penalty))
    model.add(layers.Dense(1, activation="sigmoid"))
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(1e-3, steps_per_epoch, decay_rate)),
        "binary_crossentropy",
        metrics=[keras.metrics.BinaryCrossentropy(name="log_loss"), "accuracy"],
    )
    return model
