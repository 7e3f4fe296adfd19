"""Training on two devices: as on one, repeatable, warm, resumable. Both are one CPU, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from test_training import Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the process with two devices leaves."""
    folder = tmp_path_factory.mktemp("two_devices")
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here.parent), os.environ.get("PYTHONPATH", "")])}
    subprocess.run([sys.executable, here / "two_devices.py", folder], check=True, env=environment)
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize(
    ("num_images", "of_train", "of_val"),
    [(61, 1e-4, 1e-4), (65, 0.03, 5e-3)],
    ids=["uneven last batch", "last batch of one image, which both devices measure"],
)
def test_two_devices_train_as_one_does_but_for_rounding(found, num_images, of_train, of_val):
    """In the first epoch; from then on rounding grows."""
    assert found["num_devices"] == 2
    single, mirrored = found[f"of {num_images} images"]
    assert len(mirrored) == len(single) >= 3
    tolerances = {"val_log_loss": of_val, "train_log_loss": of_train, "train_accuracy": of_train, "train_loss": 0.01}
    for name, tolerance in tolerances.items():
        assert mirrored[0][name] == pytest.approx(single[0][name], rel=tolerance), name
    assert mirrored[0]["learning_rate"] == single[0]["learning_rate"]


def test_training_with_dropout_on_two_devices_repeats_bit_for_bit(found):
    assert found["warm"] == found["cold"]


def test_networks_of_a_process_share_one_strategy(found):
    """Else a new one could not give its values to one that was compiled earlier."""
    assert found["is one strategy"]


def test_warm_trial_on_two_devices_is_that_of_a_cold_one(found):
    assert found["networks compiled for warm trials"] == 0
    assert found["another, warm"] == found["another, cold"]
    assert found["another, warm"] != found["warm"]


def test_interrupted_training_on_two_devices_goes_on_to_the_same_weights(found):
    assert found["resumed"] == found["cold"]


def test_batch_that_cannot_be_divided_is_refused(found):
    assert found["refusal"] == (
        "training.batch_size=15: training.strategy=mirrored cannot divide it among 2 devices; "
        "set a multiple of 2, or training.strategy=single"
    )


def test_kept_model_is_keras_own_and_loads_on_one_device(folder):
    model, kept = keras.saving.load_model(folder / "kept.keras"), np.load(folder / "kept_outputs.npz")
    assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}
    second = model.predict(kept["images"].astype(np.float32), verbose=0)[:, 0]
    assert second == pytest.approx(kept["outputs"][:, 1], abs=1e-6)


def test_one_device_is_the_single_strategy_and_the_log_says_so(caplog):
    caplog.set_level("INFO")
    weights = [Run(f"training.strategy={name}").train().model.get_weights() for name in ("single", "mirrored")]
    assert all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))
    assert "training.strategy=mirrored: this machine has one device; training as with" in caplog.text
