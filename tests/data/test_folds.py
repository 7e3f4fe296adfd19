"""Folds validate every image once and none of test; the copy that a sweep trains on has no test images."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cnn_sweeps.data import ImageDataset
from cnn_sweeps.data.images import forget_images, load_images_once
from cnn_sweeps.data.split import split_dataset, split_into_folds, without_test_images
from cnn_sweeps.errors import DataError


def dataset_of(ids, labels, splits=None):
    """One image an id, equal for equal ids and never blank."""
    ids = np.asarray(ids)
    return ImageDataset(
        images=(ids + 2**24).astype(">u4").view(np.uint8).reshape(-1, 2, 2, 1),
        labels=np.asarray(labels, np.int64),
        class_names=["ant", "bee", "cat"][: int(np.max(labels)) + 1],
        name="numbers",
        source="test",
        splits=None if splits is None else np.asarray(splits, dtype=np.str_),
    )


def distinct(*counts):
    """As many different images of each class as told."""
    return np.arange(sum(counts)), np.repeat(np.arange(len(counts)), counts)


def folds_of(dataset, num_folds, seed=0):
    split = split_dataset(dataset, 0.2, 0.2, 0)
    return split, split_into_folds(dataset, split, num_folds, seed)


@pytest.mark.parametrize("num_folds", [2, 3, 5, 8])
def test_every_image_outside_test_validates_exactly_once(num_folds):
    split, folds = folds_of(dataset_of(*distinct(37, 53, 11)), num_folds)
    pool = sorted([*split.train.tolist(), *split.val.tolist()])
    assert len(folds) == num_folds
    assert sorted(np.concatenate([fold.val for fold in folds]).tolist()) == pool
    for fold in folds:
        assert sorted([*fold.train.tolist(), *fold.val.tolist()]) == pool
        assert fold.test.tolist() == split.test.tolist()
        assert fold.train.tolist() == sorted(fold.train.tolist())


def test_every_fold_has_the_same_share_of_every_class():
    dataset = dataset_of(*distinct(100, 303, 52))
    split, folds = folds_of(dataset, 4)
    for name in dataset.class_names:
        counts = [fold.counts(dataset)["val"][name] for fold in folds]
        assert max(counts) - min(counts) <= 1
        assert sum(counts) == split.counts(dataset)["train"][name] + split.counts(dataset)["val"][name]


def test_equal_images_are_in_one_fold_even_with_different_classes():
    ids, labels = distinct(30, 30)
    ids, labels = np.repeat(ids, 3), np.repeat(labels, 3)
    labels[::9] = 1 - labels[::9]
    dataset = dataset_of(ids, labels)
    split, folds = folds_of(dataset, 3)
    assert split.num_duplicates == 120
    for fold in folds:
        assert not set(ids[fold.val].tolist()) & set(ids[fold.train].tolist())
        assert not set(ids[fold.test].tolist()) & {*ids[fold.val].tolist(), *ids[fold.train].tolist()}


def test_folds_depend_on_the_seed_and_not_on_the_order_of_the_images():
    ids, labels = distinct(40, 60)
    _, folds = folds_of(dataset_of(ids, labels), 3)
    order = np.random.default_rng(0).permutation(len(ids))
    _, shuffled = folds_of(dataset_of(ids[order], labels[order]), 3)
    assert [sorted(order[fold.val].tolist()) for fold in shuffled] == [fold.val.tolist() for fold in folds]
    _, reseeded = folds_of(dataset_of(ids, labels), 3, seed=1)
    assert [fold.val.tolist() for fold in reseeded] != [fold.val.tolist() for fold in folds]


def test_images_that_were_left_out_are_in_no_fold():
    """The first image is given to train and to test, so that it is used in test alone."""
    ids, labels = distinct(20, 20)
    splits = np.where(np.arange(40) % 4 == 0, "test", "train")
    dataset = dataset_of(np.append(ids, 0), np.append(labels, 0), np.append(splits, "train"))
    split, folds = folds_of(dataset, 2)
    assert split.left_out == ["image 40"]
    for fold in folds:
        assert 40 not in {*fold.train.tolist(), *fold.val.tolist(), *fold.test.tolist()}
        assert fold.left_out == split.left_out


def test_as_many_folds_as_different_images_of_a_class_are_the_most():
    dataset = dataset_of(np.append(np.arange(40), [0, 0, 0]), np.append(np.repeat([0, 1], 20), [0, 0, 0]), None)
    split = replace(split_dataset(dataset, 0.2, 0.2, 0))
    pool = np.concatenate([split.train, split.val])
    num_different = min(len({int(i) % 40 if i < 40 else 0 for i in pool if dataset.labels[i] == k}) for k in (0, 1))
    folds = split_into_folds(dataset, split, num_different, 0)
    assert all(set(dataset.labels[fold.val].tolist()) == {0, 1} for fold in folds)
    with pytest.raises(DataError, match=rf"folds={num_different + 1}: class (ant|bee) has {num_different} different"):
        split_into_folds(dataset, split, num_different + 1, 0)


def test_pixels_of_test_images_in_memory_are_blank_in_the_copy_alone():
    dataset = dataset_of(*distinct(30, 30))
    before, split = dataset.images.copy(), split_dataset(dataset, 0.2, 0.2, 0)
    kept, kept_split = without_test_images(dataset, split)
    assert len(split.test) > 0
    assert not kept.images[split.test].any()
    others = np.concatenate([split.train, split.val])
    assert np.array_equal(kept.images[others], before[others])
    assert np.array_equal(dataset.images, before)
    assert kept_split.test.tolist() == []
    assert (kept_split.train.tolist(), kept_split.val.tolist()) == (split.train.tolist(), split.val.tolist())


def test_trials_of_a_process_share_their_images_and_have_no_copies_of_their_own():
    """Nor tensors: one is kept for each data set, which is known as the object that it is."""
    from conftest import TINY, compose  # not for the process below, which imports this file

    forget_images()
    first, second = (load_images_once(compose(*TINY, f"model.l2={l2}")).without_test() for l2 in (0.1, 0.2))
    assert first.dataset is second.dataset
    assert first.split is second.split


def test_memory_mapped_images_stay_mapped_and_as_they_are(tmp_path):
    dataset = dataset_of(*distinct(30, 30))
    np.save(tmp_path / "images.npy", dataset.images)
    on_disk = (tmp_path / "images.npy").read_bytes()
    mapped = replace(dataset, images=np.load(tmp_path / "images.npy", mmap_mode="r"))
    kept, kept_split = without_test_images(mapped, split_dataset(mapped, 0.2, 0.2, 0))
    assert isinstance(kept.images, np.memmap)
    assert np.shares_memory(kept.images, mapped.images)
    assert kept_split.test.tolist() == []
    assert (tmp_path / "images.npy").read_bytes() == on_disk


@pytest.mark.parametrize("is_digest_known", [True, False])
def test_data_without_test_images_are_told_as_the_same_data(is_digest_known):
    dataset = dataset_of(*distinct(30, 30))
    if is_digest_known:
        dataset = replace(dataset, image_digests=dataset.digests)
    split = split_dataset(dataset, 0.2, 0.2, 0)
    kept, kept_split = without_test_images(dataset, split)
    assert kept.fingerprint == dataset.fingerprint
    assert kept.digests.tolist() == dataset.digests.tolist()
    assert [fold.val.tolist() for fold in split_into_folds(kept, kept_split, 3, 0)] == [
        fold.val.tolist() for fold in split_into_folds(dataset, split, 3, 0)
    ]


def test_pixels_of_mapped_test_images_are_not_read(tmp_path):
    """The file is empty by then, so that reading a pixel would end the process."""
    program = """
import sys
from dataclasses import replace

import numpy as np
from test_folds import dataset_of, distinct

from cnn_sweeps.data.split import split_dataset, split_into_folds, without_test_images

dataset = dataset_of(*distinct(30, 30))
split = split_dataset(dataset, 0.2, 0.2, 0)
np.save("images.npy", dataset.images)
mapped = replace(dataset, images=np.load("images.npy", mmap_mode="r"), image_digests=dataset.digests)
open("images.npy", "wb").close()
kept, kept_split = without_test_images(mapped, split)
assert len(split_into_folds(kept, kept_split, 3, 0)) == 3
assert kept.fingerprint == dataset.fingerprint
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
