"""The features that a frozen backbone computes from images, once for all trainings."""

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


class FrozenBackbone:
    """A network that is not trained, from pixels to features."""

    def __init__(self, model: keras.Model) -> None:
        """Take a network from pixels, (B, height, width, channels), to features, (B, D)."""
        self.model = model
        signature = [tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)]
        self._forward = tf.function(
            lambda pixels: tf.cast(model(pixels, training=False), tf.float32), input_signature=signature
        )

    @cached_property
    def digest(self) -> str:
        """A digest of its layers and weights, 32 hexadecimal digits."""
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
        """Return the features, float32 (B, D), of pixels, float32 (B, height, width, channels), 0 to 255."""
        features: Rows = self._forward(pixels).numpy()
        return features


@lru_cache(maxsize=4)  # as many backbones as `models.backbone` keeps
def frozen_backbone(pixels: keras.KerasTensor, features: keras.KerasTensor) -> FrozenBackbone:
    """Return the part of a network from `pixels` to `features`; the same object whenever both are the same."""
    return FrozenBackbone(keras.Model(pixels, features))


def load_features(backbone: FrozenBackbone, dataset: ImageDataset, positions: Indices, cache_dir: str) -> tf.Tensor:
    """Return the features, float32 (N, D), of the images at `positions`, (n,), unchanged; other rows are 0.

    Raises:
        DiskError: if the disk is full, or the cache folder cannot be written.
    """
    return _load(backbone, dataset, positions.tobytes(), cache_dir, "")


def load_views(
    backbone: FrozenBackbone,
    dataset: ImageDataset,
    positions: Indices,
    cache_dir: str,
    augmentation: AugmentationConfig,
) -> tf.Tensor | None:
    """Return the features of changed copies, float32 (N, number of views, D); None if the settings ask for no views.

    Positions and errors are as in `load_features`.
    """
    if not (augmentation.enabled and augmentation.views):
        return None
    return _load(backbone, dataset, positions.tobytes(), cache_dir, json.dumps(asdict(augmentation)))


@lru_cache(maxsize=8)  # for the next trial: features and views of each backbone, which stay in their files
def _load(
    backbone: FrozenBackbone, dataset: ImageDataset, positions_as_bytes: bytes, cache_dir: str, changes: str
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
            return backbone.compute(pixels)
        seeds = [tf.constant([_SEED_OF_VIEWS + view, call[0]], tf.int32) for view in range(augmentation.views)]
        return np.stack([backbone.compute(augment(pixels, augmentation, seed)) for seed in seeds], axis=1)

    about = [backbone.digest, keras.__version__, keras.mixed_precision.dtype_policy().name]
    about += [dataset.digests[positions].tolist(), changes, _SEED_OF_VIEWS]
    shape = (len(dataset.labels), *views, int(backbone.model.output_shape[-1]))
    started = time.perf_counter()
    folder, note = writable_folder(Path(cache_dir), "training.cache_dir")
    if note:
        log.warning("%s", note)
    rows = load_rows(folder, about, positions, shape, compute)
    what = f"{augmentation.views} views" if augmentation else "features"
    log.info("%s of %s images ready after %.1f s", what, f"{len(positions):,}", time.perf_counter() - started)
    return mapped_tensor(rows)
