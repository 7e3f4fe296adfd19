"""What the frozen beginning of a network makes of images: computed once for all trainings."""

import hashlib
import json
import logging
import time
from dataclasses import asdict
from functools import cached_property, lru_cache
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from cnn_sweeps.data.cache import writable_folder
from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.data.rows import Rows, load_rows
from cnn_sweeps.data.split import Indices
from cnn_sweeps.settings.schema import AugmentationConfig
from cnn_sweeps.training.batches import augment, mapped_tensor

log = logging.getLogger(__name__)

_IMAGES_A_CALL = 32
_SEED_OF_VIEWS = 0  # not the run's: runs of all seeds train on the same views


class FrozenBeginning:
    """A network from images, uint8 (B, height, width, channels), to features, float32 (B, D), that is not trained."""

    def __init__(self, model: keras.Model) -> None:
        """Of the network from pixels to features."""
        self.model = model
        signature = [tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)]
        self._forward = tf.function(
            lambda pixels: tf.cast(model(pixels, training=False), tf.float32), input_signature=signature
        )

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits for its layers and weights."""
        described = [
            [type(layer).__name__, {name: value for name, value in layer.get_config().items() if name != "name"}]
            for layer in self.model.layers
        ]
        text = json.dumps([self.model.input_shape, described], default=str)
        digest = hashlib.blake2b(text.encode(), digest_size=16)
        for weights in self.model.get_weights():
            digest.update(np.ascontiguousarray(weights).data)
        return digest.hexdigest()

    def compute(self, pixels: tf.Tensor) -> Rows:
        """Give the features of pixels, float32 (B, height, width, channels), 0 to 255."""
        features: Rows = self._forward(pixels).numpy()
        return features


@lru_cache(maxsize=4)  # as many as there are backbones in `models.backbone`
def frozen_beginning(pixels: keras.KerasTensor, features: keras.KerasTensor) -> FrozenBeginning:
    """Give the beginning of a network that leads from one to the other; for a frozen backbone always the same."""
    return FrozenBeginning(keras.Model(pixels, features))


def load_features(beginning: FrozenBeginning, dataset: ImageDataset, positions: Indices, cache_dir: str) -> tf.Tensor:
    """Give the features, float32 (N, D), of the images at some positions, (n,), as they are; those of others are 0.

    Raises:
        DiskError: if the disk is full, or the folder of caches cannot be written.
    """
    return _load(beginning, dataset, positions.tobytes(), cache_dir, "")


def load_views(
    beginning: FrozenBeginning,
    dataset: ImageDataset,
    positions: Indices,
    cache_dir: str,
    augmentation: AugmentationConfig,
) -> tf.Tensor | None:
    """Do what `load_features` does, of changed copies: float32 (N, number of views, D); None if none are wanted."""
    if not (augmentation.enabled and augmentation.views):
        return None
    return _load(beginning, dataset, positions.tobytes(), cache_dir, json.dumps(asdict(augmentation)))


@lru_cache(maxsize=8)  # for the next trial: features and views of each beginning, which stay in their files
def _load(
    beginning: FrozenBeginning, dataset: ImageDataset, positions_as_bytes: bytes, cache_dir: str, changes: str
) -> tf.Tensor:
    positions = np.frombuffer(positions_as_bytes, np.int64)
    augmentation = AugmentationConfig(**json.loads(changes)) if changes else None
    views = (augmentation.views,) if augmentation else ()

    def compute(part: Indices) -> Rows:
        calls = [part[start : start + _IMAGES_A_CALL] for start in range(0, len(part), _IMAGES_A_CALL)]
        return np.concatenate([of_images(call) for call in calls])

    def of_images(call: Indices) -> Rows:
        pixels = tf.cast(dataset.images[call], tf.float32)
        if augmentation is None:
            return beginning.compute(pixels)
        seeds = [tf.constant([_SEED_OF_VIEWS + view, call[0]], tf.int32) for view in range(augmentation.views)]
        return np.stack([beginning.compute(augment(pixels, augmentation, seed)) for seed in seeds], axis=1)

    about = [beginning.digest, keras.__version__, keras.mixed_precision.dtype_policy().name]
    about += [dataset.digests[positions].tolist(), changes, _SEED_OF_VIEWS]
    shape = (len(dataset.labels), *views, int(beginning.model.output_shape[-1]))
    started = time.perf_counter()
    folder, note = writable_folder(Path(cache_dir), "training.cache_dir")
    if note:
        log.warning("%s", note)
    rows = load_rows(folder, about, positions, shape, compute)
    what = f"{augmentation.views} views" if augmentation else "features"
    log.info("%s of %s images at hand after %.1f s", what, f"{len(positions):,}", time.perf_counter() - started)
    return mapped_tensor(rows)
