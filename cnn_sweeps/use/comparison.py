"""Compares two recorded runs: what differs, and whether one is better by more than chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cnn_sweeps.evaluation.per_image import FILES, PerImage, paired_difference
from cnn_sweeps.settings.stored_config import parse_stored
from cnn_sweeps.settings.trees import nodes
from cnn_sweeps.text.names import for_terminal, num_columns
from cnn_sweeps.tracking.reading import RecordedRun, read_per_image, read_recorded_run

_ABSENT = "-"
_LONGEST_IN_TABLE = 20  # columns; the longest metric's name has 36
_CANNOT_TELL = "cannot tell whether the difference is chance"
_TEST, _VALIDATION = FILES["test"], FILES["final_val"]
_CALLED = {_TEST: "test images", _VALIDATION: "validation images, which may have chosen these runs"}


def compare_runs(uri: str, run_ids: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a table of the differences between two runs of a store, and of what is more than chance.

    Raises:
        TrackingError: if a run does not exist, or is no whole run or trial.
    """
    first, second = (read_recorded_run(uri, run_id) for run_id in run_ids)
    yield f"first:  {for_terminal(first.name)}"
    yield f"second: {for_terminal(second.name)}"
    rows = [("", "first", "second")]
    for title, found in (
        ("settings", _differing(_settings(first), _settings(second))),
        ("data", _differing(_data(first), _data(second))),
        ("metrics", _differing_metrics(_metrics(first), _metrics(second))),
    ):
        rows += list(found) or [(f"the same {title}", "", "")]
    yield from _table([[for_terminal(cell) for cell in row] for row in rows])
    yield from _judge(uri, first, second)


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Return a table's lines, 80 columns wide if its first cells let it: what is long stands below its row's name."""
    is_long = [max(map(num_columns, values)) > _LONGEST_IN_TABLE for _, *values in rows]
    in_table = [row for row, below in zip(rows, is_long, strict=True) if not below]
    widths = [max(map(num_columns, column)) for column in zip(*in_table, strict=True)]
    for row, below in zip(rows, is_long, strict=True):
        if below:
            yield from (row[0], f"  first:  {row[1]}", f"  second: {row[2]}")
            continue
        cells = [cell + " " * (width - num_columns(cell)) for cell, width in zip(row, widths, strict=True)]
        yield "  ".join(cells).rstrip()


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for key in {**first, **second}:
        of_first, of_second = (_text(each.get(key, _ABSENT)) for each in (first, second))
        if of_first != of_second:
            yield key, of_first, of_second


def _differing_metrics(first: Mapping[str, float], second: Mapping[str, float]) -> Iterator[tuple[str, str, str]]:
    """Return those that both have, and how many one has alone, as all those of the test if the other was not tested."""
    yield from (row for row in _differing(first, second) if _ABSENT not in row)
    alone = [str(len(each.keys() - other.keys())) for each, other in ((first, second), (second, first))]
    if alone != ["0", "0"]:
        yield "metrics that the other lacks", alone[0], alone[1]


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _settings(run: RecordedRun) -> dict[str, Any]:
    tree = parse_stored(run.config, f"{run.run_id}: its config.yaml")
    every = nodes(tree) if isinstance(tree, dict) else []
    return {key: value for key, value in every if not isinstance(value, dict)}


def _data(run: RecordedRun) -> dict[str, Any]:
    counts = {f"{split} images": number for split, number in run.num_images.items()}
    return {"fingerprint of the images": run.data_fingerprint[:12]} | counts


def _metrics(run: RecordedRun) -> dict[str, float]:
    """Return the final metrics; for several trainings, the means of those that all have."""
    finals = [training.final for training in run.measured.values()]
    shared = [name for name in finals[0] if all(name in each for each in finals)]
    return {name: float(np.mean([each[name] for each in finals])) for name in shared}


def _judge(uri: str, first: RecordedRun, second: RecordedRun) -> Iterator[str]:
    """Judge whether the difference is chance, on the test images or, if a run was not tested, the validation images."""
    for file, called in _CALLED.items():
        of_first, of_second = (read_per_image(uri, run.run_id, file) for run in (first, second))
        if of_first is not None and of_second is not None:
            yield from judge_images(of_first, of_second, called)
            if len(first.measured) == len(second.measured) == 1:
                yield "This compares only two trainings; another seed may change either (repeats=5 trains five)."
            return
    lacking = [run for run in (first, second) if read_per_image(uri, run.run_id, _VALIDATION) is None]
    names = " and ".join(for_terminal(run.name) for run in lacking)
    yield f"{_CANNOT_TELL}: {names} kept no results of single images, as unfinished runs and those of old versions"


def judge_images(first: PerImage, second: PerImage, called: str) -> Iterator[str]:
    """Say how much two differ on the same images, and in one sentence which is better by more than chance."""
    if first.images.tolist() != second.images.tolist():
        yield f"{_CANNOT_TELL}: they have different {called.partition(',')[0]}"
        return
    yield f"Change from the first to the second, on the same {len(first.images):,} {called} (95 % intervals):"
    better = dict[str, list[str]]()
    for name, is_loss, of_first, of_second in (
        ("log loss", True, first.log_losses, second.log_losses),
        ("accuracy", False, first.is_right, second.is_right),
    ):
        difference = paired_difference(of_first, of_second)
        is_chance = difference.low <= 0 <= difference.high
        if not is_chance:
            better.setdefault("first" if (difference.value > 0) == is_loss else "second", []).append(name)
        yield f"  {name} {difference:+.4f}: {'may be chance' if is_chance else 'more than chance'}"
    told = [f"the {which} is better in {' and '.join(names)}" for which, names in better.items()]
    yield f"By more than chance {', '.join(told)}." if told else "Neither is better by more than chance."
