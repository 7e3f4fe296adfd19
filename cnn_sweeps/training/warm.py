"""A network for each training, and what is compiled for one used again by the next of the same graph."""

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
from keras.src.utils.naming import reset_uids  # clear_session would do it too, and have every graph prepared anew
from tensorflow.python.framework.config import disable_op_determinism  # which TensorFlow offers nowhere else

from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.models.layers import adjustable_values, is_scaling
from cnn_sweeps.models.pretrained import features_of
from cnn_sweeps.settings.schema import RunConfig, ScheduleConfig
from cnn_sweeps.settings.target_arguments import TARGET_ARGUMENTS
from cnn_sweeps.settings.targets import call_target
from cnn_sweeps.training.features import frozen_beginning
from cnn_sweeps.training.network import Network, check_network, compile_model
from cnn_sweeps.training.replicas import choose_strategy, synchronize

log = logging.getLogger(__name__)

_OWN_PACKAGES = ("keras", "cnn_sweeps")
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


def build_network(
    config: RunConfig, dataset: ImageDataset, num_train_images: int, *, is_fine_tuned: bool = False
) -> Network:
    """Seed the process and give the network, in the state in which training begins, or fine-tuning.

    It is built anew every time, which takes 0.1 s; what TensorFlow has compiled is that of an earlier network of this
    process where the two differ in nothing but weights and adjustable values.

    Raises:
        ConfigError: if a batch cannot be divided among the devices, or the optimizer cannot be used.
        ModelError: if the function gives no network that fits the classes, or the images.
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
    beginning = None if features is None else frozen_beginning(whole.input, features)
    fresh = Network(whole, model, list(numbers), config.augmentation, beginning=beginning, xla=config.training.xla)
    if (graph_id := _graph_id(config, model)) is None:
        return fresh
    warm = _networks.pop(graph_id, fresh)
    if warm is not fresh:
        warm.adopt(fresh)
        log.info("compiled before, for an earlier training of this process")
    _networks[graph_id] = warm  # as the last one used
    while len(_networks) > 1 and (
        len(_networks) > _NUM_KEPT_NETWORKS or sum(each.num_bytes for each in _networks.values()) > _MOST_KEPT_BYTES
    ):
        del _networks[next(iter(_networks))]
    return warm


def try_network(config: RunConfig) -> None:
    """Build what a pretrained network is to be, if the settings tell what images it gets, and forget it.

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
    """Say how many there are and, if not all, how many of them are trained."""
    total, trained = model.count_params(), sum(math.prod(each.shape) for each in model.trainable_weights)
    is_in_part = any(not layer.trainable for layer in model.layers)
    return f"{total:,}", f", of which {trained:,} are trained," if is_in_part else ""


def prepare_process(config: RunConfig) -> None:
    """Seed the generators and ask TensorFlow for repeatable kernels and the precision, before the model is built."""
    keras.utils.disable_interactive_logging()  # MLflow's check of a saved model would draw progress bars
    keras.config.set_floatx("float32")  # whatever the user's keras.json says
    keras.config.set_image_data_format("channels_last")
    reset_uids()  # equal networks get equal names, for each of which TensorFlow keeps memory for good
    if config.model["_target_"].startswith("cnn_sweeps.models."):
        random.seed(config.seed)
        np.random.seed(config.seed)
    else:  # a user's layers may need TensorFlow's own, after which it prepares every graph anew (0.4 s)
        keras.utils.set_random_seed(config.seed)
    # From these Keras draws the seeds of its layers; from Python's own, a thread of Dask's draws in between, too.
    seed_generator.python_random = random.Random(config.seed)
    if config.training.xla:  # has no repeatable kernel for the gradient of max pooling
        disable_op_determinism()  # which an earlier training of this process may have asked for
    else:
        tf.config.experimental.enable_op_determinism()
    keras.mixed_precision.set_global_policy(config.training.precision)


def build_schedule(schedule: ScheduleConfig, steps_per_epoch: int, epochs: int) -> Any:
    """Build the learning rate as a function of the step, or the constant, a float.

    A function reads its numbers from variables, so that another trial needs no new graph; an optimizer has a constant
    in a variable. Cosine reaches zero after the last of the run's `epochs`.
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
    return ", ".join(details.get("device_name", "GPU") for details in gpus) or f"{os.cpu_count()} CPU cores"


def _graph_id(config: RunConfig, model: keras.Model) -> str | None:
    """Give a text that is equal for trainings of the same graph; None if that cannot be told."""
    structure = structure_of(model)
    if structure is None or not config.optimizer["_target_"].startswith("keras.optimizers."):
        return None  # a function of the user's may compute with the learning rate before there is a graph
    num_devices = model.distribute_strategy.num_replicas_in_sync
    training = [config.training.xla, config.training.precision, num_devices]
    settings = [config.optimizer, config.schedule.schedule, asdict(config.augmentation), *training]
    return json.dumps([structure, settings], sort_keys=True)


def structure_of(model: keras.Model) -> str | None:
    """Describe a network but for its adjustable values, so that equal texts mean equal graphs; None if nothing can.

    What a layer, function or regularizer of somebody else computes may depend on more than Keras can tell of it.
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
    """Whether a layer uses a foreign function, which its configuration may only name, or learned before training."""
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
    is_lambda = part.keys() == {"value"}  # its code, but not what the code refers to
    if is_lambda or (kind is not None and kind != "__keras_tensor__" and not is_own):
        raise TypeError(f"{kind or 'a function'} is neither Keras's nor this project's own")
    if kind == "AdjustableL2":
        return kind
    if kind == "AdjustableDropout":  # without dropout there is no graph to adjust
        part = part | {"config": part["config"] | {"rate": part["config"]["rate"] > 0}}
    return {key: _without_adjustable_values(value) for key, value in part.items()}
