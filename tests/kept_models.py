"""What tests of predicting, serving and exporting share: image files, folders of models, and how to type commands."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
from conftest import TINY, compose
from PIL import Image

from cnn_sweeps.errors import UserError
from cnn_sweeps.settings.targets import call_target

SLOW = {"tensorflow", "keras", "mlflow", "optuna", "sklearn", "matplotlib"}
"""What no help and no refusal may wait for."""


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


def refusal(command, *arguments):
    """Give the one line in which a command refuses its arguments."""
    with pytest.raises(UserError) as error:
        command([str(argument) for argument in arguments])
    assert "\n" not in str(error.value)
    return str(error.value)


def started_command(module, folder, *arguments):
    """Run `python -m MODULE ARGUMENTS` in a process of its own, and say on stdout what it imported."""
    script = (
        "import atexit, runpy, sys\n"
        "atexit.register(lambda: print('IMPORTED', *{name.split('.')[0] for name in sys.modules}))\n"
        f"runpy.run_module('{module}', run_name='__main__', alter_sys=True)"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"},
        capture_output=True,
        text=True,
        check=False,
    )
