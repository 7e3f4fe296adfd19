"""What every peer's script is told, and the file in which it notes its trials."""

import argparse
import json
import time
from pathlib import Path

BATCH_SIZE = 32
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
    parser.add_argument("--workers", type=int, default=1, help="trials at once")
    return parser.parse_args()


def note_trial(file: str, value: float) -> None:
    """Note that a trial has finished just now."""
    with Path(file).open("a") as notes:
        notes.write(json.dumps({"time": time.time(), "value": float(value)}) + "\n")
