"""Training, validation and test images: stratified, seeded, and no image in two of them."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.errors import DataError
from cnn_sweeps.settings.schema import SPLIT_NAMES
from cnn_sweeps.text.names import cut_list, for_terminal
from cnn_sweeps.text.numbers import counted

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Which images are for what.

    Attributes:
        train, val, test: int64 positions of images, sorted, without overlap.
        num_duplicates: images that equal an earlier one; equal images are always in one split.
        left_out: names of images that were given to two splits and are used in the later of train, val, test only.
        conflicts: names of equal images with different classes, one group a line.
    """

    train: Indices
    val: Indices
    test: Indices
    num_duplicates: int = 0
    left_out: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)

    def fingerprint(self, dataset: ImageDataset) -> str:
        """Return 32 hexadecimal digits for images, their classes and what each is used for: one for all three.

        They depend neither on the images' order nor, where the source can tell images apart otherwise, on their size.
        """
        uses = np.full(len(dataset.labels), "none", "<U5")
        for name in SPLIT_NAMES:
            uses[getattr(self, name)] = name
        return dataset.fingerprint_of(dataset.ids, uses)

    def counts(self, dataset: ImageDataset) -> dict[str, dict[str, int]]:
        """Count the images of each class in each split: `{"train": {"cat": 300, ...}, ...}`."""
        labels = {split: dataset.labels[getattr(self, split)] for split in SPLIT_NAMES}
        return {
            split: {name: int(np.sum(of_split == i)) for i, name in enumerate(dataset.class_names)}
            for split, of_split in labels.items()
        }


def split_dataset(dataset: ImageDataset, val_fraction: float, test_fraction: float, seed: int) -> Split:
    """Keep the splits that the data give and draw the missing ones from the rest, by the same share of every class.

    The fractions, in (0, 1), count where the data give no such split. The same seed and images give the same split,
    whatever the images' order, names or size; an image that is added or removed changes little else.

    Raises:
        DataError: if a class has too few different images for every split to get one.
    """
    groups = _group_in_random_order(dataset, seed)
    given = np.zeros(len(groups), "<U5") if dataset.splits is None else dataset.splits.astype("<U5")
    assigned = _latest_of_group(given, groups)
    left_out = np.flatnonzero((given != "") & (assigned != given))
    assigned[left_out] = "none"
    fractions = {"test": test_fraction, "val": val_fraction}
    missing = {split: fraction for split, fraction in fractions.items() if split not in assigned}
    pool = np.flatnonzero(np.isin(assigned, ("", "train")))
    assigned[pool] = _draw_splits(groups[pool], dataset, pool, missing)
    for split in SPLIT_NAMES:
        present = set(dataset.labels[assigned == split].tolist())
        if absent := [name for label, name in enumerate(dataset.class_names) if label not in present]:
            told = f"data: no {split} image of class {cut_list(absent, ', ', 10)} in {dataset.source}"
            raise DataError(f"{told}; add some, or remove the class")
    return Split(
        **{name: np.flatnonzero(assigned == name) for name in SPLIT_NAMES},
        num_duplicates=len(groups) - len(set(groups.tolist())),
        left_out=[dataset.image_name(i) for i in left_out.tolist()],
        conflicts=_conflicts(dataset, groups),
    )


def split_into_folds(dataset: ImageDataset, split: Split, num_folds: int, seed: int) -> list[Split]:
    """Divide training and validation images into folds of the same share of every class; each is validated on once.

    Raises:
        DataError: if a class has fewer different images than folds.
    """
    pool = np.sort(np.concatenate([split.train, split.val]))
    groups = _group_in_random_order(dataset, seed)[pool]
    numbers, group_labels, _ = _by_group(groups, dataset.labels[pool])
    fold_of_group = np.zeros(numbers.max(initial=-1) + 1, np.int64)
    for label, class_name in enumerate(dataset.class_names):
        of_class = numbers[group_labels == label]
        if len(of_class) < num_folds:
            raise DataError(
                f"folds={num_folds}: class {class_name} has {counted(len(of_class), 'different image')} outside test; "
                "set fewer folds or add images"
            )
        fold_of_group[of_class] = np.arange(len(of_class)) * num_folds // len(of_class)
    fold = fold_of_group[groups]
    return [replace(split, train=pool[fold != k], val=pool[fold == k]) for k in range(num_folds)]


@lru_cache(maxsize=1)  # for the next trial
def without_test_images(dataset: ImageDataset, split: Split) -> tuple[ImageDataset, Split]:
    """Return the same data with nothing left of the test images: blank in memory, never read where they are mapped."""
    images = dataset.images
    if not isinstance(images, np.memmap):
        images = images.copy()
        images[split.test] = 0
    return replace(dataset, images=images, image_digests=dataset.digests), replace(split, test=split.test[:0])


def balanced_class_weights(labels: Indices) -> dict[int, float]:
    """Weigh each class by N / (number of classes * images of the class), so that all count the same."""
    counts = Counter(labels.tolist())
    return {label: len(labels) / (len(counts) * count) for label, count in counts.items()}


def _group_in_random_order(dataset: ImageDataset, seed: int) -> Indices:
    """Give equal images the same number; the order of the numbers depends on the seed and on content alone."""
    _, groups = np.unique(dataset.digests, return_inverse=True)
    _, lowest_ids, _ = _by_group(groups, dataset.ids)
    drawn = np.argsort([hashlib.blake2b(f"{seed} {lowest}".encode()).hexdigest() for lowest in lowest_ids])
    return np.argsort(drawn)[groups]


def _by_group(groups: Indices, values: NDArray[Any]) -> tuple[Indices, NDArray[Any], Indices]:
    """Return number, lowest value and size of each group: equal images of two classes count for the lower one."""
    order = np.lexsort((values, groups))
    numbers, first, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    return numbers, values[order[first]], sizes


def _latest_of_group(given: NDArray[np.str_], groups: Indices) -> NDArray[np.str_]:
    """Give an image that split of its equals that comes last in train, val, test: what tests does not train."""
    names = ["", *SPLIT_NAMES]
    latest = np.zeros(groups.max(initial=-1) + 1, np.int64)
    np.maximum.at(latest, groups, [names.index(split) for split in given])
    return np.array(names, "<U5")[latest[groups]]


def _draw_splits(
    groups: Indices, dataset: ImageDataset, pool: Indices, fractions: dict[str, float]
) -> NDArray[np.str_]:
    """Give each image of a pool its split, equal images the same one: "train", or one of those that need a fraction.

    Of each class, groups are taken in their order for each split until it has its share of the class's images.
    """
    numbers, group_labels, sizes = _by_group(groups, dataset.labels[pool])
    split_of_group = np.full(groups.max(initial=-1) + 1, "train", "<U5")
    for label, class_name in enumerate(dataset.class_names):
        left, left_sizes = numbers[group_labels == label], sizes[group_labels == label]
        if len(left) <= len(fractions):
            own = groups[dataset.labels[pool] == label]
            others = group_labels[np.isin(numbers, own) & (group_labels != label)]
            also_in = [dataset.class_names[other] for other in sorted(set(others.tolist()))]
            raise DataError(_too_few(class_name, len(left), len(own), also_in, [*fractions]))
        num_images = int(left_sizes.sum())
        for num_others, (split, fraction) in zip(range(len(fractions), 0, -1), fractions.items(), strict=True):
            wanted = max(1, round(fraction * num_images))
            taken = min(int(np.searchsorted(np.cumsum(left_sizes), wanted)) + 1, len(left) - num_others)
            split_of_group[left[:taken]] = split
            left, left_sizes = left[taken:], left_sizes[taken:]
    return split_of_group[groups]


def _too_few(class_name: str, num_different: int, num_images: int, also_in: Sequence[str], drawn: Sequence[str]) -> str:
    """Say why a class cannot be split, and what to do; equal images of two classes count for the first one."""
    told = f"data: class {class_name} has {counted(num_different, 'different image')} to split"
    if also_in:
        told += f" beside those that are in {cut_list(also_in, ', ', 10)}, too"
    if num_different < num_images:
        told += f" (of {num_images:,})"
    needed = f"at least {len(drawn) + 1} are needed, one each for {', '.join(['train', *drawn])}"
    keep = "keep each image in one class, " if also_in else ""
    return f"{told}; {needed}; {keep}add different images, or remove the class"


def _conflicts(dataset: ImageDataset, groups: Indices) -> list[str]:
    classes_of_group = np.unique(groups * len(dataset.class_names) + dataset.labels) // len(dataset.class_names)
    numbers, num_classes = np.unique(classes_of_group, return_counts=True)
    return [
        " = ".join(
            f"{dataset.image_name(i)} ({for_terminal(dataset.class_names[dataset.labels[i]])})"
            for i in np.flatnonzero(groups == group).tolist()
        )
        for group in numbers[num_classes > 1]
    ]
