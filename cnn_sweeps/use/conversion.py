"""Converts a kept model to formats of other programs, and compares their outputs with Keras's."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from cnn_sweeps.errors import ModelError
from cnn_sweeps.system.files import written_whole
from cnn_sweeps.system.libraries import native_messages_off
from cnn_sweeps.tracking.models import RECORD_KEY
from cnn_sweeps.use.kept_model import KeptModel

NUM_RANDOM_IMAGES = 16
_LARGEST_DIFFERENCE = 1e-4  # of probabilities; another order of float32 sums only makes about 1e-7

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Takes float32 pixels (B, height, width, channels), 0 to 255; returns the network's outputs, (B, 1) or (B, C)."""


class _Format(NamedTuple):
    write: Callable[[keras.Model, Path], None]
    describe: Callable[[Path, str], object]  # adds the facts to the result of `write`, or writes them to a file beside
    load: Callable[[Path], Run]


def convert(
    kept: KeptModel, format_name: str, target: Path, beside: Path | None, given_images: Iterable[NDArray[np.uint8]]
) -> tuple[float, int]:
    """Write a model in another format, and compare the result with Keras on random and given images.

    Args:
        kept: the model.
        format_name: one of `export.FORMATS`.
        target: the new file or folder.
        beside: the new file for the model's facts as JSON; None if the format itself can hold them.
        given_images: batches of uint8, (B, height, width, channels), 0 to 255.

    Returns:
        The largest difference of a probability, and the number of given images.

    Raises:
        ModelError: if a probability differs by more than 1e-4; then neither `target` nor `beside` exists.
    """
    write, describe, load = _FORMATS[format_name]
    random = np.random.default_rng(0).integers(0, 256, (NUM_RANDOM_IMAGES, *kept.record.image_shape), np.uint8)
    largest, num_images = 0.0, -NUM_RANDOM_IMAGES
    kept.outputs(random)  # Keras exports a network to ONNX only after a call
    with ExitStack() as stack:
        unfinished = stack.enter_context(written_whole(target))
        write(kept.network, unfinished)
        described = unfinished if beside is None else stack.enter_context(written_whole(beside))
        describe(described, json.dumps(asdict(kept.record)))
        run = load(unfinished)
        for images in chain([random], given_images):
            differences = np.abs(run(images.astype(np.float32)) - kept.outputs(images))
            largest = max(largest, float(differences.max()))
            num_images += len(images)
        if not largest <= _LARGEST_DIFFERENCE:
            raise ModelError(
                f"format={format_name}: its probabilities differ from Keras's by up to {largest:.2g}, allowed: "
                f"{_LARGEST_DIFFERENCE:g}; nothing was written; choose another format, or train with float32"
            )
    return largest, num_images


def _write_saved_model(network: keras.Model, target: Path) -> None:
    """Write a folder for `tf.saved_model.load` and TensorFlow Serving, with the endpoint `serve`."""
    network.export(target, format="tf_saved_model", verbose=False)


def _describe_saved_model(folder: Path, facts: str) -> None:
    (folder / f"{RECORD_KEY}.json").write_text(facts)


def _load_saved_model(path: Path) -> Run:
    loaded = tf.saved_model.load(str(path))
    return lambda pixels: np.asarray(loaded.serve(pixels))


def _write_tflite(network: keras.Model, target: Path) -> None:
    """Write a file for TensorFlow Lite, with float32 weights, for any number of images."""
    with TemporaryDirectory() as folder:
        _write_saved_model(network, Path(folder))
        target.write_bytes(tf.lite.TFLiteConverter.from_saved_model(folder).convert())


def _load_tflite(path: Path) -> Run:
    with warnings.catch_warnings(action="ignore"):  # that it will move to another package
        interpreter = tf.lite.Interpreter(str(path))
    with native_messages_off():  # it prints which kernels it uses
        interpreter.allocate_tensors()
    (given,), (wanted,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        interpreter.resize_tensor_input(given["index"], pixels.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], pixels)
        interpreter.invoke()
        return np.array(interpreter.get_tensor(wanted["index"]))

    return run


def _write_onnx(network: keras.Model, target: Path) -> None:
    """Write a file for ONNX Runtime, for any number of images; needs tf2onnx."""
    with warnings.catch_warnings(action="ignore"):  # Keras uses old names of NumPy
        network.export(target, format="onnx", verbose=False)


def _describe_onnx(file: Path, facts: str) -> None:
    import onnx  # comes with tf2onnx

    model = onnx.load(file)
    onnx.helper.set_model_props(model, {RECORD_KEY: facts})
    onnx.save(model, file)


def _load_onnx(path: Path) -> Run:
    import onnxruntime  # an optional package

    session = onnxruntime.InferenceSession(str(path))
    (given,) = session.get_inputs()
    return lambda pixels: np.asarray(session.run(None, {given.name: pixels})[0])


_FORMATS = {
    "saved_model": _Format(_write_saved_model, _describe_saved_model, _load_saved_model),
    "tflite": _Format(_write_tflite, Path.write_text, _load_tflite),
    "onnx": _Format(_write_onnx, _describe_onnx, _load_onnx),
}
