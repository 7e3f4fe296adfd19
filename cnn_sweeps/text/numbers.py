"""Numbers in a sentence."""

from __future__ import annotations


def counted(number: int, one: str, several: str | None = None) -> str:
    """Return a number with what it counts: `1 image`, `2,000 images`; `several` is not just `one` with an s."""
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def probability_text(value: float) -> str:
    """Return a probability, 0 to 1, with three digits, and with as many more as tell it from 1: 0.607, 0.9998."""
    return next(text for digits in range(3, 18) if float(text := f"{value:.{digits}g}") < 1 or value >= 1)
