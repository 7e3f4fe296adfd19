"""A network for each training, and what is compiled for one used again by the next of the same graph."""

import json
import logging
from collections.abc import Collection
from dataclasses import asdict

import keras

from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.models import is_scaling
from cnn_sweeps.settings.schema import RunConfig
from cnn_sweeps.settings.targets import call_target
from cnn_sweeps.training.loop import device_names, prepare_process
from cnn_sweeps.training.network import Network, compile_model, structure_of
from cnn_sweeps.training.optimizers import build_optimizer, build_schedule
from cnn_sweeps.training.replicas import choose_strategy, synchronize

log = logging.getLogger(__name__)

_NUM_KEPT_NETWORKS = 8  # what is compiled for one takes some 30 MB of the process's memory
_MOST_KEPT_BYTES = 2**28
"""Of all kept networks together, on the accelerator, which other workers may share and where the next one trains too.

Eight of the default network with Adam take 12 MB; of one with 10 million parameters, 120 MB, two are kept.
"""
_UNSCALED = (
    "the network has no layer that scales its pixels, which go from 0 to 255; begin it with "
    "cnn_sweeps.models.scaled(inputs), or whatever it was made for"
)
_networks: dict[str, Network] = {}
"""The networks that this process trained last, by what tells their graphs apart."""


def build_network(config: RunConfig, dataset: ImageDataset, num_train_images: int) -> Network:
    """Seed the process and give the network, in the state in which training begins.

    It is built anew every time, which takes 0.1 s; what TensorFlow has compiled is that of an earlier network of this
    process where the two differ in nothing but weights and adjustable values.

    Raises:
        ConfigError: if a batch cannot be divided among the devices.
        ModelError: if the function gives no network that fits the classes.
    """
    is_own = config.model["_target_"].startswith("cnn_sweeps.models.")
    prepare_process(config.seed, config.training.precision, xla=config.training.xla, seeds_tensorflow=not is_own)
    num_classes = len(dataset.class_names)
    steps_per_epoch = -(-num_train_images // config.training.batch_size)
    with choose_strategy(config.training).scope():
        model = call_target("model", config.model, input_shape=dataset.image_shape, num_classes=num_classes)
        learning_rate = build_schedule(config.schedule, steps_per_epoch, config.training.epochs)
        compile_model(model, build_optimizer(config.optimizer, learning_rate), num_classes)
    synchronize(model)
    if not any(map(is_scaling, model._flatten_layers())):
        log.warning("warning: model: %s", _UNSCALED)
    log.info("%s with %s parameters on %s", model.name, f"{model.count_params():,}", device_names())
    fresh = Network(model, learning_rate, config.augmentation, xla=config.training.xla)
    return _warm_or_fresh(fresh, _graph_id(config, model))


def _graph_id(config: RunConfig, model: keras.Model) -> str | None:
    """Give a text that is equal for trainings of the same graph; None if that cannot be told."""
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
    while len(_networks) > 1 and _are_too_many(_networks.values()):
        del _networks[next(iter(_networks))]
    if warm is not fresh:
        warm.adopt(fresh)
        log.info("compiled before, for an earlier training of this process")
    return warm


def _are_too_many(networks: Collection[Network]) -> bool:
    return len(networks) > _NUM_KEPT_NETWORKS or sum(each.num_bytes for each in networks) > _MOST_KEPT_BYTES
