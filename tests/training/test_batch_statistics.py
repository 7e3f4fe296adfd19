"""What batch normalization normalizes by outside training: measured on the training images, as they are."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from conftest import TINY_CNN, TINY_DATA, compose
from test_training import Run

from cnn_sweeps.models.layers import FusedBatchNormalization, classification_head
from cnn_sweeps.settings.targets import call_target
from cnn_sweeps.training import network
from cnn_sweeps.training.batches import training_images
from cnn_sweeps.training.warm import build_network

DISTURBED = ["regularization=full", "augmentation.shift_fraction=0.2"]  # dropout and augmentation


def differences(model, images):
    """Give by how much the statistics of each batch normalization differ from those of the images, in deviations."""
    found = []
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            seen = np.asarray(
                keras.Model(model.input, layer.input)(images.astype(np.float32), training=False), np.float32
            )
            seen = seen.reshape(-1, seen.shape[-1])
            deviation = seen.std(axis=0) + 1e-3
            found.append(np.abs(seen.mean(axis=0) - layer.moving_mean.numpy()) / deviation)
            found.append(np.abs(seen.std(axis=0) - np.sqrt(layer.moving_variance.numpy())) / deviation)
    return np.concatenate(found)


@pytest.mark.parametrize(
    ("architecture", "tolerance"),
    [(TINY_CNN, 0.01), (["model=residual", "model.filters=[4]"], 0.01), (["training.precision=mixed_bfloat16"], 0.1)],
    ids=["cnn", "residual", "mixed precision"],
)
def test_statistics_are_those_of_the_training_images_as_they_are(architecture, tolerance):
    try:
        run = Run(*DISTURBED, *architecture).train()
        assert differences(run.model, run.images.numpy()).max() < tolerance
    finally:
        keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize("seed", [0, 1])
def test_few_images_are_learned_in_spite_of_dropout_and_augmentation(seed):
    learning = ["training.epochs=15", "optimizer.learning_rate=0.01", f"seed={seed}"]
    run = Run(*TINY_CNN, "regularization=full", *learning).train()
    assert run.measure()["log_loss"] < 0.1


def test_training_does_not_depend_on_the_measuring(monkeypatch):
    def weights():
        return [each.numpy() for each in Run(*DISTURBED).train().model.trainable_variables]

    measured = weights()
    monkeypatch.setattr(network.Network, "measure_batch_statistics", lambda *_, **__: None)
    assert all(np.array_equal(a, b) for a, b in zip(measured, weights(), strict=True))


def test_few_of_many_images_are_measured_always_the_same_in_equal_parts(monkeypatch):
    monkeypatch.setattr(network, "_MOST_MEASURED_IMAGES", 40)
    monkeypatch.setattr(network, "_PIXELS_A_CALL", 1)
    run, parts = Run(), []
    monkeypatch.setattr(run.network, "_measure", lambda _, indices, weight: parts.append((indices, float(weight))))
    source = training_images(run.images, run.labels, run.everything, seed=1, batch_size=16)
    for _ in range(2):
        run.network.measure_batch_statistics(source)
    indices = [index for part, _ in parts[:2] for index in part.numpy().tolist()]
    assert len(set(indices)) == 40
    assert indices == [index for part, _ in parts[2:] for index in part.numpy().tolist()]
    assert [(len(part), weight) for part, weight in parts[:2]] == [(20, 1.0), (20, 0.5)]


class Block(keras.layers.Layer):
    """A user's layer with a normalization inside."""

    def __init__(self):
        super().__init__()
        self.normalization = keras.layers.BatchNormalization()

    def call(self, inputs, training=False):
        return self.normalization(inputs, training=training)


def build_mine(input_shape, num_classes, dropout, l2):
    inputs = keras.Input(input_shape)
    frozen = FusedBatchNormalization(name="frozen", trainable=False)
    x = frozen(keras.layers.Conv2D(4, 3, kernel_regularizer=keras.regularizers.L2(l2))(inputs))
    x = keras.layers.BatchNormalization(name="own", momentum=0.99)(x)
    x = Block()(keras.layers.Dropout(dropout)(keras.layers.GlobalAveragePooling2D()(x)))
    return keras.Model(inputs, classification_head(x, num_classes))


def mine():
    config = compose(*TINY_DATA)
    data = call_target("data", config.data)
    model = {"_target_": f"{__name__}.build_mine", "dropout": 0.5, "l2": 0.1}
    made = build_network(replace(config, model=model), data, 60)
    source = training_images(data.images, data.labels, np.arange(60), seed=0, batch_size=16)
    return made, source, data.images


def test_normalizations_of_a_users_network_are_measured_wherever_they_are_and_frozen_ones_left():
    made, source, images = mine()
    made.train_steps(source, epoch=0, first_step=0, num_steps=4)
    made.measure_batch_statistics(source)
    frozen, own = (made.model.get_layer(name) for name in ("frozen", "own"))
    (block,) = (layer for layer in made.model.layers if isinstance(layer, Block))
    assert (frozen.moving_mean.numpy() == 0).all()
    assert (frozen.moving_variance.numpy() == 1).all()
    for layer, inputs in ((own, own.input), (block.normalization, block.input)):
        seen = keras.Model(made.model.input, inputs)(images.astype(np.float32), training=False).numpy()
        seen = seen.reshape(-1, seen.shape[-1])
        assert layer.moving_mean.numpy() == pytest.approx(seen.mean(axis=0), rel=1e-5, abs=1e-4)
        assert layer.moving_variance.numpy() == pytest.approx(seen.var(axis=0), rel=1e-2, abs=1e-6)
    assert own.momentum == 0.99  # what Keras keeps with the model
    assert own.get_config()["momentum"] == 0.99


def test_what_is_no_number_is_not_kept():
    made, source, _ = mine()
    own = made.model.get_layer("own")
    own.moving_variance.assign(np.full(4, np.nan))
    made.measure_batch_statistics(source)
    assert np.isfinite(own.moving_variance.numpy()).all()
