"""Keeps a network's results for each image with each training, so that trainings can be compared image by image."""

from __future__ import annotations

import base64
import csv
import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_sweeps.evaluation.metrics import Estimate, Floats, Labels, resamples

MOST_IN_STUDY = 2000
"""The largest number of images whose values a study keeps; they take 5 kB a trial. More would change no verdict."""
FILES = {"final_val": "val_images.csv", "test": "test_images.csv"}
"""The names of a training's files, by the prefix of its metrics."""

_COLUMNS = ["image", "log_loss", "is_right"]
_PACKED = np.dtype("<f2")  # three digits of losses above 6e-5, fewer of smaller ones, and 0 below 6e-8


@dataclass(frozen=True, eq=False)
class PerImage:
    """The results of one training, or the mean of several, for each of n images.

    Attributes:
        images: (n,), sorted ids; the same image has the same id in every run. They are hashes, so the order is random.
        log_losses: (n,), in nats.
        is_right: (n,), share of trainings that predict the true class, each at its decision threshold.
    """

    images: NDArray[np.str_]
    log_losses: Floats
    is_right: Floats

    def as_csv(self) -> str:
        """Return a table with one row for each image."""
        table = StringIO()
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(_COLUMNS)
        columns = (self.images.tolist(), self.log_losses.tolist(), self.is_right.tolist())
        rows.writerows([image, f"{loss:.4g}", f"{right:g}"] for image, loss, right in zip(*columns, strict=True))
        return table.getvalue()

    def for_study(self, metrics: Collection[str]) -> dict[str, Any]:
        """Return the values of some metrics for the first MOST_IN_STUDY images, as JSON; `in_study` reads them."""
        names = "".join(self.images[:MOST_IN_STUDY])
        known = {"val_log_loss": self.log_losses, "val_accuracy": self.is_right}
        return {
            "images": hashlib.blake2b(names.encode(), digest_size=8).hexdigest(),
            "num_images": len(self.images),
            **{name: _packed(values[:MOST_IN_STUDY]) for name, values in known.items() if name in metrics},
        }


def per_image(ids: NDArray[np.str_], labels: Labels, log_losses: Floats, is_right: NDArray[np.bool_]) -> PerImage:
    """Collect the results for images with these ids and classes, (n,) each; duplicates are told apart by a number."""
    seen, names = Counter[str](), list[str]()
    for image, label in zip(ids.tolist(), labels.tolist(), strict=True):
        seen[known := f"{image} {label}"] += 1
        names.append(hashlib.blake2b(f"{known} {seen[known]}".encode(), digest_size=8).hexdigest())
    order = np.argsort(names)
    return PerImage(np.array(names)[order], log_losses[order], is_right[order].astype(np.float64))


def parse_csv(text: str) -> PerImage:
    """Read a table of `as_csv`.

    Raises:
        ValueError: if it is no such table.
    """
    header, *rows = csv.reader(StringIO(text))
    if header != _COLUMNS or not rows:
        raise ValueError(f"has the columns {', '.join(header)[:80]}, or no rows; expected: {', '.join(_COLUMNS)}")
    images, losses, right = zip(*rows, strict=True)
    return PerImage(np.array(images), np.array(losses, np.float64), np.array(right, np.float64))


def average(trainings: Sequence[PerImage]) -> PerImage:
    """Average the results of each image over the trainings (seeds or folds) that measured it."""
    images, which = np.unique(np.concatenate([each.images for each in trainings]), return_inverse=True)
    counts = np.bincount(which)
    sums = [
        np.bincount(which, np.concatenate(columns))
        for columns in ([each.log_losses for each in trainings], [each.is_right for each in trainings])
    ]
    return PerImage(images, *(each / counts for each in sums))


def paired_difference(first: Floats, second: Floats) -> Estimate:
    """Return second mean minus first mean, of values of the same images, (n,) each, with a 95 % interval.

    The interval comes from 1,000 bootstrap resamples of the images, as in `metrics.estimate`.
    """
    differences = second - first
    means = [weights @ differences / len(differences) for weights in resamples(len(differences))]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return Estimate(float(differences.mean()), float(low), float(high))


@dataclass(frozen=True, eq=False)
class InStudy:
    """Values of single images that a study keeps for a trial.

    Attributes:
        images: a hash of the images' ids; equal for the same images.
        values: (n,), a metric of each image.
        num_images: the number of all images, at least n.
    """

    images: str
    values: Floats
    num_images: int


def in_study(noted: Any, metric: str) -> InStudy | None:
    """Read the values of a metric that a trial has noted; None if there are none, or they make no sense."""
    if not isinstance(noted, Mapping) or not isinstance(noted.get(metric), str):
        return None
    try:
        packed = base64.b64decode(noted[metric], validate=True)
        values = np.frombuffer(packed[: MOST_IN_STUDY * _PACKED.itemsize], _PACKED).astype(np.float64)
    except ValueError:
        return None
    images, number = noted.get("images"), noted.get("num_images")
    if not isinstance(images, str) or not isinstance(number, int) or not np.isfinite(values).all():
        return None
    return InStudy(images, values, number) if 1 <= len(values) <= number < 2**31 else None


def _packed(values: Floats) -> str:
    return base64.b64encode(values.astype(_PACKED).tobytes()).decode()
