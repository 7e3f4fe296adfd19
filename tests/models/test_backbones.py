"""Backbones are scaled as they were trained, begin with the weights that are named, and are trained as is said."""

import inspect
import os
import urllib.error
from contextlib import contextmanager
from types import SimpleNamespace

import h5py
import keras
import numpy as np
import pytest
from conftest import compose
from keras.src.legacy.saving import legacy_h5_format
from tiny_backbones import PRETRAINED, tiny_backbone

from cnn_sweeps.errors import ConfigError, UserError
from cnn_sweeps.experiment.beginning import prepare_beginning
from cnn_sweeps.models import backbone as backbone_module
from cnn_sweeps.models.backbone import load_backbone
from cnn_sweeps.models.layers import plain_copy
from cnn_sweeps.models.pretrained import build_pretrained, features_of
from cnn_sweeps.settings.backbones import BACKBONES
from cnn_sweeps.use.kept_model import _check_description

SHAPE = (32, 32, 3)


def test_settings_name_each_backbone_of_keras():
    assert set(BACKBONES) == {name for name, each in vars(keras.applications).items() if inspect.isfunction(each)}


@pytest.mark.parametrize("name", BACKBONES)
def test_pixels_are_scaled_as_the_backbone_was_trained(name):
    application = getattr(keras.applications, name)
    image = keras.Input((4, 5, 3))
    scaled = keras.Model(image, backbone_module._scaled_as_trained(application, image))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3)).astype(np.float32)
    expected = inspect.getmodule(application).preprocess_input(pixels.copy())
    np.testing.assert_allclose(scaled(pixels), expected, rtol=1e-5, atol=1e-4)


def built(weights, shape=SHAPE, fine_tune=0):
    return build_pretrained(shape, 2, "MobileNet", 0.25, weights, [4], 0.5, 1e-4, fine_tune)


@pytest.mark.parametrize("kind", ["colour", "grey", "caffe"])
def test_network_is_its_features_and_the_rest_also_after_it_was_kept(kind, tiny_weights, tmp_path, monkeypatch):
    if kind == "caffe":  # blue, green, red, less their means, as ResNet50 and VGG16 were trained
        caffe = keras.applications.vgg16.preprocess_input
        monkeypatch.setattr(inspect.getmodule(keras.applications.MobileNet), "preprocess_input", caffe)
        backbone_module._frozen.cache_clear()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1 if kind == "grey" else 3)).astype(np.float32)
    whole = built(str(tiny_weights), pixels.shape[1:])
    features = features_of(whole)
    of_images = keras.Model(whole.input, features)(pixels).numpy()
    expected = whole(pixels).numpy()
    np.testing.assert_allclose(keras.Model(features, whole.output)(of_images), expected, atol=1e-5)
    colours = np.repeat(pixels, 3, axis=-1) if kind == "grey" else pixels
    scaled = inspect.getmodule(keras.applications.MobileNet).preprocess_input(colours.copy())
    alone = np.mean(tiny_backbone()(scaled), axis=(1, 2))
    assert alone.std() > 0.1
    np.testing.assert_allclose(of_images, alone, atol=1e-4)

    plain_copy(whole).save(tmp_path / "kept.keras")
    _check_description(tmp_path / "kept.keras")
    kept = keras.saving.load_model(tmp_path / "kept.keras", safe_mode=True)
    np.testing.assert_allclose(kept(pixels), expected, atol=1e-5)
    backbone_module._frozen.cache_clear()


def test_last_layers_but_for_batch_normalization_are_fine_tuned_and_without_weights_all_are_trained(tiny_weights):
    names = [layer.name for layer in tiny_backbone().layers if layer.weights]
    network = built(str(tiny_weights), fine_tune=6)
    trained = {id(weight) for weight in network.trainable_weights}
    layers = [network.get_layer(name) for name in names]
    found = [layer.name for layer in layers if any(id(weight) in trained for weight in layer.weights)]
    assert found == ["conv_dw_13", "conv_pw_13"]
    assert features_of(network) is None
    from_nothing = built(None)
    assert all(from_nothing.get_layer(name).trainable_weights for name in names)
    assert features_of(from_nothing) is None


@contextmanager
def keras_home(folder):
    """Have Keras look there for what it has downloaded, on a machine without a network."""

    def no_network(*_, **__):
        raise urllib.error.URLError("Temporary failure in name resolution")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_HOME", str(folder))
        patch.setattr("keras.src.backend.config._KERAS_DIR", str(folder))
        patch.setattr("keras.src.utils.file_utils.urlretrieve", no_network)
        yield


def write_legacy(model, file):
    """Write weights as Keras did of old, and as it offers them for download."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as content:
        legacy_h5_format.save_weights_to_hdf5_group(content, model)
    return file


@pytest.mark.parametrize("kind", ["keras", "older", "imagenet"])
def test_weights_are_those_of_the_file_in_each_of_its_formats(kind, tiny_weights, tmp_path):
    backbone = tiny_backbone()
    weights = {"keras": str(tiny_weights), "imagenet": "imagenet"}.get(kind)
    weights = weights or str(write_legacy(backbone, tmp_path / "mobilenet_no_top.h5"))
    write_legacy(backbone, tmp_path / "home/models/mobilenet_2_5_224_tf_no_top.h5")
    with keras_home(tmp_path / "home"):
        loaded = load_backbone("MobileNet", 0.25, weights, SHAPE, is_frozen=False)
    for given, found in zip(backbone.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(found, given)


def refusal(*settings):
    with pytest.raises(UserError) as error:
        prepare_beginning(compose(*PRETRAINED, *settings))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """Files that are no weights of the backbone."""
    folder = tmp_path_factory.mktemp("bad")
    files = {name: folder / f"{name}.weights.h5" for name in ("other", "topped", "text", "pipe", "cut", "nowhere")}
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save_weights(files["other"])
    topped = tiny_backbone(include_top=True, classes=3)
    topped.save_weights(files["topped"])
    files["older"] = write_legacy(topped, folder / "older.h5")
    files["cut"].write_bytes(files["topped"].read_bytes()[:5000])
    files["text"].write_text("no HDF5")
    os.mkfifo(files["pipe"])
    return SimpleNamespace(**files)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.backbone=MobileNetV9"], "model.backbone=MobileNetV9: should be 'ConvNeXtTiny'"),
        (["model.weights={bad.nowhere}"], "model.weights={bad.nowhere}: cannot be read (No such file or directory); "),
        (["model.weights={bad.text}"], "model.weights={bad.text}: is no file of Keras weights (HDF5); name"),
        (["model.weights={bad.pipe}"], "model.weights={bad.pipe}: is no file of Keras weights (HDF5); name"),
        (["model.weights=null", "model.fine_tune=3"], "model.fine_tune=3: with model.weights=null all layers are"),
    ],
)
def test_what_settings_tell_is_refused_before_anything_is_imported(settings, message, bad):
    with pytest.raises(ConfigError) as error:
        compose(*PRETRAINED, *(each.format(bad=bad) for each in settings))
    assert str(error.value).startswith(message.format(bad=bad))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.weights={bad.other}"], "model.weights={bad.other}: these are not weights of MobileNet ("),
        (["model.weights={bad.cut}"], "model.weights={bad.cut}: these are not weights of MobileNet ("),
        (
            ["model.weights={bad.topped}"],
            "model.weights={bad.topped}: the file has 137 arrays, but MobileNet without its top layers has 135;",
        ),
        (["model.weights={bad.older}"], "model.weights={bad.older}: these are not weights of MobileNet ("),
        (["model.alpha=0.5"], "model.weights={tiny}: these are not weights of MobileNet ("),
        (["data.image_size=16"], "model.backbone=MobileNet: cannot take images of 16x16 pixels (Input size must be"),
        (["model.backbone=VGG16"], "model.alpha=0.25: VGG16 has no width to set; leave model.alpha out"),
        (["model.fine_tune=90"], "model.fine_tune=90: MobileNet has 87 layers; set at most 87"),
        (
            ["model.weights=imagenet"],
            "model.weights=imagenet: the weights of MobileNet cannot be downloaded (URL fetch",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_any_image_is_read(settings, message, bad, tiny_weights, tmp_path):
    with keras_home(tmp_path):
        told = refusal(f"model.weights={tiny_weights}", *(each.format(bad=bad) for each in settings))
    assert told.startswith(message.format(bad=bad, tiny=tiny_weights))
