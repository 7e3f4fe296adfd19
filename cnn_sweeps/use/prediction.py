"""Gives image files their classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cnn_sweeps.data.batches import decoded_batches
from cnn_sweeps.evaluation.metrics import choose_classes
from cnn_sweeps.models.layers import class_probabilities
from cnn_sweeps.use.kept_model import KeptModel
from cnn_sweeps.use.output import Prediction


def predict_files(
    kept: KeptModel, files: Sequence[Path], on_bad_file: Callable[[Path, str], None]
) -> Iterator[Prediction]:
    """Decode and predict files in order, a batch at a time, as they were in training.

    `on_bad_file` is called with each file that is no usable image, and the reason; it gets no class.
    """
    record = kept.record
    for paths, images in decoded_batches(files, record.image_shape, on_bad_file):
        probabilities = class_probabilities(kept.outputs(images))
        classes = choose_classes(probabilities, record.decision_threshold).tolist()
        for path, row, chosen in zip(paths, probabilities.tolist(), classes, strict=True):
            by_name = dict(zip(record.class_names, row, strict=True))
            yield Prediction(path, record.class_names[chosen], row[chosen], by_name)
