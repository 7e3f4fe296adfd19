"""Gives image files their classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from cnn_sweeps.data.batches import decoded_batches
from cnn_sweeps.evaluation.metrics import choose_classes
from cnn_sweeps.models import class_probabilities
from cnn_sweeps.use.kept_model import KeptModel


class Prediction(NamedTuple):
    """What a network makes of an image file.

    Attributes:
        path: of the file.
        class_name: that it is given.
        probability: of this class, 0 to 1.
        probabilities: of every class, by its name.
    """

    path: Path
    class_name: str
    probability: float
    probabilities: dict[str, float]


def predict_files(
    kept: KeptModel, files: Sequence[Path], on_bad_file: Callable[[Path, str], None]
) -> Iterator[Prediction]:
    """Decode and predict files in order, a batch at a time, as they were in training.

    Args:
        kept: the model.
        files: of any kind.
        on_bad_file: called with each file that is no usable image, and the reason; it gets no class.
    """
    record = kept.record

    @tf.function(input_signature=[tf.TensorSpec((None, *record.image_shape), tf.uint8)])  # type: ignore[untyped-decorator]
    def forward(images: tf.Tensor) -> tf.Tensor:
        return kept.network(tf.cast(images, tf.float32), training=False)

    for paths, images in decoded_batches(files, record.image_shape, on_bad_file):
        probabilities = class_probabilities(forward(images).numpy())
        classes = choose_classes(probabilities, record.decision_threshold).tolist()
        for path, row, chosen in zip(paths, probabilities.tolist(), classes, strict=True):
            by_name = dict(zip(record.class_names, row, strict=True))
            yield Prediction(path, record.class_names[chosen], row[chosen], by_name)
