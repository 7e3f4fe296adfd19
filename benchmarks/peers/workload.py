"""What every peer's script is told, and the file in which it notes its trials."""

import argparse
import json
import time
from importlib import import_module
from pathlib import Path
from typing import Any

BATCH_SIZE = 32
PATIENCE = 8  # epochs, where trainings stop early; this project's default
STARTUP_TRIALS = 10  # random ones, before the sampler learns; this project's and Optuna's default


def parse_arguments() -> argparse.Namespace:
    """Read what to train on and how much."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, help="an .npz file of arrays, or a folder with train/CLASS, val/CLASS")
    parser.add_argument("--size", type=int, required=True, help="pixels a side")
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True, help="of the trainings and the sampler")
    parser.add_argument("--sampler-seed", type=int, help="of the sampler, if it is to have another")
    parser.add_argument("--notes", required=True, help="gets one JSON line for each finished trial")
    parser.add_argument("--trial", default="careful", help="the module whose `run_trial` trains")
    parser.add_argument("--weights", help="of a backbone, if there is one")
    parser.add_argument("--workers", type=int, default=1, help="trials at once")
    return parser.parse_args()


def run_trial(settings: Any, params: dict[str, float]) -> float:
    """Train with these parameters as the workload has it, and give the objective."""
    objective: float = import_module(settings.trial).run_trial(settings, params)
    return objective


def note_trial(file: str, value: float) -> None:
    """Note that a trial has finished just now."""
    _note(file, {"time": time.time(), "value": float(value)})


def note_features(file: str, seconds: float) -> None:
    """Note how long the features of all images took."""
    _note(file, {"features_s": seconds})


def _note(file: str, content: dict[str, float]) -> None:
    with Path(file).open("a") as notes:
        notes.write(json.dumps(content) + "\n")
