"""What is told of files that are no usable images: each reason once, and some names."""

import re
from collections.abc import Mapping

from cnn_sweeps.errors import DataError
from cnn_sweeps.text.names import cut_list

MOST_NAMES = 10
_MOST_REASONS = 5
_DETAIL = re.compile(r"\d+|, to .*")  # what tells two files apart that are bad in one way: a count, where a link leads


class BadFilesError(DataError):
    """Files are no usable images. The message names some of them; here they all are, each with the reason."""

    def __init__(self, message: str, bad_files: Mapping[str, str] | None = None) -> None:
        """Say it."""
        super().__init__(message)
        self.bad_files = bad_files or {}


def describe_bad_files(bad_files: Mapping[str, str]) -> str:
    """Name at most ten files by why they are bad, the commonest reason first, and count the others."""
    groups: dict[str, list[str]] = {}
    for name, reason in bad_files.items():
        groups.setdefault(_DETAIL.sub("", reason), []).append(name)
    largest = sorted(groups.values(), key=len, reverse=True)
    shown = largest[:_MOST_REASONS]
    told = [_describe_group(names, bad_files, MOST_NAMES // len(shown)) for names in shown]
    if num_left := sum(map(len, largest[_MOST_REASONS:])):
        told.append(f"and {num_left:,} more for other reasons")
    return "; ".join(told)


def _describe_group(names: list[str], bad_files: Mapping[str, str], most: int) -> str:
    reason, listed = bad_files[names[0]], cut_list(names, ", ", most)
    if len(names) == 1:
        return f"{listed} {reason}"
    return f"{listed}: each {reason}{' or alike' if len({bad_files[name] for name in names}) > 1 else ''}"


def list_bad_files(bad_files: Mapping[str, str]) -> str:
    """Return all of them, one a line."""
    return "\n".join(f"{name} {reason}" for name, reason in bad_files.items())
