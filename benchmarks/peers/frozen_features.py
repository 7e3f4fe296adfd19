"""A trial on features, which a frozen backbone computes once, before the first trial."""

import functools
import time
from pathlib import Path
from typing import Any

import careful
import numpy as np
from frozen import build_backbone, train_head
from workload import BATCH_SIZE, note_features

FILE = Path("features.npz")


def save_features(settings: Any) -> None:
    """Decode the images; compute and save features, float32 (N, 1280), and labels."""
    started = time.perf_counter()
    arrays = careful.decode_folder(Path(settings.data), settings.size)
    backbone = build_backbone(settings)
    features = {name: backbone.predict(arrays[name], BATCH_SIZE, verbose=0) for name in ("train_x", "val_x")}
    labels = {name: arrays[name].astype(np.float32)[:, np.newaxis] for name in ("train_y", "val_y")}
    np.savez(FILE, **features, **labels)
    note_features(settings.notes, time.perf_counter() - started)


@functools.cache
def load_saved() -> dict[str, np.ndarray]:
    return dict(np.load(FILE))


def run_trial(settings: Any, params: dict[str, float]) -> float:
    if not FILE.exists():
        save_features(settings)
    careful.begin_anew(settings.seed)
    data = load_saved()
    train = {"x": data["train_x"], "y": data["train_y"], "batch_size": BATCH_SIZE}
    validation = data["val_x"], data["val_y"]
    return train_head(None, settings, params, len(train["x"]), **train, validation_data=validation)
