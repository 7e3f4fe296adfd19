"""Builds a network for each training; trainings with the same graph share what TensorFlow has compiled."""

import json
import logging
import math
import os
import random
from dataclasses import asdict, replace
from types import FunctionType
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.optimizers import schedules
from keras.src.random import seed_generator
from keras.src.utils.naming import reset_uids  # clear_session does it, too, but then every graph is prepared anew
from tensorflow.python.framework.config import disable_op_determinism  # TensorFlow has no public one

from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.models.layers import adjustable_values, is_scaling
from cnn_sweeps.models.pretrained import features_of
from cnn_sweeps.settings.schema import RunConfig, ScheduleConfig
from cnn_sweeps.settings.target_arguments import TARGET_ARGUMENTS
from cnn_sweeps.settings.targets import call_target
from cnn_sweeps.text.numbers import counted
from cnn_sweeps.training.features import frozen_backbone
from cnn_sweeps.training.network import Network, check_network, compile_model
from cnn_sweeps.training.replicas import choose_strategy, synchronize

log = logging.getLogger(__name__)

_OWN_PACKAGES = ("keras", "cnn_sweeps")
_NUM_KEPT_NETWORKS = 8  # one takes some 30 MB of the process's memory, with what is compiled for it
_MOST_KEPT_BYTES = 2**28
"""Limit for all kept networks together, in the memory of the accelerator, which other workers may share.

Eight default networks with Adam take 12 MB. Of a network with 10 million parameters, 120 MB, two are kept.
"""
_UNSCALED = (
    "the network has no layer that scales its pixels, which go from 0 to 255; begin it with "
    "cnn_sweeps.models.scaled(inputs), or with the scaling that it was made for"
)
_networks: dict[str, Network] = {}
"""The networks that this process trained last, by `_graph_id`."""


def build_network(
    config: RunConfig, dataset: ImageDataset, num_train_images: int, *, is_fine_tuned: bool = False
) -> Network:
    """Seed the process and build the network in its first state, for training or for fine-tuning.

    The network is built anew every time, which takes 0.1 s. It takes over what TensorFlow has compiled for an earlier
    network of this process, if the two differ only in weights and adjustable values.

    Raises:
        ConfigError: if a batch cannot be divided among the devices, or the optimizer cannot be used.
        ModelError: if the function returns no network that fits the classes or the images.
    """
    prepare_process(config)
    num_classes = len(dataset.class_names)
    steps_per_epoch = -(-num_train_images // config.training.batch_size)
    with choose_strategy(config.training).scope():
        of_stage = {} if is_fine_tuned or not config.fine_tune else {"fine_tune": 0}
        given = {"input_shape": dataset.image_shape, "num_classes": num_classes}
        whole = call_target("model", config.model | of_stage, **given)
        check_network(whole, num_classes)
        schedule, epochs = config.schedule, config.training.epochs
        if is_fine_tuned:
            factor, epochs = schedule.fine_tune_factor, config.training.fine_tune_epochs
            schedule = replace(schedule, learning_rate=schedule.learning_rate * factor)
        features = features_of(whole)
        model = whole if features is None else keras.Model(features, whole.output, name="head")
        learning_rate = build_schedule(schedule, steps_per_epoch, epochs)
        compile_model(model, call_target("optimizer", config.optimizer, learning_rate=learning_rate), num_classes)
    synchronize(model)
    if not any(map(is_scaling, whole._flatten_layers())):
        log.warning("warning: model: %s", _UNSCALED)
    log.info("%s with %s parameters%s on %s", whole.name, *_numbers_of_parameters(whole), _device_names())
    numbers = [] if isinstance(learning_rate, float) else filter(tf.is_tensor, vars(learning_rate).values())
    backbone = None if features is None else frozen_backbone(whole.input, features)
    fresh = Network(whole, model, list(numbers), config.augmentation, backbone=backbone, xla=config.training.xla)
    if (graph_id := _graph_id(config, model)) is None:
        return fresh
    warm = _networks.pop(graph_id, fresh)
    if warm is not fresh:
        warm.adopt(fresh)
        log.info("already compiled for an earlier training of this process")
    _networks[graph_id] = warm  # at the end: used last
    while len(_networks) > 1 and (
        len(_networks) > _NUM_KEPT_NETWORKS or sum(each.num_bytes for each in _networks.values()) > _MOST_KEPT_BYTES
    ):
        del _networks[next(iter(_networks))]
    return warm


def try_network(config: RunConfig) -> None:
    """Build the network to find errors early, if the settings say which shape the images have.

    Raises:
        ModelError: if it cannot be built.
    """
    size, channels = config.data.get("image_size"), config.data.get("channels")
    if channels in (1, 3) and config.data["_target_"] in TARGET_ARGUMENTS:
        height, width = size if isinstance(size, list) else (size, size)
        prepare_process(config)
        with choose_strategy(config.training).scope():
            call_target("model", config.model, input_shape=(height, width, channels), num_classes=2)


def _numbers_of_parameters(model: keras.Model) -> tuple[str, str]:
    """Return the number of parameters and, if some layers are frozen, a remark on how many are trained."""
    total, trained = model.count_params(), sum(math.prod(each.shape) for each in model.trainable_weights)
    has_frozen = any(not layer.trainable for layer in model.layers)
    return f"{total:,}", f" ({trained:,} of them trained)" if has_frozen else ""


def prepare_process(config: RunConfig) -> None:
    """Before the model is built, seed the generators and set the precision and repeatable kernels in TensorFlow."""
    keras.utils.disable_interactive_logging()  # else MLflow's check of a saved model draws progress bars
    keras.config.set_floatx("float32")  # the user's keras.json may say otherwise
    keras.config.set_image_data_format("channels_last")
    reset_uids()  # equal networks get equal names; TensorFlow never frees the memory of a name
    if config.model["_target_"].startswith("cnn_sweeps.models."):
        random.seed(config.seed)
        np.random.seed(config.seed)
    else:  # a user's layers may draw from TensorFlow; once that is seeded, it prepares every graph anew (0.4 s)
        keras.utils.set_random_seed(config.seed)
    # Keras draws the seeds of its layers from this generator; a thread of Dask draws from Python's own in between.
    seed_generator.python_random = random.Random(config.seed)
    if config.training.xla:  # XLA has no repeatable kernel for the gradient of max pooling
        disable_op_determinism()  # an earlier training of this process may have enabled it
    else:
        tf.config.experimental.enable_op_determinism()
    keras.mixed_precision.set_global_policy(config.training.precision)


def build_schedule(schedule: ScheduleConfig, steps_per_epoch: int, epochs: int) -> Any:
    """Build the learning rate: a function of the step, or a float if it is constant.

    A function reads its numbers from variables, so that another trial needs no new graph; Keras's optimizers hold a
    constant in a variable themselves. A cosine schedule reaches zero after the last of the run's `epochs`.
    """
    if schedule.schedule == "exponential":
        numbers = schedule.learning_rate, schedule.decay_steps or steps_per_epoch, schedule.decay_rate
        return schedules.ExponentialDecay(*map(_variable, numbers))
    if schedule.schedule == "cosine":
        return schedules.CosineDecay(*map(_variable, (schedule.learning_rate, steps_per_epoch * epochs)))
    return schedule.learning_rate


def _variable(value: float) -> tf.Variable:
    return tf.Variable(value, trainable=False, dtype=tf.float32)


def _device_names() -> str:
    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    return ", ".join(details.get("device_name", "GPU") for details in gpus) or counted(os.cpu_count() or 1, "CPU core")


def _graph_id(config: RunConfig, model: keras.Model) -> str | None:
    """Return a text that is equal for trainings with the same graph; None if that cannot be known."""
    structure = structure_of(model)
    if structure is None or not config.optimizer["_target_"].startswith("keras.optimizers."):
        return None  # a user's function may compute with the learning rate outside the graph
    num_devices = model.distribute_strategy.num_replicas_in_sync
    training = [config.training.xla, config.training.precision, num_devices]
    settings = [config.optimizer, config.schedule.schedule, asdict(config.augmentation), *training]
    return json.dumps([structure, settings], sort_keys=True)


def structure_of(model: keras.Model) -> str | None:
    """Describe a network without its adjustable values, so that equal texts mean equal graphs.

    Returns None if the network has a layer, function or regularizer from outside Keras and this package: what it
    computes may depend on more than its configuration.
    """
    if any(map(_has_hidden_state, model._flatten_layers())):
        return None
    values = adjustable_values(model)
    sharing = [next(i for i, other in enumerate(values) if other is value) for value in values]
    described = {"module": type(model).__module__, "class_name": type(model).__name__, "sharing": sharing}
    try:
        return json.dumps(_without_adjustable_values(described | {"config": model.get_config()}), sort_keys=True)
    except (NotImplementedError, OSError, TypeError, ValueError):
        return None


def _has_hidden_state(layer: keras.layers.Layer) -> bool:
    """Return whether a layer uses a foreign function, which its configuration only names, or can adapt to data."""
    functions = [value for value in vars(layer).values() if isinstance(value, FunctionType)]
    is_foreign = any(function.__module__.split(".")[0] not in _OWN_PACKAGES for function in functions)
    return is_foreign or hasattr(layer, "adapt")


def _without_adjustable_values(part: Any) -> Any:
    if isinstance(part, (list, tuple)):
        return [_without_adjustable_values(each) for each in part]
    if not isinstance(part, dict):
        return part
    kind = part.get("class_name")
    is_own = str(part.get("module")).split(".")[0] in _OWN_PACKAGES
    is_lambda = part.keys() == {"value"}  # Keras stores its code, but not what the code refers to
    if is_lambda or (kind is not None and kind != "__keras_tensor__" and not is_own):
        raise TypeError(f"{kind or 'a function'} is neither Keras's nor this project's own")
    if kind == "AdjustableL2":
        return kind
    if kind == "AdjustableDropout":  # without dropout there is no graph to adjust
        part = part | {"config": part["config"] | {"rate": part["config"]["rate"] > 0}}
    return {key: _without_adjustable_values(value) for key, value in part.items()}
