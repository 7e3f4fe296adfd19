"""The networks are what they say."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import compose
from keras import layers

import cnn_sweeps
from cnn_sweeps.errors import ModelError
from cnn_sweeps.models import FusedBatchNormalization, build_cnn, build_residual
from cnn_sweeps.models.layers import plain_copy
from cnn_sweeps.settings.targets import call_target

CNN = {
    "filters": [4, 8],
    "dense_units": [8, 4],
    "dropout": 0.5,
    "l2": 1e-3,
    "padding": "same",
}
RESIDUAL = {"filters": [4, 8], "blocks_per_stage": 2, "dropout": 0.4, "l2": 1e-3}


def of_kind(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


def test_seed_network_has_the_notebooks_parameters():
    settings = compose("experiment=dogs_vs_cats", "data.root=images").model
    model = call_target("model", settings, input_shape=(128, 128, 3), num_classes=2)
    assert model.count_params() == 119_489
    assert sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) == 118_785


def test_dropout_scales_the_four_rates_in_the_notebooks_ratio():
    model = build_cnn((32, 32, 3), 2, **CNN | {"filters": [4, 8, 8]})
    assert [layer.rate for layer in of_kind(model, layers.Dropout)] == pytest.approx([0.3, 0.3, 0.4, 0.5])


def test_l2_penalty_is_on_every_kernel_but_the_outputs():
    penalized = of_kind(build_cnn((32, 32, 3), 2, **CNN), (layers.Conv2D, layers.Dense))
    assert [float(layer.kernel_regularizer.l2) for layer in penalized[:-1]] == pytest.approx([1e-3] * 4)
    assert penalized[-1].kernel_regularizer is None


@pytest.mark.parametrize("build", [lambda *a: build_cnn(*a, **CNN), lambda *a: build_residual(*a, **RESIDUAL)])
@pytest.mark.parametrize(("num_classes", "units"), [(2, 1), (5, 5)])
def test_output_is_a_probability_for_any_number_of_classes_and_channels(build, num_classes, units):
    outputs = build((16, 20, 1), num_classes)(np.random.default_rng(0).random((3, 16, 20, 1), np.float32)).numpy()
    assert outputs.shape == (3, units)
    assert np.all((outputs > 0) & (outputs < 1))
    if units > 1:
        assert outputs.sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize("build", [lambda *a: build_cnn(*a, **CNN), lambda *a: build_residual(*a, **RESIDUAL)])
def test_network_scales_its_pixels_whatever_their_type_and_its_precision(build):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 20, 1), np.uint8)
    try:
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
        model = build((16, 20, 1), 2)
        (scaling,) = of_kind(model, layers.Rescaling)
        first = keras.Model(model.input, scaling.output)
        for given in (pixels, pixels.astype(np.float32) + np.float32(0.3)):
            np.testing.assert_allclose(first(given), given / 255, rtol=1e-6)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert scaling.output.dtype == "float32"


def test_pixels_are_scaled_nowhere_else():
    package = Path(cnn_sweeps.__file__).parent
    found = [file.name for file in package.rglob("*.py") if re.search(r"/ (np\.float32\()?255", file.read_text())]
    assert found == ["layers.py"]


@pytest.mark.parametrize(("padding", "smallest"), [("same", 4), ("valid", 10)])
def test_image_smaller_than_the_network_takes_is_refused_and_the_smallest_works(padding, smallest):
    build_cnn((smallest, smallest, 1), 2, **CNN | {"padding": padding})
    with pytest.raises(ModelError, match=f"at least {smallest} a side"):
        build_cnn((smallest, smallest - 1, 1), 2, **CNN | {"padding": padding})


def test_residual_network_halves_the_image_at_each_later_stage_and_takes_any_size():
    model = build_residual((32, 32, 3), 2, **RESIDUAL)
    assert of_kind(model, layers.GlobalAveragePooling2D)[0].input.shape == (None, 16, 16, 8)
    assert build_residual((1, 1, 1), 2, **RESIDUAL)(np.zeros((1, 1, 1, 1), np.float32)).shape == (1, 1)


def both_normalizations():
    random = np.random.default_rng(0)
    pair = [layers.BatchNormalization(momentum=0.8), FusedBatchNormalization(momentum=0.8)]
    values = [random.normal(size=3).astype(np.float32) for _ in range(2)]
    for layer in pair:
        layer.build((None, 6, 5, 3))
        layer.gamma.assign(values[0])
        layer.beta.assign(values[1])
    return pair, keras.ops.convert_to_tensor(random.normal(2, 3, (4, 6, 5, 3)).astype(np.float32))


def test_fused_batch_normalization_computes_what_keras_does():
    (ours, keras_own), images = both_normalizations()[0][::-1], both_normalizations()[1]
    for training in (True, True, False):
        assert ours(images, training=training).numpy() == pytest.approx(
            keras_own(images, training=training).numpy(), abs=1e-4
        )
    assert ours.moving_mean.numpy() == pytest.approx(keras_own.moving_mean.numpy(), rel=1e-4)
    assert ours.moving_variance.numpy() == pytest.approx(keras_own.moving_variance.numpy(), rel=1e-4)


def test_fused_batch_normalization_has_kerass_gradients():
    import tensorflow as tf

    pair, images = both_normalizations()
    gradients = []
    for layer in pair:
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = tf.reduce_sum(layer(images, training=True) ** 3)
        gradients.append(tape.gradient(loss, [images, layer.gamma, layer.beta]))
    for ours, expected in zip(*gradients, strict=True):
        assert ours.numpy() == pytest.approx(expected.numpy(), rel=1e-3, abs=1e-2)


@pytest.mark.parametrize("build", [lambda *a: build_cnn(*a, **CNN), lambda *a: build_residual(*a, **RESIDUAL)])
def test_plain_copy_has_standard_layers_only_and_predicts_the_same(build):
    model = build((16, 16, 1), 2)
    copy = plain_copy(model)
    images = np.random.default_rng(0).random((3, 16, 16, 1), np.float32)
    assert {type(layer).__module__.split(".")[0] for layer in copy.layers} == {"keras"}
    assert np.array_equal(copy(images), model(images))
