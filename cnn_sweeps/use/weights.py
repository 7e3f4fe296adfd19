"""Writes the weights of a kept model to a file, for another network to begin with."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np

from cnn_sweeps.data.cache import writable_folder
from cnn_sweeps.models.backbone import BY_NAME
from cnn_sweeps.system.files import disk_errors, replace_whole
from cnn_sweeps.tracking.models import KERAS_FILE
from cnn_sweeps.use.kept_model import exact_address, load_kept_model
from cnn_sweeps.use.place import ModelPlace


def weights_of_kept(place: ModelPlace, cache_dir: str) -> tuple[str, Path]:
    """Write the weights of a kept model to a file in the cache, by names of layers, unless the file exists.

    Returns:
        The exact address of the model, and the file.

    Raises:
        ModelError: if there is no such model, or it cannot be used.
        TrackingError: if the store cannot be used.
        DiskError: if the file cannot be written.
    """
    address = exact_address(place)
    state = (place.folder / KERAS_FILE).stat().st_mtime_ns if place.folder is not None else None
    key = hashlib.blake2b(json.dumps([place.store, address, state]).encode(), digest_size=16).hexdigest()
    file = writable_folder(Path(cache_dir), "training.cache_dir")[0] / "weights" / f"{key}{BY_NAME}"
    if not file.exists():
        network = load_kept_model(place._replace(name=address)).network
        arrays = {f"{layer.name}/{i}": each for layer in network.layers for i, each in enumerate(layer.get_weights())}
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **arrays)
        with disk_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.parent.chmod(0o700)
            replace_whole(file, content.getbuffer())
    return address, file
