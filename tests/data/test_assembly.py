"""What is said of the images at each start."""

import numpy as np

from cnn_sweeps.data import ImageDataset
from cnn_sweeps.data.images import describe_images
from cnn_sweeps.data.split import split_dataset


def describe(class_names, images_a_class=5, **about):
    images = np.arange(len(class_names) * images_a_class, dtype=np.uint32).view(np.uint8).reshape(-1, 2, 2, 1)
    labels = np.arange(len(images), dtype=np.int64) % len(class_names)
    dataset = ImageDataset(images=images, labels=labels, class_names=class_names, name="pets", source="a test", **about)
    return describe_images(dataset, split_dataset(dataset, 0.2, 0.2, 0))


def test_classes_are_told_with_their_counts():
    assert describe(["cat", "dog"]) == ["pets: 6 train, 2 val, 2 test images of 2 classes", "classes: cat (5), dog (5)"]


def test_long_lists_are_cut():
    classes = [f"class {i}" for i in range(1000)]
    told = describe(classes, skipped_files={"x" * 5000: "is odd"} | {f"{i}.jpg": "is empty" for i in range(2000)})
    assert told[1].startswith("classes: class 0 (5), class 1 (5), ")
    assert told[1].endswith("and 988 more")
    assert told[2].startswith("2,001 files are no usable images and were skipped: 0.jpg, 1.jpg, ")
    assert ", 4.jpg, and 1,995 more: each is empty; xxx" in told[2]
    assert all(len(line) < 700 for line in told)


def test_names_reach_the_terminal_as_one_printable_line():
    told = describe(["cat\n\x1b[31m", "dog"], notes=["a\nb"])
    assert told[1] == r"classes: cat\n\x1b[31m (5), dog (5)"
    assert all(line.isprintable() for line in told)
