"""What tests of predicting, serving and exporting share: image files and folders of models."""

import shutil
from pathlib import Path

import mlflow
import numpy as np
from conftest import TINY, compose
from PIL import Image

from cnn_sweeps.settings.targets import call_target


def tiny_images():
    """The images of the smallest training, uint8 (60, 16, 16, 1)."""
    return call_target("data", compose(*TINY).data).images


def write_photos(folder, num_images=12):
    """Write the first images of the smallest training as PNG, and beside them what is no image of anybody's."""
    for i, image in enumerate(tiny_images()[:num_images]):
        file = Path(folder, f"album {i % 2}", f"{i:02}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[:, :, 0]).save(file)
    Path(folder, "album 0", ".hidden.png").write_bytes(b"")
    Path(folder, "Thumbs.db").write_bytes(b"")
    return sorted(Path(folder).rglob("[0-9]*.png"))


def outputs_for(run, files):
    """What MLflow's own `predict` gives for PNG files as written above, float32 (N, 1)."""
    model = mlflow.pyfunc.load_model(f"models:/{run.outputs.model_outputs[0].model_id}")
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])[..., np.newaxis]
    return model.predict(pixels.astype(np.float32))


def copy_model(run, target):
    """Copy the folder of a run's model, to be changed."""
    kept = mlflow.artifacts.download_artifacts(f"models:/{run.outputs.model_outputs[0].model_id}")
    return Path(shutil.copytree(kept, target))
