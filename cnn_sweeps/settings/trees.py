"""Nested dicts and lists, as plain configurations are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def nodes(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Return every value of nested dicts, dicts too, with the dotted key that a user types."""
    for key, value in tree.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from nodes(value, f"{prefix}{key}.")


def everything_in(tree: Any) -> Iterator[Any]:
    """Return a tree, every tree in it, and all their keys and values."""
    yield tree
    inside = [*tree, *tree.values()] if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else ()
    for each in inside:
        yield from everything_in(each)


def with_texts_changed(tree: Any, change: Callable[[str], str]) -> Any:
    """Return the same tree with what a function makes of each text that is a value."""
    if isinstance(tree, dict):
        return {key: with_texts_changed(value, change) for key, value in tree.items()}
    if isinstance(tree, list):
        return [with_texts_changed(each, change) for each in tree]
    return change(tree) if isinstance(tree, str) else tree
