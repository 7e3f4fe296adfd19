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
    for title, facts in (("settings", _settings), ("data", _data), ("metrics", _metrics)):
        rows += list(_differing(facts(first), facts(second))) or [(f"the same {title}", "", "")]
    shown = [[for_terminal(cell) for cell in row] for row in rows]
    widths = [max(map(num_columns, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        cells = [cell + " " * (width - num_columns(cell)) for cell, width in zip(row, widths, strict=True)]
        yield "  ".join(cells).rstrip()
    yield from _judge(uri, first, second)


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for key in {**first, **second}:
        of_first, of_second = (_text(each.get(key, _ABSENT)) for each in (first, second))
        if of_first != of_second:
            yield key, of_first, of_second


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _settings(run: RecordedRun) -> dict[str, Any]:
    tree = parse_stored(run.config, f"{run.run_id}: its config.yaml")
    every = nodes(tree) if isinstance(tree, dict) else []
    return {key: value for key, value in every if not isinstance(value, dict)}


def _data(run: RecordedRun) -> dict[str, Any]:
    counts = {f"{split} images": number for split, number in run.num_images.items()}
    return {"images": f"{run.data_fingerprint[:12]} of {run.data_source}"} | counts


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
            yield from _judge_images(of_first, of_second, called)
            if len(first.measured) == len(second.measured) == 1:
                yield "This compares only two trainings; another seed may change either (repeats=5 trains five)."
            return
    lacking = [run for run in (first, second) if read_per_image(uri, run.run_id, _VALIDATION) is None]
    names = " and ".join(for_terminal(run.name) for run in lacking)
    yield f"{_CANNOT_TELL}: {names} kept no results of single images, as unfinished runs and those of old versions"


def _judge_images(first: PerImage, second: PerImage, called: str) -> Iterator[str]:
    if first.images.tolist() != second.images.tolist():
        yield f"{_CANNOT_TELL}: they have different {called.partition(',')[0]}"
        return
    yield f"Change from the first to the second, on the same {len(first.images):,} {called} (95 % intervals):"
    for name, of_first, of_second in (
        ("log loss", first.log_losses, second.log_losses),
        ("accuracy", first.is_right, second.is_right),
    ):
        difference = paired_difference(of_first, of_second)
        verdict = "may be chance" if difference.low <= 0 <= difference.high else "more than chance"
        yield f"  {name} {difference:+.4f}: {verdict}"
