"""The arguments and parameters of every peer's script, and the file in which it notes its trials."""

import argparse
import json
import time
from importlib import import_module
from pathlib import Path
from typing import Any

BATCH_SIZE = 32
PATIENCE = 8  # epochs before early stopping; this project's default
STARTUP_TRIALS = 10  # random trials before the sampler learns; the default of this project and of Optuna


def parse_arguments() -> argparse.Namespace:
    """Read the arguments of a script."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, help="an .npz file of arrays, or a folder with train/CLASS, val/CLASS")
    parser.add_argument("--size", type=int, required=True, help="width and height of the images, in pixels")
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True, help="seed of the trainings and the sampler")
    parser.add_argument("--sampler-seed", type=int, help="another seed for the sampler")
    parser.add_argument("--notes", required=True, help="the file that gets one JSON line for each finished trial")
    parser.add_argument("--trial", default="careful", help="the module whose `run_trial` trains")
    parser.add_argument("--weights", help="the file of a backbone's weights")
    parser.add_argument("--workers", type=int, default=1, help="trials at once")
    return parser.parse_args()


def suggest_params(trial: Any) -> dict[str, float]:
    """Let an Optuna trial suggest the parameters."""
    return {
        "dropout": trial.suggest_float("dropout", 0, 0.7),
        "l2": trial.suggest_float("l2", 1e-6, 1e-2, log=True),
        "decay_rate": trial.suggest_float("decay_rate", 0.85, 1),
    }


def run_trial(settings: Any, params: dict[str, float]) -> float:
    """Train with these parameters in the workload's way; return the objective."""
    objective: float = import_module(settings.trial).run_trial(settings, params)
    return objective


def note_trial(file: str, value: float) -> None:
    """Note that a trial has just finished."""
    _note(file, {"time": time.time(), "value": float(value)})


def note_features(file: str, seconds: float) -> None:
    """Note how long the features of all images took."""
    _note(file, {"features_s": seconds})


def _note(file: str, content: dict[str, float]) -> None:
    with Path(file).open("a") as notes:
        notes.write(json.dumps(content) + "\n")
