"""Splits are stratified, seeded, independent of order, and no image is in two of them."""

import re
from dataclasses import replace

import numpy as np
import pytest

from cnn_sweeps.data import ImageDataset
from cnn_sweeps.data.split import balanced_class_weights, split_dataset
from cnn_sweeps.errors import DataError

SPLITS = ("train", "val", "test")


def dataset_of(ids, labels, splits=None):
    """One image an id, equal for equal ids; its name holds its position and id."""
    ids = np.asarray(ids)
    num_classes = int(np.max(labels)) + 1
    return ImageDataset(
        images=ids.astype(">u4").view(np.uint8).reshape(-1, 2, 2, 1),
        labels=np.asarray(labels, np.int64),
        class_names=["ant", "bee", "cat", "dog", "eel"][:num_classes],
        name="numbers",
        source="test",
        splits=None if splits is None else np.asarray(splits, dtype=np.str_),
        file_names=[f"image {i} of {image_id}" for i, image_id in enumerate(ids)],
    )


def distinct(*counts):
    """As many different images of each class as told."""
    return np.arange(sum(counts)), np.repeat(np.arange(len(counts)), counts)


def ids_in(split, ids):
    return {name: sorted(np.asarray(ids)[getattr(split, name)].tolist()) for name in SPLITS}


def positions_named(names):
    return [int(re.match(r"image (\d+) of", name)[1]) for name in names]


def assert_no_image_straddles(split, ids):
    train, val, test = (set(found) for found in ids_in(split, ids).values())
    assert not train & val
    assert not train & test
    assert not val & test


def assert_complete_without_overlap(split, count):
    used = np.concatenate([split.train, split.val, split.test])
    assert sorted([*used.tolist(), *positions_named(split.left_out)]) == list(range(count))


def test_every_class_gives_its_share_to_every_split():
    dataset = dataset_of(*distinct(100, 300))
    counts = split_dataset(dataset, 0.2, 0.1, seed=0).counts(dataset)
    assert counts == {
        "train": {"ant": 70, "bee": 210},
        "val": {"ant": 20, "bee": 60},
        "test": {"ant": 10, "bee": 30},
    }


def test_shares_count_images_however_often_each_is_repeated():
    ids, labels = distinct(30, 30)
    dataset = dataset_of(np.repeat(ids, 10), np.repeat(labels, 10))
    counts = split_dataset(dataset, 0.2, 0.1, seed=0).counts(dataset)
    assert counts == {name: {"ant": n, "bee": n} for name, n in zip(SPLITS, (210, 60, 30), strict=True)}


def test_every_image_is_in_exactly_one_split():
    ids, labels = distinct(37, 53, 11)
    split = split_dataset(dataset_of(ids, labels), 0.15, 0.15, seed=3)
    assert_complete_without_overlap(split, len(ids))
    assert split.left_out == []
    assert split.conflicts == []
    assert split.num_duplicates == 0


def test_positions_are_sorted():
    split = split_dataset(dataset_of(*distinct(50, 50)), 0.2, 0.2, seed=0)
    for name in SPLITS:
        assert getattr(split, name).tolist() == sorted(getattr(split, name).tolist())


def test_same_seed_gives_the_same_split_and_other_seeds_others():
    ids, labels = distinct(50, 50)
    drawn = [ids_in(split_dataset(dataset_of(ids, labels), 0.2, 0.2, seed), ids) for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1]
    for split in SPLITS:
        assert len({str(one[split]) for one in drawn[1:]}) == 3


@pytest.mark.parametrize("have_equal_images_two_classes", [False, True])
def test_order_of_the_images_does_not_matter(have_equal_images_two_classes):
    random = np.random.default_rng(0)
    ids, labels = np.repeat(np.arange(60), 2), np.repeat(np.arange(60) % 3, 2)
    if have_equal_images_two_classes:
        ids, labels = distinct(30, 30)
        ids, labels = np.append(ids, np.arange(10)), np.append(labels, np.ones(10, int))
    expected = ids_in(split_dataset(dataset_of(ids, labels), 0.2, 0.2, seed=5), ids)
    for _ in range(5):
        order = random.permutation(len(ids))
        shuffled = dataset_of(ids[order], labels[order])
        assert ids_in(split_dataset(shuffled, 0.2, 0.2, seed=5), ids[order]) == expected


def test_equal_images_never_straddle_splits_in_random_data():
    random = np.random.default_rng(0)
    for seed in range(50):
        num_classes = int(random.integers(2, 6))
        labels = random.permutation(np.repeat(np.arange(num_classes), random.integers(30, 120, num_classes)))
        ids = 1000 * labels + random.integers(0, random.integers(15, 60), len(labels))  # many duplicates
        split = split_dataset(dataset_of(ids, labels), *random.uniform(0.05, 0.4, 2), seed=seed)
        assert_no_image_straddles(split, ids)
        assert_complete_without_overlap(split, len(ids))
        assert split.num_duplicates == len(ids) - len(set(ids.tolist()))
        assert split.left_out == []


def test_equal_images_never_straddle_splits_in_random_data_with_given_splits_and_conflicts():
    random = np.random.default_rng(1)
    for seed in range(50):
        labels = random.permutation(np.repeat(np.arange(3), random.integers(200, 300, 3)))
        ids = 80 * labels + random.integers(0, 90, len(labels))  # an eighth could be another class's
        names = [["train", "test"], ["train", "val", "test"], ["", "test"], ["", "train", "val"]][seed % 4]
        splits = random.choice(names, len(labels), p=[0.9, *[0.1 / (len(names) - 1)] * (len(names) - 1)])
        split = split_dataset(dataset_of(ids, labels, splits), 0.1, 0.1, seed=seed)
        assert_no_image_straddles(split, ids)
        assert_complete_without_overlap(split, len(ids))
        assert all(splits[i] in ("train", "val") for i in positions_named(split.left_out))
        assert set(split.test.tolist()) >= set(np.flatnonzero(splits == "test").tolist())


def test_every_split_gets_every_class_in_random_data_with_duplicates():
    random = np.random.default_rng(2)
    for seed in range(50):
        different = random.integers(3, 8)
        ids = np.repeat(np.arange(2 * different), random.integers(1, 30, 2 * different))
        labels = ids // different
        dataset = dataset_of(ids, labels)
        counts = split_dataset(dataset, *random.uniform(0.05, 0.4, 2), seed=seed).counts(dataset)
        assert min(count for of_class in counts.values() for count in of_class.values()) >= 1, (seed, counts)


@pytest.mark.parametrize(("val_fraction", "test_fraction"), [(0.2, 0.7), (0.7, 0.2), (0.05, 0.05), (0.45, 0.45)])
@pytest.mark.parametrize("count", [3, 4, 5])
def test_few_images_a_class_still_reach_every_split(count, val_fraction, test_fraction):
    dataset = dataset_of(*distinct(count, count))
    counts = split_dataset(dataset, val_fraction, test_fraction, seed=0).counts(dataset)
    assert min(number for of_class in counts.values() for number in of_class.values()) >= 1


def test_rare_class_is_in_every_split():
    dataset = dataset_of(*distinct(100, 5))
    for seed in range(20):
        counts = split_dataset(dataset, 0.1, 0.1, seed=seed).counts(dataset)
        assert all(counts[split]["bee"] >= 1 for split in SPLITS)
        assert all(counts[split]["ant"] >= 10 for split in SPLITS)


@pytest.mark.parametrize(("copies", "of"), [(1, ""), (10, r" \(of 20\)")])
def test_too_few_different_images_are_refused_with_the_class_and_the_number_needed(copies, of):
    ids, labels = distinct(10, 2)
    dataset = dataset_of(np.repeat(ids, copies), np.repeat(labels, copies))
    with pytest.raises(DataError, match=f"class bee has 2 different images to split{of}; at least 3 are needed"):
        split_dataset(dataset, 0.2, 0.2, seed=0)


def test_class_whose_images_are_all_in_another_one_says_so():
    ids, labels = distinct(10)
    dataset = dataset_of(np.append(ids, ids[:5]), np.append(labels, [1] * 5))
    told = (
        r"class bee has 0 different images to split beside those that are in ant, too \(of 5\); at least 3 are needed"
    )
    with pytest.raises(DataError, match=f"{told}, one each for train, test, val; keep each image in one class, add "):
        split_dataset(dataset, 0.2, 0.2, seed=0)


def test_class_with_one_image_says_what_to_do():
    told = (
        "class bee has 1 different image to split; at least 3 are needed, one each for train, test, val; add different"
    )
    with pytest.raises(DataError, match=told):
        split_dataset(dataset_of(*distinct(10, 1)), 0.2, 0.2, seed=0)


def test_number_needed_counts_only_the_splits_to_draw():
    ids, labels = distinct(10, 2)
    ids, labels = np.append(ids, [100, 101]), np.append(labels, [0, 1])
    dataset = dataset_of(ids, labels, ["train"] * 12 + ["test"] * 2)
    counts = split_dataset(dataset, 0.2, 0.2, seed=0).counts(dataset)
    assert [counts[split]["bee"] for split in SPLITS] == [1, 1, 1]


def test_given_splits_are_kept():
    ids, labels = distinct(30, 30)
    splits = np.random.default_rng(0).choice(SPLITS, 60)
    split = split_dataset(dataset_of(ids, labels, splits), 0.5, 0.4, seed=0)
    for name in SPLITS:
        np.testing.assert_array_equal(getattr(split, name), np.flatnonzero(splits == name))


@pytest.mark.parametrize(("given", "missing"), [("test", "val"), ("val", "test")])
def test_missing_split_is_drawn_from_the_training_images_alone(given, missing):
    ids, labels = distinct(50, 50)
    splits = np.where(np.arange(100) % 5 == 0, given, "train")
    split = split_dataset(dataset_of(ids, labels, splits), 0.1, 0.1, seed=0)
    np.testing.assert_array_equal(getattr(split, given), np.flatnonzero(splits == given))
    assert len(getattr(split, missing)) == 8  # a tenth of the 40 training images of each class
    assert set(splits[getattr(split, missing)].tolist()) == {"train"}


def test_images_without_a_split_are_for_training_when_all_splits_are_given():
    ids, labels = distinct(10, 10)
    splits = ["train", "val", "test", "", ""] * 4
    split = split_dataset(dataset_of(ids, labels, splits), 0.2, 0.2, seed=0)
    assert len(split.train) == 12
    assert len(split.val) == len(split.test) == 4


def test_training_copy_of_a_test_image_is_left_out_and_named():
    ids, labels = distinct(10, 10)
    ids, labels = np.append(ids, [3, 3, 100]), np.append(labels, [0, 0, 1])
    split = split_dataset(dataset_of(ids, labels, ["train"] * 20 + ["test"] * 3), 0.2, 0.2, seed=0)
    assert split.left_out == ["image 3 of 3"]
    assert split.test.tolist() == [20, 21, 22]
    assert split.num_duplicates == 2
    assert_no_image_straddles(split, ids)
    assert_complete_without_overlap(split, len(ids))


def test_copy_in_all_three_splits_is_used_in_the_last_only():
    ids, labels = distinct(9, 9)
    splits = ["train", "val", "test"] * 6
    ids = np.append(ids, [0, 0])
    split = split_dataset(dataset_of(ids, [*labels, 0, 0], [*splits, "val", "test"]), 0.2, 0.2, seed=0)
    assert sorted(positions_named(split.left_out)) == [0, 18]
    assert 19 in split.test


def test_validation_images_are_drawn_anew_when_all_that_were_given_are_test_images():
    ids, labels = distinct(20, 20)
    given_ids, given_labels = [100, 101, 102, 103], [0, 0, 1, 1]
    dataset = dataset_of(
        [*ids, *given_ids, *given_ids],
        [*labels, *given_labels, *given_labels],
        ["train"] * 40 + ["val"] * 4 + ["test"] * 4,
    )
    split = split_dataset(dataset, 0.2, 0.2, seed=0)
    assert positions_named(split.left_out) == [40, 41, 42, 43]
    assert len(split.val) == 8  # a fifth of the training images
    assert max(split.val) < 40


def test_equal_images_with_two_classes_are_reported_by_name():
    ids, labels = distinct(10, 10)
    ids, labels = np.append(ids, [15, 2, 4]), np.append(labels, [0, 1, 0])
    split = split_dataset(dataset_of(ids, labels), 0.2, 0.2, seed=0)
    assert sorted(split.conflicts) == [
        "image 15 of 15 (bee) = image 20 of 15 (ant)",
        "image 2 of 2 (ant) = image 21 of 2 (bee)",
    ]
    assert_no_image_straddles(split, ids)


def test_images_without_names_are_called_by_their_position():
    dataset = ImageDataset(
        images=np.array([1, 2, 3, 4, 1, 5, 6], np.uint8).reshape(-1, 1, 1, 1),
        labels=np.array([0, 0, 0, 0, 1, 1, 1]),
        class_names=["ant", "bee"],
        name="unnamed",
        source="test",
        splits=np.array(["train", "train", "val", "test", "test", "train", "val"]),
    )
    split = split_dataset(dataset, 0.2, 0.2, seed=0)
    assert split.left_out == ["image 0"]
    assert split.conflicts == ["image 0 (ant) = image 4 (bee)"]


def test_counts_name_every_class_in_every_split():
    ids, labels = distinct(4, 4)
    splits = ["train", "train", "val", "test", "train", "train", "val", "test"]
    dataset = dataset_of(ids, labels, splits)
    assert split_dataset(dataset, 0.2, 0.2, seed=0).counts(dataset) == {
        "train": {"ant": 2, "bee": 2},
        "val": {"ant": 1, "bee": 1},
        "test": {"ant": 1, "bee": 1},
    }


def test_fingerprint_is_of_images_classes_and_their_uses_and_not_of_order_or_size():
    ids, labels = distinct(20, 20)
    data = dataset_of(ids, labels)
    split = split_dataset(data, 0.2, 0.2, seed=0)
    known = split.fingerprint(data)
    order = np.random.default_rng(0).permutation(len(ids))
    shuffled = dataset_of(ids[order], labels[order])
    assert split_dataset(shuffled, 0.2, 0.2, seed=0).fingerprint(shuffled) == known
    assert split_dataset(data, 0.2, 0.2, seed=1).fingerprint(data) != known
    assert replace(split, train=split.train[1:]).fingerprint(data) != known
    assert split.fingerprint(dataset_of(ids + 1, labels)) != known
    assert split.fingerprint(replace(data, class_names=["ant", "wasp"])) != known
    files = [f"file {i}" for i in ids]
    small, large = (
        replace(data, images=images, content_ids=np.array(files)) for images in (data.images, data.images.repeat(2, 1))
    )
    assert split.fingerprint(small) == split.fingerprint(large)


def test_balanced_weights_make_every_class_count_the_same():
    labels = np.repeat([0, 1, 2], [10, 30, 60])
    weights = balanced_class_weights(labels)
    assert weights == pytest.approx({0: 100 / 30, 1: 100 / 90, 2: 100 / 180})
    assert [weights[label] * np.sum(labels == label) for label in weights] == pytest.approx([100 / 3] * 3)


def test_balanced_weights_of_balanced_classes_are_one():
    assert balanced_class_weights(np.array([0, 1, 1, 0])) == {0: 1, 1: 1}


def test_given_split_without_an_image_of_a_class_is_refused():
    ids, labels = distinct(4, 4)
    splits = ["train", "train", "val", "test", "train", "train", "train", "test"]
    with pytest.raises(DataError, match="no val image of class bee"):
        split_dataset(dataset_of(ids, labels, splits), 0.2, 0.2, seed=0)


def test_split_depends_on_the_files_and_not_on_the_size_they_are_decoded_to():
    ids, labels = distinct(20, 20)
    small = dataset_of(ids, labels)
    names = np.array([f"file {i}" for i in range(40)])
    splits = [
        split_dataset(replace(small, images=images, content_ids=names), 0.2, 0.2, seed=0)
        for images in (small.images, small.images.repeat(2, axis=1), 255 - small.images)
    ]
    for split in splits[1:]:
        assert all(np.array_equal(getattr(split, name), getattr(splits[0], name)) for name in ("train", "val", "test"))


def test_an_added_image_changes_the_split_of_few_others():
    ids, labels = distinct(101, 100)
    whole = dataset_of(ids, labels)
    fewer = dataset_of(ids[1:], labels[1:])
    before, after = (split_dataset(data, 0.2, 0.2, seed=0) for data in (fewer, whole))
    moved = set(before.test + 1) ^ (set(after.test) - {0})
    assert len(moved) <= 4
