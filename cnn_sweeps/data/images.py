"""The images of a configuration, loaded and divided, and what is told of them."""

import json
from dataclasses import asdict, dataclass, replace

import numpy as np

from cnn_sweeps.data.bad_files import describe_bad_files
from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.data.split import Split, split_dataset, without_test_images
from cnn_sweeps.errors import ConfigError
from cnn_sweeps.settings.config import check_image_fits
from cnn_sweeps.settings.schema import SPLIT_NAMES, RunConfig
from cnn_sweeps.settings.targets import call_target
from cnn_sweeps.text.names import cut_list, for_terminal
from cnn_sweeps.text.numbers import counted

_MOST_ITEMS = 12  # of a list that is told
_COPIES = ("image is a copy of another", "images are copies of others")
_SKIPPED = ("file is no usable image and was skipped", "files are no usable images and were skipped")
_LEFT_OUT = (
    "image is left out, since a later split has a copy of it",
    "images are left out, since a later split has copies of them",
)
_CONFLICTS = ("group of equal images has different classes", "groups of equal images have different classes")
_loaded: dict[str, "Images"] = {}
"""The images that this process used last, by their settings."""


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a configuration, which of them are for what, and how many each split has of each class by name.

    The counts are of test images too, also where these are gone.
    """

    dataset: ImageDataset
    split: Split
    counts: dict[str, dict[str, int]]

    def without_test(self) -> "Images":
        """Return the same images with nothing left of those to test on; to every trial the same ones."""
        dataset, split = without_test_images(self.dataset, self.split)
        return replace(self, dataset=dataset, split=split)


def load_images(config: RunConfig) -> Images:
    """Load the images and divide them.

    Raises:
        ConfigError: if the source is no such function, or the network is too deep for the images.
        DataError: if the images cannot be used, or not be divided.
    """
    dataset = call_target("data", config.data)
    if not isinstance(dataset, ImageDataset):
        raise ConfigError(
            f"data._target_={config.data['_target_']}: gave a {type(dataset).__name__}; "
            "it must return a cnn_sweeps.data.ImageDataset"
        )
    check_image_fits(config.model, *dataset.image_shape[:2])
    split = split_dataset(dataset, config.split.val_fraction, config.split.test_fraction, config.split.seed)
    return Images(dataset, split, split.counts(dataset))


def load_images_once(config: RunConfig) -> Images:
    """Do what `load_images` does, or give what it gave for the same settings to an earlier trial of this process."""
    key = json.dumps([config.data, asdict(config.split)], sort_keys=True)
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = load_images(config)
    images = _loaded[key]
    check_image_fits(config.model, *images.dataset.image_shape[:2])
    return images


def forget_images() -> None:
    """Load anew: another sweep begins in this process."""
    _loaded.clear()


def describe_images(dataset: ImageDataset, split: Split) -> list[str]:
    """Say in a few lines how many images there are for what and of which class, and what is odd about them."""
    parts = {name: getattr(split, name) for name in SPLIT_NAMES}
    counts = ", ".join(f"{len(part)} {name}" for name, part in parts.items())
    used = dataset.labels[np.concatenate([*parts.values()])]
    of_class = np.bincount(used, minlength=len(dataset.class_names)).tolist()
    classes = [f"{for_terminal(name)} ({count:,})" for name, count in zip(dataset.class_names, of_class, strict=True)]
    lines = [
        f"{for_terminal(dataset.name)}: {counts} images of {len(dataset.class_names)} classes",
        f"classes: {cut_list(classes, ', ', _MOST_ITEMS)}",
        *map(for_terminal, dataset.notes),
    ]
    if split.num_duplicates:
        lines.append(f"{counted(split.num_duplicates, *_COPIES)}; copies stay in one split")
    if skipped := dataset.skipped_files:
        told = for_terminal(describe_bad_files(skipped))
        lines.append(f"{counted(len(skipped), *_SKIPPED)}: {told}")
    for names, what in (
        (split.left_out, _LEFT_OUT),
        (split.conflicts, _CONFLICTS),
    ):
        if names:
            lines.append(f"{counted(len(names), *what)}: {cut_list([*map(for_terminal, names)], '; ', _MOST_ITEMS)}")
    return lines
