"""What several benchmarks need."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help is a benchmark's docstring as it is written."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


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
