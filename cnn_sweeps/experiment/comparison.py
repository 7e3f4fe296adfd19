"""Whether two trainings measured the same: a table of what both recorded, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT_TOLERANCE = 1e-3
"""Largest relative difference that still counts as agreement: of rounding that training has not amplified.

Which it does: computed by one thread instead of two, 30 epochs of digits differ by 8 % after the first and by up to a
third later, and end with a validation log loss of 0.0080 instead of 0.0094: another training, as with another seed.
"""

BIT_FOR_BIT = "agrees bit for bit"


@dataclass(frozen=True)
class Pair:
    """A metric that was measured twice.

    Attributes:
        name: of the metric, for a person.
        recorded: what it was; None: was not measured.
        now: what it is; None: is not measured.
        scale: what a difference is relative to, at least 0; None: the larger of the two values.
    """

    name: str
    recorded: float | None
    now: float | None
    scale: float | None = None

    @property
    def difference(self) -> float | None:
        """What was added to the recorded value; None if one is missing."""
        return None if self.recorded is None or self.now is None else self.now - self.recorded

    @property
    def relative_difference(self) -> float:
        """At least 0; infinite if a value is missing or no number."""
        if self.recorded is None or self.now is None:
            return math.inf
        if self.recorded == self.now:
            return 0.0
        scale = max(abs(self.recorded), abs(self.now)) if self.scale is None else self.scale
        relative = abs(self.now - self.recorded) / scale if scale else math.inf
        return relative if math.isfinite(relative) else math.inf


@dataclass(frozen=True)
class Comparison:
    """What two trainings measured.

    Attributes:
        pairs: of all that is compared.
        tolerance: largest relative difference that counts as agreement, at least 0.
    """

    pairs: Sequence[Pair]
    tolerance: float

    @property
    def largest(self) -> Pair | None:
        """The pair that differs most; None if there is nothing to compare."""
        return max(self.pairs, key=lambda pair: pair.relative_difference, default=None)

    @property
    def agrees(self) -> bool:
        """Whether nothing differs by more than the tolerance, and there is something to compare."""
        return self.largest is not None and self.largest.relative_difference <= self.tolerance

    @property
    def verdict(self) -> str:
        """The outcome in one line."""
        if self.largest is None:
            return "does not agree (nothing is recorded that could be compared)"
        relative = self.largest.relative_difference
        if relative == 0:
            return BIT_FOR_BIT
        if math.isinf(relative):
            return f"does not agree ({self.largest.name}: {_describe_missing(self.largest)})"
        largest = f"largest relative difference {relative:.1e}, of {self.largest.name}"
        return f"agrees within {self.tolerance:g} ({largest})" if self.agrees else f"does not agree ({largest})"

    @property
    def table(self) -> str:
        """One line a pair, under a heading."""
        rows = [("", "recorded", "now", "difference")]
        rows += [
            (pair.name, _number(pair.recorded), _number(pair.now), _describe_difference(pair)) for pair in self.pairs
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(
                [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
            )
            for row in rows
        )


def _describe_missing(pair: Pair) -> str:
    return f"recorded {_number(pair.recorded)}, now {_number(pair.now)}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.10g}"


def _describe_difference(pair: Pair) -> str:
    difference = pair.difference
    if difference is None:
        return "missing"
    return "0" if pair.recorded == pair.now else f"{difference:+.1e}"
