"""Numbers in a sentence."""

from __future__ import annotations


def counted(number: int, one: str, several: str | None = None) -> str:
    """Return a number with what it counts: `1 image`, `2,000 images`; `several` is not just `one` with an s."""
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def part_of(number: int, whole: int, one: str) -> str:
    """Return how many of what is counted, with the verb: `1 of 2 trials is`, `2 of 5 trials are`."""
    return f"{number:,} of {counted(whole, one)} {'is' if number == 1 else 'are'}"


def decimals(value: float, digits: int, sign: str = "") -> str:
    """Return a number with so many decimals, or with two significant digits if fewer than two would be left of it."""
    value += 0.0  # makes 0 of -0
    is_small = 0 < abs(value) < 10 ** (1 - digits)
    return f"{value:{sign}.2g}" if is_small else f"{value:{sign}.{digits}f}"


def probability_text(value: float) -> str:
    """Return a probability, 0 to 1, with three digits, and with as many more as tell it from 1: 0.607, 0.9998."""
    return next(text for digits in range(3, 18) if float(text := f"{value:.{digits}g}") < 1 or value >= 1)
