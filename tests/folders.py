"""Folders of images as people keep them, for the tests that load them."""

import pytest
from PIL import Image

from cnn_sweeps.data import load_folder
from cnn_sweeps.errors import UserError


def write_image(path, grey):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (grey, grey, grey)).save(path, "PNG")


def write_classes(root, classes=("cat", "dog"), count=2, first=0):
    """Write `count` images a class, each of a brightness of its own, counted from `first`."""
    for number, (class_name, i) in enumerate((c, i) for c in classes for i in range(count)):
        write_image(root / class_name / f"{i}.png", first + number)


def load(root, **settings):
    settings = {"image_size": 4, "channels": 3, "on_bad_image": "error"} | settings
    return load_folder(root=str(root), cache_dir=str(root.parent / "cache"), **settings)


def brightness_by_name(dataset):
    return {name: int(image[0, 0, 0]) for name, image in zip(dataset.file_names, dataset.images, strict=True)}


def refusal_of(root, **settings):
    with pytest.raises(UserError) as caught:
        load(root, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)
