"""Builds what a configuration describes: the data with their split, and the network."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cnn_sweeps.config import check_image_fits
from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.data.split import Split, split_dataset
from cnn_sweeps.errors import ConfigError
from cnn_sweeps.names import for_terminal
from cnn_sweeps.schema import SPLIT_NAMES, RunConfig
from cnn_sweeps.targets import call_target
from cnn_sweeps.tracking.process import keep_git_from_helpers

if TYPE_CHECKING:
    import keras

    from cnn_sweeps.network import Network

log = logging.getLogger(__name__)

_MOST_ITEMS = 12  # of a list that is told
_MOST_CHARACTERS = 200  # of one of them
_NUM_KEPT_NETWORKS = 8  # with what is compiled for one of them takes some 30 MB
_networks: dict[str, Network] = {}
"""The networks that this process trained last, by what tells their graphs apart."""
_loaded: dict[str, tuple[ImageDataset, Split]] = {}
"""The images that this process used last, by their settings."""


def prepare_libraries() -> None:
    """Set what the libraries read from the environment when they are imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # errors reach Python as exceptions anyway
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # drawn where no terminal is, too
    os.environ.setdefault("MLFLOW_UV_AUTO_DETECT", "false")  # a lock file in the working folder is no part of a model
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # of 7, which take 4 minutes: what fails can wait
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")  # seconds, of 120
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("JOBLIB_MULTIPROCESSING", "0")  # unused, and its trial semaphore is complained about at exit
    keep_git_from_helpers()


def import_libraries() -> None:
    """Import what training takes seconds to import, so that it is there when the first trial comes."""
    prepare_libraries()
    importlib.import_module("cnn_sweeps.completion")
    importlib.import_module("mlflow")


@contextmanager
def native_messages_off() -> Iterator[None]:
    """Keep off the terminal what TensorFlow's libraries write to it while loading, which no setting of theirs does."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def load_data(config: RunConfig) -> tuple[ImageDataset, Split]:
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
    return dataset, split_dataset(dataset, config.split.val_fraction, config.split.test_fraction, config.split.seed)


def load_data_once(config: RunConfig) -> tuple[ImageDataset, Split]:
    """Do what `load_data` does, or give what it gave for the same settings to an earlier trial of this process."""
    key = json.dumps([config.data, asdict(config.split)], sort_keys=True)
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = load_data(config)
    dataset, split = _loaded[key]
    check_image_fits(config.model, *dataset.image_shape[:2])
    return dataset, split


def describe_data(dataset: ImageDataset, split: Split) -> list[str]:
    """Say in a few lines how many images there are for what and of which class, and what is odd about them."""
    counts = {name: f"{len(getattr(split, name))} {name}" for name in SPLIT_NAMES}
    used = np.concatenate([getattr(split, name) for name in SPLIT_NAMES])
    of_class = np.bincount(dataset.labels[used], minlength=len(dataset.class_names)).tolist()
    classes = [f"{for_terminal(name)} ({count:,})" for name, count in zip(dataset.class_names, of_class, strict=True)]
    lines = [
        f"{for_terminal(dataset.name)}: {', '.join(counts.values())} images of {len(dataset.class_names)} classes",
        f"classes: {_cut(classes, ', ')}",
        *map(for_terminal, dataset.notes),
    ]
    if split.num_duplicates:
        lines.append(f"{split.num_duplicates} images repeat another one; equal images are in one split")
    for names, what in (
        (dataset.skipped_files, "files are no usable images and were skipped"),
        (split.left_out, "images equal one in a later split and are left out"),
        (split.conflicts, "groups of equal images have different classes"),
    ):
        if names:
            lines.append(f"{len(names)} {what}: {_cut([*map(for_terminal, names)], '; ')}")
    return lines


def _cut(items: Sequence[str], separator: str) -> str:
    """List the first items, and say how many more there are: the whole list is in the run's record."""
    shown = [item if len(item) <= _MOST_CHARACTERS else f"{item[:_MOST_CHARACTERS]}..." for item in items[:_MOST_ITEMS]]
    more = len(items) - len(shown)
    return separator.join([*shown, *([f"and {more:,} more"] if more else [])])


def forget_data() -> None:
    """Load anew: another sweep begins in this process."""
    _loaded.clear()


def build_network(config: RunConfig, dataset: ImageDataset, num_train_images: int) -> Network:
    """Seed the process and give the network, in the state in which training begins.

    It is built anew every time, which takes 0.1 s; what TensorFlow has compiled is that of an earlier network of this
    process where the two differ in nothing but weights and adjustable values.

    Raises:
        ConfigError: if a batch cannot be divided among the devices.
        ModelError: if the function gives no network that fits the classes.
    """
    from cnn_sweeps.network import Network, compile_model
    from cnn_sweeps.optimizers import build_optimizer, build_schedule
    from cnn_sweeps.replicas import choose_strategy, synchronize
    from cnn_sweeps.training import device_names, prepare_process

    is_own = config.model["_target_"].startswith("cnn_sweeps.models.")
    prepare_process(config.seed, config.training.precision, xla=config.training.xla, seeds_tensorflow=not is_own)
    num_classes = len(dataset.class_names)
    steps_per_epoch = -(-num_train_images // config.training.batch_size)
    with choose_strategy(config.training).scope():
        model = call_target("model", config.model, input_shape=dataset.image_shape, num_classes=num_classes)
        learning_rate = build_schedule(config.schedule, steps_per_epoch, config.training.epochs)
        compile_model(model, build_optimizer(config.optimizer, learning_rate), num_classes)
    synchronize(model)
    log.info("%s with %s parameters on %s", model.name, f"{model.count_params():,}", device_names())
    fresh = Network(model, learning_rate, config.augmentation, xla=config.training.xla)
    return _warm_or_fresh(fresh, _graph_id(config, model))


def _graph_id(config: RunConfig, model: keras.Model) -> str | None:
    """Give a text that is equal for trainings of the same graph; None if that cannot be told."""
    from cnn_sweeps.network import structure_of

    structure = structure_of(model)
    if structure is None or not config.optimizer["_target_"].startswith("keras.optimizers."):
        return None  # a function of the user's may compute with the learning rate before there is a graph
    num_devices = model.distribute_strategy.num_replicas_in_sync
    training = [config.training.xla, config.training.precision, num_devices]
    settings = [config.optimizer, config.schedule.schedule, asdict(config.augmentation), *training]
    return json.dumps([structure, settings], sort_keys=True)


def _warm_or_fresh(fresh: Network, graph_id: str | None) -> Network:
    if graph_id is None:
        return fresh
    warm = _networks.pop(graph_id, fresh)
    _networks[graph_id] = warm  # as the last one used
    if len(_networks) > _NUM_KEPT_NETWORKS:
        del _networks[next(iter(_networks))]
    if warm is not fresh:
        warm.adopt(fresh)
        log.info("compiled before, for an earlier training of this process")
    return warm
