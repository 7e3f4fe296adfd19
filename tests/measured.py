"""What a network is said to make of images, without a network."""

import numpy as np

from cnn_sweeps.data import ImageDataset
from cnn_sweeps.evaluation.results import Measured


def measured_of(probabilities, labels, class_names, *, threshold=None, images=None, file_names=None):
    """Measure images that are all of a data set, which also has, last, one of each class."""
    num_classes = len(class_names)
    images = np.zeros((len(labels), 1, 1, 1), np.uint8) if images is None else images
    others = np.zeros((num_classes, *images.shape[1:]), np.uint8)
    dataset = ImageDataset(
        images=np.concatenate([images, others]),
        labels=np.concatenate([labels, np.arange(num_classes)]).astype(np.int64),
        class_names=class_names,
        name="test",
        source="a test",
        file_names=None if file_names is None else [*file_names, *class_names],
    )
    return Measured("Test images", "test", dataset, np.arange(len(labels)), np.asarray(probabilities), threshold)


def of_second(scores):
    """Give probabilities of two classes from those of the second."""
    return np.stack([1 - np.array(scores), np.array(scores)], axis=1)
