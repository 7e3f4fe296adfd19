"""Batches are a function of seed, epoch and step, and augmentation stays within its ranges."""

import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from cnn_sweeps.data import ImageDataset
from cnn_sweeps.data.cache import load_decoded
from cnn_sweeps.settings.schema import AugmentationConfig
from cnn_sweeps.training.batches import augment, epoch_order, image_tensor, training_batch, training_images


def augmentation_of(**changes):
    """No change of the images, but for what a test asks for."""
    settings = {
        "enabled": True,
        "horizontal_flip": False,
        "rotation_degrees": 0.0,
        "shift_fraction": 0.0,
        "zoom_fraction": 0.0,
        "shear_degrees": 0.0,
    }
    return AugmentationConfig(**(settings | changes))


OFF = augmentation_of(enabled=False)
FULL = augmentation_of(
    horizontal_flip=True, rotation_degrees=20.0, shift_fraction=0.1, zoom_fraction=0.1, shear_degrees=5.0
)
NUM_IMAGES = 50
TRAIN = np.arange(0, NUM_IMAGES, 2)


def batches_of(
    images=None,
    labels=None,
    indices=TRAIN,
    epochs=range(1),
    batch_size=8,
    seed=0,
    augmentation=OFF,
    class_weights=None,
):
    """Batches as arrays; without other images, the pixels of image i are all i."""
    if images is None:
        images = np.tile(np.arange(NUM_IMAGES, dtype=np.uint8)[:, None, None, None], (1, 4, 4, 1))
    labels = np.arange(len(images)) % 3 if labels is None else labels
    numbers = {"seed": seed, "batch_size": batch_size}
    source = training_images(tf.constant(images), labels, indices, class_weights, **numbers)
    batches = []
    for epoch in epochs:
        number = tf.constant(epoch, tf.int64)
        order = epoch_order(source, number)
        for step in range(-(-len(indices) // batch_size)):
            batch = training_batch(source, order, augmentation, number, step)
            batches.append([part.numpy() for part in batch])
    return batches


def indices_in(batches):
    return np.concatenate([batch[0][:, 0, 0, 0].astype(int) for batch in batches])


def orders_of(epochs=range(1), **changes):
    return indices_in(batches_of(epochs=epochs, **changes)).reshape(len(epochs), -1)


def random_images(count, height=8, width=8):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


def changed(images, seed=(1, 2), **changes):
    return augment(tf.constant(images), augmentation_of(**changes), tf.constant(seed, tf.int32)).numpy()


def input_positions(count, height, width, **changes):
    """Augment images that hold their own coordinates; give where around the centre each output pixel came from.

    Returns (count, 2, 2, 2): image, rows and columns of the four pixels at the centre, (x, y) in pixels.
    """
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    image = np.stack([x / width, y / height, np.zeros_like(x)], axis=-1).astype(np.float32)
    output = changed(np.repeat(image[None], count, axis=0), **changes)
    rows, columns = slice(height // 2 - 1, height // 2 + 1), slice(width // 2 - 1, width // 2 + 1)
    return output[:, rows, columns, :2] * [width, height]


def test_every_epoch_visits_each_training_image_exactly_once():
    for order in orders_of(epochs=range(4)):
        np.testing.assert_array_equal(np.sort(order), TRAIN)


def test_orders_differ_between_epochs_and_seeds_and_from_the_order_given():
    orders = [*orders_of(epochs=range(3), seed=0), *orders_of(epochs=range(3), seed=1), TRAIN]
    assert len({tuple(order) for order in orders}) == 7


def test_same_seed_gives_the_same_order():
    np.testing.assert_array_equal(orders_of(epochs=range(3), seed=7), orders_of(epochs=range(3), seed=7))


@pytest.mark.parametrize("seed", [0, 2**31 - 1])
def test_resumed_batches_are_bit_for_bit_those_of_an_uninterrupted_run(seed):
    images = random_images(20)
    settings = {"images": images, "indices": np.arange(20), "augmentation": FULL, "seed": seed}
    settings |= {"class_weights": {0: 0.5, 1: 1.5, 2: 2.5}}
    uninterrupted = batches_of(**settings, epochs=range(5))
    for first_epoch in (1, 3):
        resumed = batches_of(**settings, epochs=range(first_epoch, 5))
        assert len(resumed) == 3 * (5 - first_epoch)
        for batch, expected in zip(resumed, uninterrupted[3 * first_epoch :], strict=True):
            for part, expected_part in zip(batch, expected, strict=True):
                np.testing.assert_array_equal(part, expected_part)


def test_last_batch_of_each_epoch_holds_the_rest():
    assert [len(batch[0]) for batch in batches_of(epochs=range(2))] == [8, 8, 8, 1] * 2


def test_batch_larger_than_the_data_holds_them_all():
    assert [len(batch[0]) for batch in batches_of(batch_size=1000)] == [len(TRAIN)]


def test_pixels_are_kept_as_they_are():
    images = random_images(10)
    images[:, 0, 0], images[:, 0, 1] = 0, 255
    (batch,) = batches_of(images=images, labels=np.arange(10), indices=np.arange(10), batch_size=10)
    assert batch[0].dtype == np.float32
    np.testing.assert_array_equal(batch[0], images[batch[1][:, 0]])


def test_labels_belong_to_their_images():
    labels = np.random.default_rng(0).integers(0, 3, NUM_IMAGES)
    for batch in batches_of(labels=labels, epochs=range(2)):
        assert batch[1].dtype == np.int32
        np.testing.assert_array_equal(batch[1], labels[indices_in([batch])][:, np.newaxis])
        assert len(batch) == 2


def test_weights_belong_to_their_labels():
    weights = np.array([0.5, 1.5, 3.0])
    for batch in batches_of(class_weights=dict(enumerate(weights.tolist())), epochs=range(2)):
        assert batch[2].shape == (len(batch[0]),)
        np.testing.assert_allclose(batch[2], weights[batch[1][:, 0]])
        np.testing.assert_allclose(batch[2], weights[indices_in([batch]) % 3])


def test_augmentation_changes_the_images_anew_in_every_epoch():
    image = np.repeat(random_images(1), 4, axis=0)
    batches = batches_of(images=image, indices=np.arange(4), augmentation=FULL, epochs=range(3), batch_size=2)
    seen = [one.tobytes() for batch in batches for one in batch[0]]
    assert len(set(seen)) == len(seen) == 12


def test_disabled_augmentation_ignores_its_ranges():
    ranges = {"horizontal_flip": True, "rotation_degrees": 90.0, "shift_fraction": 0.5}
    plain = batches_of(images=random_images(NUM_IMAGES))
    disabled = batches_of(images=random_images(NUM_IMAGES), augmentation=augmentation_of(enabled=False, **ranges))
    for batch, expected in zip(disabled, plain, strict=True):
        np.testing.assert_array_equal(batch[0], expected[0])


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 12)])
def test_augmentation_without_ranges_changes_nothing(height, width):
    images = random_images(16, height, width).astype(np.float32) / 255
    np.testing.assert_allclose(changed(images), images, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 12), (8, 9)])
def test_horizontal_flip_mirrors_about_half_of_the_images_and_no_pixel_else(height, width):
    images = random_images(200, height, width).astype(np.float32) / 255
    output = changed(images, horizontal_flip=True)
    equal = np.isclose(output, images, atol=1e-5).all(axis=(1, 2, 3))
    mirrored = np.isclose(output, images[:, :, ::-1], atol=1e-5).all(axis=(1, 2, 3))
    assert (equal ^ mirrored).all()
    assert 60 < mirrored.sum() < 140


def test_shifts_stay_within_their_share_of_each_side_and_use_it():
    positions = input_positions(500, height=20, width=40, shift_fraction=0.2)
    unshifted = input_positions(1, height=20, width=40)
    shifts = (positions - unshifted)[:, 0, 0]
    np.testing.assert_allclose(
        positions - unshifted, np.broadcast_to(shifts[:, None, None], positions.shape), atol=1e-3
    )
    for shift, limit in ((shifts[:, 0], 8), (shifts[:, 1], 4)):
        assert np.abs(shift).max() <= limit + 1e-3
        assert shift.min() < -0.9 * limit
        assert shift.max() > 0.9 * limit
    assert abs(np.corrcoef(shifts.T)[0, 1]) < 0.2


def test_rotation_turns_about_the_centre_within_its_range():
    positions = input_positions(500, height=20, width=30, rotation_degrees=30.0)
    np.testing.assert_allclose(positions.mean(axis=(1, 2)), np.tile([14.5, 9.5], (500, 1)), atol=1e-3)
    step_right = positions[:, 0, 1] - positions[:, 0, 0]
    step_down = positions[:, 1, 0] - positions[:, 0, 0]
    angles = np.rad2deg(np.arctan2(step_right[:, 1], step_right[:, 0]))
    assert np.abs(angles).max() <= 30.01
    assert angles.min() < -27
    assert angles.max() > 27
    np.testing.assert_allclose(np.linalg.norm(step_right, axis=1), 1, atol=1e-3)
    np.testing.assert_allclose((step_right * step_down).sum(axis=1), 0, atol=1e-3)


def test_zoom_stays_within_its_range_about_the_centre():
    positions = input_positions(500, height=20, width=30, zoom_fraction=0.25)
    np.testing.assert_allclose(positions.mean(axis=(1, 2)), np.tile([14.5, 9.5], (500, 1)), atol=1e-3)
    for zoom in (positions[:, 0, 1, 0] - positions[:, 0, 0, 0], positions[:, 1, 0, 1] - positions[:, 0, 0, 1]):
        assert 0.75 - 1e-3 <= zoom.min() < 0.78
        assert 1.22 < zoom.max() <= 1.25 + 1e-3


def test_shear_leans_within_its_range():
    positions = input_positions(500, height=20, width=30, shear_degrees=20.0)
    step_right = positions[:, 0, 1] - positions[:, 0, 0]
    step_down = positions[:, 1, 0] - positions[:, 0, 0]
    np.testing.assert_allclose(step_right, np.tile([1, 0], (500, 1)), atol=1e-3)
    leans = np.rad2deg(np.arctan2(step_down[:, 0], step_down[:, 1]))
    assert np.abs(leans).max() <= 20.02
    assert leans.min() < -18
    assert leans.max() > 18


@pytest.mark.parametrize(
    "ranges",
    [
        {"shift_fraction": 1.0},
        {"rotation_degrees": 180.0},
        {"zoom_fraction": 0.99, "shear_degrees": 89.0},
        {"horizontal_flip": True, "rotation_degrees": 45.0, "shift_fraction": 0.5, "zoom_fraction": 0.5},
    ],
)
def test_values_stay_between_0_and_1(ranges):
    images = (random_images(100) > 127).astype(np.float32)
    output = changed(images, **ranges)
    assert output.dtype == np.float32
    assert output.shape == images.shape
    assert -1e-5 <= output.min() <= output.max() <= 1 + 1e-5


def test_edges_repeat_outwards():
    images = np.full((50, 8, 8, 3), 0.7, np.float32)
    output = changed(images, shift_fraction=0.9, rotation_degrees=90.0)
    np.testing.assert_allclose(output, images, atol=1e-5)


def test_same_seed_changes_images_in_the_same_way_and_another_in_another():
    images = random_images(8).astype(np.float32) / 255
    ranges = {"rotation_degrees": 20.0, "shift_fraction": 0.1}
    np.testing.assert_array_equal(changed(images, seed=(3, 4), **ranges), changed(images, seed=(3, 4), **ranges))
    assert not np.allclose(changed(images, seed=(3, 4), **ranges), changed(images, seed=(3, 5), **ranges))


@pytest.mark.parametrize(
    "ranges", [{"rotation_degrees": 20.0}, {"shift_fraction": 0.3}, {"zoom_fraction": 0.3}, {"shear_degrees": 20.0}]
)
def test_equal_images_in_a_batch_are_changed_differently(ranges):
    output = changed(np.repeat(random_images(1).astype(np.float32) / 255, 10, axis=0), **ranges)
    assert len({image.tobytes() for image in output}) == 10


def dataset_with(images):
    return ImageDataset(
        images=images,
        labels=np.arange(len(images)) % 2,
        class_names=["ant", "bee"],
        name="insects",
        source="test",
    )


def mapped_images(tmp_path, count=6):
    pixels = random_images(count, 5, 7)
    files = [tmp_path / f"{i}.png" for i in range(count)]
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image).save(file)
    mapped = load_decoded(files, tmp_path / "cache", 5, 7, 3).images
    assert isinstance(mapped, np.memmap)
    return mapped, pixels


def test_one_graph_draws_from_views_of_however_many_images():
    @tf.function(reduce_retracing=True)
    def batch_of(source):
        epoch = tf.constant(0, tf.int64)
        return training_batch(source, epoch_order(source, epoch), FULL, epoch, tf.constant(0))[0]

    for num_images in (4, 5, 6):  # the second and the third share a graph
        own = np.arange(num_images, dtype=np.float32)[:, None, None]
        views = tf.constant(own * 10 + np.arange(2, dtype=np.float32)[None, :, None])
        numbers = {"seed": 0, "batch_size": num_images}
        labels = np.arange(num_images)
        source = training_images(tf.zeros((num_images, 1)), labels, labels, **numbers)._replace(views=views)
        drawn = batch_of(source).numpy().ravel()
        assert sorted(drawn // 10) == list(range(num_images))
        assert set(drawn % 10) <= {0, 1}


def test_image_tensor_of_an_array_equals_it():
    images = random_images(6)
    tensor = image_tensor(dataset_with(images))
    assert tensor.dtype == tf.uint8
    np.testing.assert_array_equal(tensor.numpy(), images)


def test_image_tensor_is_kept_for_the_next_trial_of_the_same_images():
    dataset = dataset_with(random_images(6))
    assert image_tensor(dataset) is image_tensor(dataset)


def test_image_tensor_of_a_mapped_cache_equals_it(tmp_path):
    mapped, pixels = mapped_images(tmp_path)
    tensor = image_tensor(dataset_with(mapped))
    assert tensor.dtype == tf.uint8
    np.testing.assert_array_equal(tensor.numpy(), pixels)


def test_image_tensor_of_a_mapped_cache_takes_no_memory(tmp_path):
    shape = (1000, 256, 256, 3)
    (tmp_path / "images.u8").touch()
    os.truncate(tmp_path / "images.u8", math.prod(shape))
    dataset = dataset_with(np.memmap(tmp_path / "images.u8", np.uint8, "r", shape=shape))
    Path("/proc/self/clear_refs").write_text("5")  # the highest use is that of now
    before_kb = memory_kb("VmRSS")
    image_tensor(dataset)
    assert memory_kb("VmHWM") - before_kb < 20_000


def memory_kb(name):
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


@pytest.mark.parametrize("part", [np.s_[2:5], np.s_[::2], np.s_[::-1], np.s_[[4, 1, 2]], np.s_[:, :, ::-1]])
def test_image_tensor_of_a_part_of_a_mapped_cache_equals_that_part(tmp_path, part):
    mapped, pixels = mapped_images(tmp_path)
    np.testing.assert_array_equal(image_tensor(dataset_with(mapped[part])).numpy(), pixels[part])


def test_batches_of_a_mapped_cache_hold_its_pixels(tmp_path):
    mapped, pixels = mapped_images(tmp_path)
    images = image_tensor(dataset_with(mapped))
    for batch, labels in batches_of(images, np.arange(6), np.arange(6), batch_size=4, epochs=range(2)):
        np.testing.assert_array_equal(batch, pixels[labels[:, 0]])
