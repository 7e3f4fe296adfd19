"""What several benchmarks need."""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import optuna


class ArgumentParser(argparse.ArgumentParser):
    """Shows a benchmark's docstring as help, and prints the command above the table."""

    def __init__(self, docstring: str | None, num_repeats: int | None = 3) -> None:
        super().__init__(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)
        if num_repeats is not None:
            self.add_argument("--repeats", type=int, default=num_repeats)

    def parse(self, *, without: str = "") -> argparse.Namespace:
        """Read and print the command line, without the secret value of one argument, given by its name."""
        arguments = self.parse_args()
        secret = vars(arguments).get(without)
        print("command:", shlex.join(["python", *(without.upper() if word == secret else word for word in sys.argv)]))
        return arguments


def load_study(journal: Path, name: str) -> optuna.Study:
    """Load a study from its journal file."""
    import optuna  # the bare script of single_run.py must not import it

    backend = optuna.storages.journal.JournalFileBackend(str(journal))
    return optuna.load_study(study_name=name, storage=optuna.storages.JournalStorage(backend))


def spread(values: Sequence[float], form: str) -> str:
    """Return the median with the lowest and the highest value, all in one format such as ",.1f"."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def write_photos(num_images: int, size: Sequence[int], place: Callable[[int, int], Path]) -> None:
    """Write generated JPEGs of two classes.

    Args:
        num_images: of both classes together.
        size: height and width in pixels.
        place: gives the file of an image from its number and its class, 0 or 1.
    """
    from PIL import Image

    from cnn_sweeps.data import load_synthetic

    data = load_synthetic(num_images, 2, list(size), 3, difficulty=0.6, seed=0)
    for i, (image, label) in enumerate(zip(data.images, data.labels.tolist(), strict=True)):
        file = place(i, label)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file, quality=90)
