"""Shows predictions, or writes them to files, whole or not at all."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

from tqdm import tqdm

from cnn_sweeps.system.files import written_whole
from cnn_sweeps.text.names import for_csv, for_terminal, num_columns
from cnn_sweeps.text.numbers import counted, probability_text

if TYPE_CHECKING:
    from cnn_sweeps.tracking.models import ModelFacts


class Prediction(NamedTuple):
    """The prediction for an image file."""

    path: Path
    class_name: str
    probability: float  # of that class
    probabilities: dict[str, float]  # of every class, by name


Write = Callable[[Prediction], None]
"""Adds a prediction to a table."""


def write_tables(
    predictions: Iterable[Prediction],
    files: Sequence[Path],
    class_names: Sequence[str],
    csv_file: Path | None,
    json_file: Path | None,
) -> Counter[str]:
    """Write predictions to the given files or, without any, to the terminal; return the number of images by class."""
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        tables = [stack.enter_context(csv_table(csv_file, class_names))] if csv_file else []
        tables += [stack.enter_context(json_table(json_file))] if json_file else []
        tables = tables or [terminal_table(files, class_names)]
        for prediction in predictions:
            for write in tables:
                write(prediction)
            counts[prediction.class_name] += 1
    return counts


def terminal_table(files: Sequence[Path], class_names: Sequence[str]) -> Write:
    """Begin a table on the terminal; its columns are wide enough for all of these files and classes."""
    file_width = max(num_columns(for_terminal(file)) for file in (*files, "file"))
    class_width = max(num_columns(for_terminal(name)) for name in (*class_names, "class"))

    def write_row(file: str, name: str, probability: str) -> None:
        tqdm.write(f"{_padded(file, file_width)}  {_padded(name, class_width)}  {probability:>11}")

    def write(prediction: Prediction) -> None:
        names = for_terminal(prediction.path), for_terminal(prediction.class_name)
        write_row(*names, f"{prediction.probability:.4f}")

    write_row("file", "class", "probability")
    return write


def _padded(text: str, width: int) -> str:
    return text + " " * (width - num_columns(text))


@contextmanager
def csv_table(target: Path, class_names: Sequence[str]) -> Iterator[Write]:
    """Write one row for each file: file, class, its probability, and the probability of every class."""
    with _written(target) as file:
        rows = csv.writer(file)
        rows.writerow(["file", "class", "probability", *(f"probability.{for_terminal(name)}" for name in class_names)])

        def write(prediction: Prediction) -> None:
            path, name, probability, by_name = prediction
            rows.writerow([for_csv(path), for_csv(name), *map(_rounded, (probability, *by_name.values()))])

        yield write


@contextmanager
def json_table(target: Path) -> Iterator[Write]:
    """Write a list with one object for each file: file, class, probability, and probabilities by class name."""
    with _written(target) as file:
        file.write("[")
        separators = chain(["\n"], repeat(",\n"))

        def write(prediction: Prediction) -> None:
            path, name, probability, by_name = prediction
            entry = {
                "file": str(path),
                "class": name,
                "probability": _rounded(probability),
                "probabilities": {class_name: _rounded(value) for class_name, value in by_name.items()},
            }
            file.write(next(separators) + json.dumps(entry))

        yield write
        file.write("\n]\n")


def summarize(counts: Counter[str], record: ModelFacts) -> str:
    """Return a line with the number of images of each class."""
    found = ", ".join(f"{for_terminal(name)} ({count:,})" for name, count in counts.most_common())
    summary = counted(counts.total(), "image") + (f": {found}" if found else "")
    if record.decision_threshold is not None and len(record.class_names) == 2:
        second = for_terminal(record.class_names[1])
        summary += f"; {second} if its probability is at least {probability_text(record.decision_threshold)}"
    return summary


@contextmanager
def _written(target: Path) -> Iterator[TextIO]:
    with (
        written_whole(target) as unfinished,
        unfinished.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        yield file


def _rounded(probability: float) -> float:
    return float(f"{probability:.7g}")  # as exact as the network computes
