"""The sources that come as arrays, and what an ImageDataset refuses."""

import numpy as np
import pytest

from cnn_sweeps.data import ImageDataset, load_cifar10, load_digits, load_synthetic
from cnn_sweeps.errors import DataError

CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def dataset_of(**changes):
    """Six small images of two classes, with what a test changes."""
    parts = {
        "images": np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), np.uint8),
        "labels": np.array([0, 1, 0, 1, 0, 1]),
        "class_names": ["ant", "bee"],
        "name": "insects",
        "source": "the garden",
    }
    return ImageDataset(**(parts | changes))


def synthetic(**changes):
    settings = {
        "num_images": 30,
        "num_classes": 2,
        "image_size": 16,
        "channels": 3,
        "difficulty": 0.5,
        "seed": 0,
    }
    return load_synthetic(**(settings | changes))


@pytest.fixture
def small_cifar10(monkeypatch):
    """CIFAR-10's layout, 50 + 20 images; the download of 170 MB cannot happen in tests."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (70, 32, 32, 3), np.uint8)
    labels = (np.arange(70) % 10).astype(np.uint8)[:, np.newaxis]
    parts = (images[:50], labels[:50]), (images[50:], labels[50:])
    monkeypatch.setattr("keras.datasets.cifar10.load_data", lambda: parts)
    return images, labels[:, 0]


def test_digits_are_28_by_28_grey_and_500_each():
    dataset = load_digits(classes=[4, 9])
    assert dataset.images.shape == (1000, 28, 28, 1)
    assert dataset.images.dtype == np.uint8
    assert dataset.images.max() == 255
    assert np.bincount(dataset.labels).tolist() == [500, 500]
    assert list(dataset.class_names) == ["4", "9"]
    assert dataset.name == "digits-4-vs-9"
    assert dataset.splits is None


def test_order_of_the_digits_is_the_order_of_the_classes():
    dataset, swapped = load_digits(classes=[4, 9]), load_digits(classes=[9, 4])
    assert list(swapped.class_names) == ["9", "4"]
    np.testing.assert_array_equal(swapped.images[swapped.labels == 0], dataset.images[dataset.labels == 1])


def test_all_ten_digits_are_classes_at_once():
    dataset = load_digits(classes=range(10))
    assert np.bincount(dataset.labels).tolist() == [500] * 10


def test_one_digit_is_told_from_all_others():
    dataset = load_digits(classes=[4, 9], one_vs_rest=7)
    assert list(dataset.class_names) == ["rest", "7"]
    assert np.bincount(dataset.labels).tolist() == [4500, 500]
    sevens = load_digits(classes=[7, 1])
    np.testing.assert_array_equal(dataset.images[dataset.labels == 1], sevens.images[sevens.labels == 0])
    assert dataset.name == "digits-7-vs-rest"


def test_zero_can_be_the_digit_told_from_all_others():
    assert list(load_digits(classes=[4, 9], one_vs_rest=0).class_names) == ["rest", "0"]


@pytest.mark.parametrize(("classes", "reason"), [([4, 4], "stands twice"), ([4, 10], "10 unknown")])
def test_digits_that_are_no_choice_are_refused(classes, reason):
    with pytest.raises(DataError, match=rf"data\.classes=.*{reason}"):
        load_digits(classes=classes)


def test_cifar10_gives_the_wanted_classes_and_keeps_its_test_images(small_cifar10):
    images, targets = small_cifar10
    dataset = load_cifar10(classes=["dog", "cat"])
    assert list(dataset.class_names) == ["dog", "cat"]
    assert dataset.image_shape == (32, 32, 3)
    chosen = np.isin(targets, [CIFAR10_CLASSES.index("dog"), CIFAR10_CLASSES.index("cat")])
    np.testing.assert_array_equal(dataset.images, images[chosen])
    np.testing.assert_array_equal(dataset.labels, targets[chosen] == CIFAR10_CLASSES.index("cat"))
    assert dataset.splits.tolist() == ["train"] * 10 + ["test"] * 4


def test_cifar10_gives_all_its_classes(small_cifar10):
    dataset = load_cifar10(classes=CIFAR10_CLASSES)
    np.testing.assert_array_equal(dataset.labels, small_cifar10[1])


@pytest.mark.parametrize(
    ("classes", "reason"), [(["cat", "cat"], "stands twice"), (["cat", "eel"], "eel unknown; allowed: airplane")]
)
def test_cifar10_classes_that_are_no_choice_are_refused(small_cifar10, classes, reason):
    with pytest.raises(DataError, match=rf"data\.classes=.*{reason}"):
        load_cifar10(classes=classes)


def test_failed_download_of_cifar10_is_told(monkeypatch):
    def load_data():
        raise OSError("no route to host")

    monkeypatch.setattr("keras.datasets.cifar10.load_data", load_data)
    with pytest.raises(DataError, match=r"data=cifar10: .*no route to host"):
        load_cifar10(classes=["cat", "dog"])


def test_synthetic_images_depend_on_the_seed_alone():
    first, again, other = synthetic(), synthetic(), synthetic(seed=1)
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.fingerprint == again.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("image_size", "channels", "shape"), [(16, 3, (16, 16, 3)), ([8, 12], 1, (8, 12, 1)), (1, 1, (1, 1, 1))]
)
def test_synthetic_images_have_the_size_and_channels_asked_for(image_size, channels, shape):
    dataset = synthetic(image_size=image_size, channels=channels)
    assert dataset.image_shape == shape
    assert dataset.images.dtype == np.uint8


def test_synthetic_classes_differ_by_at_most_one_image():
    dataset = synthetic(num_images=32, num_classes=5)
    assert sorted(np.bincount(dataset.labels).tolist()) == [6, 6, 6, 7, 7]
    assert len(set(dataset.class_names)) == 5


@pytest.mark.parametrize("difficulty", [0.0, 0.2])
def test_difficulty_is_the_share_of_noise_along_the_stripes(difficulty):
    dataset = synthetic(difficulty=difficulty)
    for image, label in zip(dataset.images, dataset.labels, strict=True):
        along = image if label == 0 else image.swapaxes(0, 1)  # stripes of class 1 lie across those of class 0
        assert np.ptp(along, axis=0).max() <= 255 * difficulty + 1
        assert along.std() > 50


def test_difficulty_1_gives_noise_alone():
    images = synthetic(difficulty=1.0, num_images=100).images.astype(float)
    for shifted in (np.roll(images, 1, axis=1), np.roll(images, 1, axis=2)):
        assert abs(np.corrcoef(images.ravel(), shifted.ravel())[0, 1]) < 0.05


def test_too_few_synthetic_images_are_refused_with_the_number_needed():
    synthetic(num_images=12, num_classes=4)
    with pytest.raises(DataError, match=r"data\.num_images=11: .*at least 12 are needed"):
        synthetic(num_images=11, num_classes=4)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"images": np.zeros((6, 4, 5, 3), np.float32)}, "images are float32"),
        ({"images": np.zeros((6, 4, 5, 4), np.uint8)}, r"shape \(6, 4, 5, 4\)"),
        ({"images": np.zeros((6, 4, 5), np.uint8)}, r"shape \(6, 4, 5\)"),
        ({"images": np.zeros((0, 4, 5, 3), np.uint8), "labels": np.zeros(0, np.int64)}, "no image of class ant"),
        ({"labels": np.zeros(5, np.int64)}, r"labels have shape \(5,\).*6 images"),
        ({"labels": np.zeros((6, 1), np.int64)}, r"labels have shape \(6, 1\)"),
        ({"labels": np.array([0, 1, 2, 0, 1, 5])}, r"labels \[2, 5\] name no class; allowed: 0 to 1"),
        ({"labels": np.array([0, 1, -1, 0, 1, 0])}, r"labels \[-1\] name no class"),
        ({"labels": np.zeros(6, np.int64)}, "no image of class bee in the garden"),
        ({"class_names": ["ant"], "labels": np.zeros(6, np.int64)}, "only one class, .*ant.* in the garden"),
        ({"class_names": []}, "only one class|no class"),
        ({"splits": np.array(["train"] * 5)}, "splits"),
        ({"splits": np.array(["train"] * 5 + ["dev"])}, "dev"),
        ({"file_names": ["a.png"]}, "file_names"),
        ({"image_digests": np.array(["0"])}, "image_digests"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(changes, reason):
    with pytest.raises(DataError, match=reason):
        dataset_of(**changes)


def test_fingerprint_does_not_depend_on_the_order_of_the_images():
    splits = np.array(["train", "train", "val", "val", "test", ""])
    dataset = dataset_of(splits=splits)
    order = np.random.default_rng(1).permutation(6)
    shuffled = dataset_of(images=dataset.images[order], labels=dataset.labels[order], splits=splits[order])
    assert shuffled.fingerprint == dataset.fingerprint


def test_fingerprint_depends_on_a_single_pixel():
    dataset = dataset_of()
    changed = dataset.images.copy()
    changed[3, 2, 1, 0] ^= 1
    assert dataset_of(images=changed).fingerprint != dataset.fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": np.array([1, 1, 0, 1, 0, 1])},
        {"class_names": ["ant", "wasp"]},
        {"splits": np.array(["", "", "", "", "", "test"])},
        {"images": dataset_of().images.reshape(6, 5, 4, 3)},
    ],
    ids=["label", "class name", "split", "shape"],
)
def test_fingerprint_depends_on_labels_names_splits_and_shape(changes):
    assert dataset_of(**changes).fingerprint != dataset_of().fingerprint


@pytest.mark.parametrize("changes", [{"name": "bugs"}, {"source": "the attic"}, {"file_names": list("abcdef")}])
def test_fingerprint_does_not_depend_on_names_and_places(changes):
    assert dataset_of(**changes).fingerprint == dataset_of().fingerprint


def test_digests_are_equal_for_equal_images_only():
    images = dataset_of().images.copy()
    images[5] = images[0]
    digests = dataset_of(images=images).digests
    assert digests[5] == digests[0]
    assert len(set(digests.tolist())) == 5


def test_image_is_called_by_its_file_or_its_position():
    assert dataset_of(file_names=list("abcdef")).image_name(2) == "c"
    assert dataset_of().image_name(2) == "image 2"
