"""Where images come from: the functions that `data._target_` names, and what such a function returns."""

from cnn_sweeps.data.arrays import load_cifar10, load_digits, load_synthetic
from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.data.folder import load_folder

__all__ = ["ImageDataset", "load_cifar10", "load_digits", "load_folder", "load_synthetic"]
