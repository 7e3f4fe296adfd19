"""Predicts the classes of image files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnn_sweeps.data.batches import decoded_batches
from cnn_sweeps.evaluation.metrics import Labels, choose_classes
from cnn_sweeps.models.layers import class_probabilities
from cnn_sweeps.use.kept_model import KeptModel
from cnn_sweeps.use.output import Prediction

Explain = Callable[[NDArray[np.uint8], Labels, list[Prediction]], None]
"""Takes a batch: images, uint8 (B, height, width, channels), 0 to 255; their classes, (B,); and their predictions."""


def predict_files(
    kept: KeptModel, files: Sequence[Path], on_bad_file: Callable[[Path, str], None], explain: Explain | None = None
) -> Iterator[Prediction]:
    """Decode and predict files in order, batch by batch; images are prepared as in training.

    Files that are no usable images are skipped; `on_bad_file` gets them with the reason.
    """
    record = kept.record
    for paths, images in decoded_batches(files, record.image_shape, on_bad_file):
        probabilities = class_probabilities(kept.outputs(images))
        classes = choose_classes(probabilities, record.decision_threshold)
        predictions = [
            Prediction(path, record.class_names[chosen], row[chosen], dict(zip(record.class_names, row, strict=True)))
            for path, row, chosen in zip(paths, probabilities.tolist(), classes.tolist(), strict=True)
        ]
        if explain is not None:
            explain(images, classes, predictions)
        yield from predictions
