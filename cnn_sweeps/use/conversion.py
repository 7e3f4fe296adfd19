"""Writes a kept model in formats that other programs run, and compares what they give with what Keras gives."""

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
_LARGEST_DIFFERENCE = 1e-4  # of probabilities; float32 kernels that sum in another order differ by some 1e-7

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Gives the outputs of a network, (B, 1) or (B, C), for float32 pixels (B, height, width, channels), 0 to 255."""


class _Format(NamedTuple):
    write: Callable[[keras.Model, Path], None]
    describe: Callable[[Path, str], object]  # writes the facts into what `write` has made, or into a file beside it
    load: Callable[[Path], Run]


def convert(
    kept: KeptModel, format_name: str, target: Path, beside: Path | None, given_images: Iterable[NDArray[np.uint8]]
) -> tuple[float, int]:
    """Write the model in a format of `export.FORMATS`; compare what comes of it with Keras, on random and given images.

    These are batches of uint8, (B, height, width, channels), 0 to 255. What using the model takes, its record as JSON,
    goes with it: into `beside`, if the format has no place for it (None: it has). Give the largest difference of a
    probability and the number of given images.

    Raises:
        ModelError: if a probability differs by more than 1e-4; then there is neither `target` nor `beside`.
    """
    write, describe, load = _FORMATS[format_name]
    random = np.random.default_rng(0).integers(0, 256, (NUM_RANDOM_IMAGES, *kept.record.image_shape), np.uint8)
    largest, num_images = 0.0, -NUM_RANDOM_IMAGES
    kept.outputs(random)  # Keras exports to ONNX only what it has called
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
                f"{_LARGEST_DIFFERENCE:g}; it is not kept; choose another format, or train with float32"
            )
    return largest, num_images


def _write_saved_model(network: keras.Model, target: Path) -> None:
    """Write the folder that `tf.saved_model.load` and TensorFlow Serving take; its endpoint is `serve`."""
    network.export(target, format="tf_saved_model", verbose=False)


def _describe_saved_model(folder: Path, facts: str) -> None:
    (folder / f"{RECORD_KEY}.json").write_text(facts)


def _load_saved_model(path: Path) -> Run:
    loaded = tf.saved_model.load(str(path))
    return lambda pixels: np.asarray(loaded.serve(pixels))


def _write_tflite(network: keras.Model, target: Path) -> None:
    """Write the file that TensorFlow Lite's interpreter takes, with float32 weights, for any number of images."""
    with TemporaryDirectory() as folder:
        _write_saved_model(network, Path(folder))
        target.write_bytes(tf.lite.TFLiteConverter.from_saved_model(folder).convert())


def _load_tflite(path: Path) -> Run:
    with warnings.catch_warnings(action="ignore"):  # it will move to a package of its own, some day
        interpreter = tf.lite.Interpreter(str(path))
    with native_messages_off():  # it tells by what it computes, when it first does
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
    """Write the file that ONNX Runtime takes, for any number of images; needs tf2onnx."""
    with warnings.catch_warnings(action="ignore"):  # Keras looks for old names in NumPy
        network.export(target, format="onnx", verbose=False)


def _describe_onnx(file: Path, facts: str) -> None:
    import onnx  # tf2onnx's

    model = onnx.load(file)
    onnx.helper.set_model_props(model, {RECORD_KEY: facts})
    onnx.save(model, file)


def _load_onnx(path: Path) -> Run:
    import onnxruntime  # an extra

    session = onnxruntime.InferenceSession(str(path))
    (given,) = session.get_inputs()
    return lambda pixels: np.asarray(session.run(None, {given.name: pixels})[0])


_FORMATS = {
    "saved_model": _Format(_write_saved_model, _describe_saved_model, _load_saved_model),
    "tflite": _Format(_write_tflite, Path.write_text, _load_tflite),
    "onnx": _Format(_write_onnx, _describe_onnx, _load_onnx),
}
