"""What a frozen backbone makes of images is that of just these images, changes and network, and of no test image."""

import os
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import compose
from tiny_backbones import PRETRAINED

from cnn_sweeps.data.images import load_images
from cnn_sweeps.models import Features, classification_head
from cnn_sweeps.training.batches import epoch_order, training_batch
from cnn_sweeps.training.features import FrozenBackbone, load_features, load_views
from cnn_sweeps.training.inputs import Inputs
from cnn_sweeps.training.network import Network, compile_model

AUGMENTED = ["augmentation.enabled=true", "augmentation.views=3"]


def a_network(side=32, channels=3, scale=1.0):
    """A frozen convolution, whose features are computed at once, and what is trained on them."""
    image = keras.Input((side, side, channels))
    frozen = keras.layers.Conv2D(6, 3, trainable=False)
    features = Features(name="features")(frozen(keras.layers.Rescaling(1 / 255)(image)))
    kernel = np.random.default_rng(0).normal(0, scale, frozen.kernel.shape)
    frozen.set_weights([kernel, np.zeros(6)])
    return image, features


def a_backbone(**settings):
    return FrozenBackbone(keras.Model(*a_network(**settings)))


@pytest.fixture(scope="module")
def backbone():
    return a_backbone()


@pytest.fixture(scope="module")
def images():
    return load_images(compose(*PRETRAINED))


def with_images(images, change):
    changed = images.dataset.images.copy()
    return replace(images.dataset, images=change(changed), image_digests=None, content_ids=None)


def with_first_changed(pixels):
    pixels[0] = 255 - pixels[0]
    return pixels


def test_features_of_others_are_not_used(backbone, images, tmp_path):
    """Of other images, other weights, another size, more channels, another precision, other changes or more of them."""
    count, positions = len(images.dataset.labels), np.arange(10)

    def num_files(load, *arguments):
        tensor = load(*arguments)
        assert tensor.shape[0] == count
        return len(list((tmp_path / "features").iterdir()))

    def features(of, dataset=images.dataset):
        return num_files(load_features, of, dataset, positions, str(tmp_path))

    def views(*changes):
        augmentation = compose(*PRETRAINED, *AUGMENTED, *changes).augmentation
        return num_files(load_views, backbone, images.dataset, positions, str(tmp_path), augmentation)

    assert features(backbone) == features(a_backbone()) == 1
    assert features(backbone, with_images(images, with_first_changed)) == 2
    assert features(a_backbone(scale=2.0)) == 3
    assert features(a_backbone(side=16), with_images(images, lambda pixels: pixels[:, :16, :16])) == 4
    assert features(a_backbone(channels=1), with_images(images, lambda pixels: pixels[..., :1])) == 5
    try:
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
        assert features(a_backbone()) == 6
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert views() == 7
    assert views("augmentation.rotation_degrees=5") == 8
    assert views("augmentation.views=4") == 9
    assert features(backbone) == views() == 9


def test_changed_image_gets_features_of_its_own(backbone, images, tmp_path):
    positions = np.arange(len(images.dataset.labels))
    before = load_features(backbone, images.dataset, positions, str(tmp_path)).numpy()
    after = load_features(backbone, with_images(images, with_first_changed), positions, str(tmp_path)).numpy()
    assert not np.allclose(before[0], after[0], atol=1e-3)
    np.testing.assert_array_equal(before[1:], after[1:])


def test_features_are_kept_elsewhere_where_their_folder_cannot_be_written_and_that_is_told(
    backbone, images, tmp_path, closed, caplog
):
    positions, other = np.arange(10), tmp_path / f"cnn_sweeps-{os.getuid()}"
    told = load_features(backbone, images.dataset, positions, str(closed / "cache")).numpy()
    assert f"training.cache_dir={closed}/cache: {closed} cannot be written; " in caplog.text
    assert f"is kept in {other}, " in caplog.text
    assert (list(closed.iterdir()), len(list((other / "features").iterdir()))) == ([], 1)
    np.testing.assert_array_equal(
        told, load_features(backbone, images.dataset, positions, str(tmp_path / "open")).numpy()
    )


def the_inputs(images, cache_dir, *settings):
    config = compose(*PRETRAINED, "model.weights=null", f"training.cache_dir={cache_dir}", *settings)
    image, features = a_network()
    whole = keras.Model(image, classification_head(features, 2))
    rest = keras.Model(features, whole.output)
    compile_model(rest, keras.optimizers.SGD(0.1), 2)
    backbone = FrozenBackbone(keras.Model(image, features))
    network = Network(whole, rest, [], config.augmentation, backbone=backbone, xla=False)
    return Inputs(network, images, config), network, config


@pytest.mark.parametrize(
    "settings",
    [["augmentation.enabled=false", "augmentation.views=3"], ["augmentation.enabled=true", "augmentation.views=0"]],
)
def test_without_changes_or_views_training_is_on_the_features_of_the_images_themselves(settings, images, tmp_path):
    inputs, network, config = the_inputs(images, tmp_path, *settings)
    source = inputs.to_train()
    assert source.views is None
    order = epoch_order(source, tf.constant(0, tf.int64))
    given = training_batch(source, order, config.augmentation, tf.constant(0, tf.int64), tf.constant(1))[0].numpy()
    pixels = images.dataset.images[order.numpy()[16:32]].astype(np.float32)
    np.testing.assert_allclose(given, network.backbone.compute(tf.constant(pixels)), atol=1e-5)


def test_each_epoch_draws_a_view_of_each_training_image_and_other_images_stay_as_they_are(images, tmp_path):
    inputs, network, config = the_inputs(images, tmp_path, *AUGMENTED)
    source, train = inputs.to_train(), images.split.train
    views = source.views.numpy()
    assert views.shape == (60, 3, 6)
    others = np.setdiff1d(np.arange(60), train)
    assert not views[others].any()
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (np.abs(views[train, first] - views[train, second]).max(axis=1) > 1e-4).all()

    def drawn_in(epoch, batch_size=16):
        """Give which view an epoch draws of each training image."""
        of_size = source._replace(batch_size=tf.constant(batch_size))
        order, epoch = epoch_order(of_size, tf.constant(epoch, tf.int64)), tf.constant(epoch, tf.int64)
        steps = range(-(-len(train) // batch_size))
        given = [training_batch(of_size, order, config.augmentation, epoch, tf.constant(i))[0].numpy() for i in steps]
        is_it = (views[order.numpy()] == np.concatenate(given)[:, np.newaxis]).all(axis=2)
        assert (is_it.sum(axis=1) == 1).all()
        return dict(zip(order.numpy().tolist(), is_it.argmax(axis=1).tolist(), strict=True))

    assert drawn_in(0) == drawn_in(0, batch_size=5)
    epochs = [drawn_in(epoch) for epoch in range(12)]
    assert all(len({drawn[image] for drawn in epochs}) > 1 for image in train.tolist())
    for positions in (images.split.val, images.split.test):
        pixels = images.dataset.images[positions].astype(np.float32)
        np.testing.assert_allclose(inputs.predict(positions)[:, 1:], network.whole(pixels), atol=1e-5)


def test_no_feature_of_a_trials_test_images_is_computed(images, tmp_path, monkeypatch):
    computed, compute = [], FrozenBackbone.compute

    def counted(backbone, pixels):
        computed.append(len(pixels))
        return compute(backbone, pixels)

    monkeypatch.setattr(FrozenBackbone, "compute", counted)
    inputs, _, _ = the_inputs(images.without_test(), tmp_path)
    source = inputs.to_train()
    inputs.predict(images.split.val)
    test = images.split.test
    assert len(test)
    assert not source.images.numpy()[test].any()
    assert source.images.numpy()[images.split.val].any(axis=1).all()
    assert sum(computed) == 60 - len(test)

    inputs, _, _ = the_inputs(images, tmp_path)
    inputs.to_train()
    assert sum(computed) == 60 - len(test)  # which the trial has computed
    inputs.predict(test)
    assert sum(computed) == 60
