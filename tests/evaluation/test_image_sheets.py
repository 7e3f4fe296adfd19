"""Images of the data are shown with the right names, and networks as they are."""

import base64
import io

import keras
import numpy as np
import pytest
from conftest import TINY_CNN, compose
from measured import measured_of, of_second
from PIL import Image

from cnn_sweeps.evaluation import pictures, thumbnails
from cnn_sweeps.evaluation.grad_cam import grad_cam, has_grad_cam
from cnn_sweeps.models.layers import plain_copy, scaled
from cnn_sweeps.settings.targets import call_target

CLASSES = ["ant", "bee"]


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def test_mistakes_come_with_the_most_confident_first():
    scores, labels = [0.1, 0.4, 0.2, 0.9, 0.01], np.array([0, 1, 1, 0, 1])
    measured = measured_of(of_second(scores), labels, CLASSES)
    assert thumbnails.most_confident_mistakes(measured).tolist() == [4, 3, 2, 1]


def test_explained_are_right_ones_of_every_class_and_then_wrong_ones():
    scores, labels = [0.01, 0.02, 0.03, 0.04, 0.05, 0.6, 0.9], np.array([0, 0, 0, 0, 0, 1, 0])
    measured = measured_of(of_second(scores), labels, CLASSES)
    assert thumbnails.images_to_explain(measured).tolist() == [0, 5, 1, 2, 6]


def picture_of(address):
    kind, _, content = address.partition(";base64,")
    assert kind == "data:image/jpeg"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def test_mistakes_are_shown_with_file_name_prediction_and_truth():
    images = np.repeat(np.array([0, 100, 200], np.uint8), 8 * 4 * 3).reshape(3, 8, 4, 3)
    about = {"threshold": 0.2, "images": images, "file_names": ["ant/0.jpg", "ant/1.jpg", "<b>x</b>/2.jpg"]}
    measured = measured_of(of_second([0.1, 0.875, 0.25]), np.array([0, 0, 0]), CLASSES, **about)
    first, second = thumbnails.show_mistakes(measured)
    assert first[1:] == ("ant/1.jpg", "bee", 0.875, "ant")
    assert second[1:] == ("<b>x</b>/2.jpg", "bee", 0.25, "ant")  # of a threshold below that
    for shown, brightness in ((first, 100), (second, 200)):
        picture = picture_of(shown.address)
        assert picture.shape == (160, 80, 3)
        assert np.abs(picture.astype(int) - brightness).max() < 3


def test_heat_lies_over_an_image_that_is_explained():
    images, heat = np.zeros((2, 8, 8, 1), np.uint8), np.zeros((2, 2))
    heat[0, 0] = 1.0
    corners = picture_of(thumbnails.address_of(images[0], heat)).astype(int).sum(axis=2)
    assert corners[0, 0] > 200
    assert corners[-1, -1] < 20


def test_explained_image_is_under_its_file_name_class_and_probability():
    image, heat = np.full((6, 8, 3), 7, np.uint8), np.random.default_rng(0).random((3, 4))
    figure = pictures.draw_explained(image, heat, "$2$.jpg", "a class of a name too long to be read", 0.87654)
    (title,), (axes,) = titles(figure), figure.axes
    assert title == "\\$2\\$.jpg\n…ame too long to be read 0.877"
    below, over = axes.images
    np.testing.assert_array_equal(below.get_array(), image)
    np.testing.assert_array_equal(over.get_array(), heat)
    assert over.get_extent() == [-0.5, 7.5, 5.5, -0.5]


def drawn_filters(kernels):
    convolution = keras.layers.Conv2D(kernels.shape[3], 3, use_bias=False)
    network = keras.Sequential([keras.Input((8, 8, kernels.shape[2])), convolution, keras.layers.Conv2D(1, 3)])
    convolution.set_weights([kernels])
    return pictures.draw_filters(network).axes[0].images[0].get_array()


def test_filters_are_all_drawn_in_rows_of_sixteen_each_from_black_to_white():
    kernels = np.random.default_rng(0).normal(size=(3, 3, 1, 20)).astype(np.float32)
    drawn = drawn_filters(kernels)
    assert drawn.shape == (2 * 4, 16 * 4)
    for i in range(20):
        row, column = divmod(i, 16)
        picture = drawn[4 * row : 4 * row + 3, 4 * column : 4 * column + 3]
        kernel = kernels[:, :, 0, i]
        np.testing.assert_allclose(picture, (kernel - kernel.min()) / np.ptp(kernel))
    assert (drawn[4:, 16:] == 1).all()


def test_filters_of_colour_images_are_in_colour():
    drawn = drawn_filters(np.ones((3, 3, 3, 4)))
    assert drawn.shape == (4, 64, 3)


def blob_network(*, use_bias):
    """A network whose second class is "bright": its only feature is the image itself."""
    inputs = keras.Input((8, 8, 1))
    features = keras.layers.Conv2D(1, 1, kernel_initializer="ones")(scaled(inputs))
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    bias = keras.initializers.Constant(-0.01)
    head = keras.layers.Dense(1, "sigmoid", kernel_initializer="ones", use_bias=use_bias, bias_initializer=bias)
    return keras.Model(inputs, head(pooled))


@pytest.mark.parametrize("use_bias", [True, False])
def test_grad_cam_points_at_what_speaks_for_the_predicted_class(use_bias):
    images = np.zeros((2, 8, 8, 1), np.uint8)
    images[:, 2:4, 5:7] = 255
    second, first = grad_cam(blob_network(use_bias=use_bias), images, np.array([1, 0]))
    np.testing.assert_allclose(second, images[0, :, :, 0] / 255)
    assert not first.any()  # the same image, taken for the first class by a higher threshold: nothing speaks for that


def test_layer_of_several_outputs_is_no_feature_map_and_in_no_ones_way():
    inputs = keras.Input((8, 8, 3))
    features = keras.layers.Reshape((-1, 2))(keras.layers.Conv2D(2, 3)(inputs))
    attended, _ = keras.layers.MultiHeadAttention(1, 2)(features, features, return_attention_scores=True)
    outputs = keras.layers.Dense(1, "sigmoid")(keras.layers.GlobalAveragePooling1D()(attended))
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    assert grad_cam(keras.Model(inputs, outputs), images, np.array([0, 1])).shape == (2, 6, 6)


@pytest.mark.parametrize("model", ["cnn", "residual"])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_grad_cam_of_every_network_is_a_map_of_each_image(model, num_classes):
    settings = TINY_CNN if model == "cnn" else ["model=residual", "model.filters=[4,8]"]
    network = call_target("model", compose(*settings).model, input_shape=(16, 16, 3), num_classes=num_classes)
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    predicted = np.arange(5) % num_classes
    heat = grad_cam(network, images, predicted)
    assert heat.shape == (5, 8, 8)
    assert heat.min() >= 0
    assert heat.max() <= 1
    np.testing.assert_allclose(grad_cam(plain_copy(network), images, predicted), heat, atol=1e-6)


def test_grad_cam_of_a_backbone_is_of_its_last_map():
    inputs = keras.Input((96, 96, 3))
    pixels = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    backbone = keras.applications.MobileNetV2(alpha=0.35, include_top=False, weights=None, input_tensor=pixels)
    pooled = keras.layers.GlobalAveragePooling2D()(backbone.output)
    head = keras.layers.Dense(3, "softmax")
    network = keras.Model(inputs, head(keras.layers.Dropout(0.2)(pooled)))
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8)
    last_maps = keras.Model(inputs, network.get_layer("out_relu").output)(images.astype(np.float32), training=False)
    expected = np.maximum(np.stack([np.asarray(last_maps)[i] @ head.kernel.numpy()[:, 2 - i] for i in range(2)]), 0)
    assert expected.max() > 0
    expected /= np.maximum(expected.max(axis=(1, 2), keepdims=True), 1e-30)
    np.testing.assert_allclose(grad_cam(network, images, np.array([2, 1])), expected, atol=1e-4)


def test_network_without_a_feature_map_has_no_grad_cam():
    inputs = keras.Input((8, 8, 1))
    outputs = keras.layers.Dense(1, "sigmoid")(keras.layers.Flatten()(scaled(inputs)))
    network = keras.Model(inputs, outputs)
    assert grad_cam(network, np.zeros((1, 8, 8, 1), np.uint8), np.array([0])) is None
    assert not has_grad_cam(network)


def test_network_whose_last_feature_map_is_not_all_that_decides_has_no_grad_cam():
    inputs = keras.Input((8, 8, 1))
    pooled = [keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3)(inputs)) for _ in range(2)]
    outputs = keras.layers.Dense(1, "sigmoid")(keras.layers.Concatenate()(pooled))
    assert grad_cam(keras.Model(inputs, outputs), np.zeros((1, 8, 8, 1), np.uint8), np.array([0])) is None
