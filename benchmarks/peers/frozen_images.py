"""A trial on a frozen backbone that runs in every epoch, as in Keras's guide to transfer learning."""

import functools
from pathlib import Path
from typing import Any

import careful
import tensorflow as tf
from frozen import build_backbone, train_head
from workload import BATCH_SIZE


@functools.cache
def load_pixels(data: str, size: int) -> dict[str, Any]:
    """Return `train_x`, `train_y`, `val_x`, `val_y`, pixels uint8; each process decodes them once."""
    return careful.decode_folder(Path(data), size)


def run_trial(settings: Any, params: dict[str, float]) -> float:
    careful.begin_anew(settings.seed)
    arrays = load_pixels(settings.data, settings.size)
    train, val = (
        tf.data.Dataset.from_tensor_slices((arrays[f"{split}_x"], arrays[f"{split}_y"][:, None]))
        for split in ("train", "val")
    )
    num = len(train)
    batches = train.shuffle(num, seed=settings.seed).batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)
    validation = val.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)
    return train_head(build_backbone(settings), settings, params, num, x=batches, validation_data=validation)
