"""The networks of `keras.applications`, pretrained or not, without their classification layers."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf
from keras import layers
from keras.src.random import seed_generator

from cnn_sweeps.errors import ModelError
from cnn_sweeps.models.layers import Features
from cnn_sweeps.system.locks import file_lock

BY_NAME = ".npz"
"""Suffix of a file that `use.weights` writes: weights by the names of layers, `LAYER/0` and so on."""
_IMAGENET = "imagenet"
_OTHERS = (
    "name a file with its weights without the top layers, or set model.weights=imagenet, or model.weights=null for "
    "random weights"
)


def load_backbone(
    name: str, alpha: float | None, weights: str | None, input_shape: tuple[int, int, int], *, is_frozen: bool
) -> keras.Model:
    """Return a network from pixels, float32 (B, height, width, 1 or 3), 0 to 255, to averaged features, (B, D).

    The network scales its pixels in the way it was trained with, and repeats a grey channel three times. All trainings
    of a process share one frozen backbone. Loading weights leaves the random generators as they were.

    Args:
        name: a class in `keras.applications`.
        alpha: the width multiplier of a MobileNet; None takes the default of Keras.
        weights: a file, or "imagenet", which Keras downloads once; None: random weights.
        input_shape: height, width, channels.
        is_frozen: whether none of its layers is trained.

    Raises:
        ModelError: if the images are too small, the weights cannot be loaded, or they belong to another network.
    """
    if weights is None:
        return _build(name, alpha, None, input_shape)
    weights = weights if weights == _IMAGENET else os.path.expanduser(weights)  # noqa: PTH111  any text
    random = seed_generator.python_random  # Keras draws the seeds of layers from it
    states = random.getstate(), np.random.get_state()
    try:
        if not is_frozen:
            return _build(name, alpha, weights, input_shape)
        place = keras.mixed_precision.dtype_policy().name, id(tf.distribute.get_strategy())
        return _frozen(name, alpha, weights, input_shape, _state_of(weights), place)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@lru_cache(maxsize=4)  # for the next trial, also where a sweep searches several backbones
def _frozen(
    name: str, alpha: float | None, weights: str, input_shape: tuple[int, int, int], _state: Any, _place: Any
) -> keras.Model:
    return _build(name, alpha, weights, input_shape)


def _state_of(weights: str) -> tuple[int, ...]:
    """Return what changes when the file is replaced by another one of the same name."""
    if weights == _IMAGENET or not os.path.exists(weights):  # noqa: PTH110  any text
        return ()
    status = Path(weights).stat()
    return status.st_mtime_ns, status.st_size


def _build(name: str, alpha: float | None, weights: str | None, input_shape: tuple[int, int, int]) -> keras.Model:
    application = getattr(keras.applications, name)
    height, width, channels = input_shape
    image = keras.Input(input_shape, name="image")
    pixels = layers.Concatenate(name="grey_as_colour")([image] * 3) if channels == 1 else image
    settings: dict[str, Any] = {"include_top": False, "weights": _IMAGENET if weights == _IMAGENET else None}
    settings |= {} if alpha is None else {"alpha": alpha}
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings(action="ignore"))  # an error below says what is wrong
        if weights == _IMAGENET:
            stack.enter_context(_downloading())
        try:
            scaled = _scaled_as_trained(application, pixels)
            backbone = application(input_tensor=scaled, input_shape=(height, width, 3), **settings)
        except TypeError as error:
            raise ModelError(f"model.alpha={alpha}: {name} has no width to set; leave model.alpha out") from error
        except ValueError as error:
            reason = " ".join(str(error).split()).partition("; Received")[0]
            raise ModelError(
                f"model.backbone={name}: cannot take images of {height}x{width} pixels ({reason}); change "
                "data.image_size, model.backbone or model.alpha"
            ) from error
        except Exception as error:
            if weights != _IMAGENET:
                raise
            raise ModelError(
                f"model.weights=imagenet: the weights of {name} cannot be downloaded ({' '.join(str(error).split())}); "
                "connect this machine to the internet once, or name a file with the weights: model.weights=FILE"
            ) from error
        if weights is not None and weights != _IMAGENET:
            _load_weights(backbone, name, weights)
    return keras.Model(image, Features(name="features")(backbone.output), name=name.lower())


@contextmanager
def _downloading() -> Iterator[None]:
    """Let one process at a time download to the folder of Keras."""
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    with ExitStack() as stack:
        if os.access(home, os.W_OK):
            stack.enter_context(file_lock(home / "models" / ".cnn_sweeps.lock", wait=True))
        yield


def _scaled_as_trained(application: Any, pixels: Any) -> Any:
    """Scale pixels, 0 to 255, and order their channels in the way the network was trained with.

    This measures what the module's `preprocess_input` does to four colours, and does the same with standard layers.
    Networks that scale their pixels themselves get no such layer.
    """
    preprocess = sys.modules[application.__module__].preprocess_input
    colours = np.vstack([np.zeros(3), np.eye(3)]).astype(np.float32)
    offset, *of_colours = (preprocess(colour.reshape(1, 1, 1, 3)).ravel() for colour in colours)
    factors = np.array(of_colours) - offset
    if np.array_equal(factors, np.eye(3)) and not offset.any():
        return pixels
    if not factors.diagonal()[0]:  # blue, green, red
        pixels, factors = keras.ops.flip(pixels, axis=-1), factors[::-1]
    scale = factors.diagonal()
    return layers.Rescaling(scale.tolist(), offset.tolist(), dtype="float32", name="scaled_as_trained")(pixels)


def _load_weights(backbone: keras.Model, name: str, weights: str) -> None:
    """Load a file: by the names of layers, in the format of Keras, or in its older one, which its downloads have."""
    try:
        if weights.endswith(BY_NAME):
            _load_by_name(backbone, weights)
            return
        with warnings.catch_warnings(action="ignore"):  # Keras warns of each missing array
            backbone.load_weights(weights)
        with h5py.File(weights) as file:
            num_arrays = _count_arrays(file)
    except Exception as error:  # Keras raises many kinds for a file of something else
        reason = " ".join(str(error).split()).partition(". ")[0][:200]
        raise ModelError(f"model.weights={weights}: these are not weights of {name} ({reason}); {_OTHERS}") from error
    if num_arrays != len(backbone.weights):
        raise ModelError(
            f"model.weights={weights}: the file has {num_arrays} arrays, but {name} without its top layers has "
            f"{len(backbone.weights)}; save the weights with include_top=False, or {_OTHERS}"
        )


def _load_by_name(backbone: keras.Model, weights: str) -> None:
    with np.load(weights) as arrays:
        for layer in backbone.layers:
            layer.set_weights([arrays[f"{layer.name}/{i}"] for i in range(len(layer.weights))])


def _count_arrays(group: h5py.Group) -> int:
    counts: list[int] = []
    group.visititems(lambda _, item: counts.append(1) if isinstance(item, h5py.Dataset) else None)
    return len(counts)
