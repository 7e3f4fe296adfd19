"""Writes the text files of a run: settings, lists of doubtful images, metrics, and confusions."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from cnn_sweeps.data.bad_files import list_bad_files
from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.data.split import Split
from cnn_sweeps.evaluation.per_image import FILES
from cnn_sweeps.evaluation.results import Evaluation, Measured
from cnn_sweeps.settings.schema import RunConfig
from cnn_sweeps.text.names import for_csv, for_terminal
from cnn_sweeps.text.numbers import probability_text
from cnn_sweeps.text.passwords import hide_passwords


def write_settings(
    folder: Path, config: RunConfig, overrides: Sequence[str], dataset: ImageDataset, split: Split
) -> None:
    """Write the composed configuration, the overrides, and lists of images that are left out or doubtful."""
    texts = {
        "config.yaml": OmegaConf.to_yaml(OmegaConf.create(config.resolved)),
        "overrides.yaml": OmegaConf.to_yaml(OmegaConf.create(list(overrides))),
        "skipped_files.txt": list_bad_files(dataset.skipped_files),
        "left_out_images.txt": "\n".join(split.left_out),
        "equal_images_of_different_classes.txt": "\n".join(split.conflicts),
    }
    for name, text in texts.items():
        if text:
            _write(folder / name, hide_passwords(text))


def write_per_image(folder: Path, evaluation: Evaluation) -> list[Path]:
    """Write the results for each validation and test image; return the files."""
    files = {folder / FILES[each.prefix]: each for each in (evaluation.validation, evaluation.test) if each is not None}
    for file, measured in files.items():
        _write(file, measured.per_image.as_csv())
    return list(files)


def write_report(folder: Path, measured: Measured) -> None:
    """Write metrics with intervals, confusions, and precision and recall of each class, at the decision threshold."""
    estimates, values = measured.estimates, measured.values
    if measured.threshold is not None:
        values = values | {"decision_threshold": measured.threshold}
    lines = ["metric,value,low,high", *(f"{name},{','.join(map(repr, each))}" for name, each in estimates.items())]
    lines += [f"{name},{value!r},," for name, value in values.items() if name not in estimates]
    _write(folder / f"{measured.prefix}_metrics.csv", "\n".join(lines))
    _write(folder / f"{measured.prefix}_confusions.csv", _confusions_table(measured))
    report = per_class_report(measured)
    report += f"\naccuracy of naming the commonest class: {measured.values['accuracy_of_commonest_class']:.3f}\n"
    if measured.threshold is not None:
        second = for_terminal(measured.dataset.class_names[1])
        at_least = probability_text(measured.threshold)
        report = f"{second} is predicted if its probability is at least {at_least}\n\n{report}"
        report += f"precision, recall and F1 elsewhere are those of {second}, the positive class\n"
    _write(folder / f"{measured.prefix}_report.txt", report)


def _confusions_table(measured: Measured) -> str:
    names, table = [for_csv(name) for name in measured.dataset.class_names], io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["true", "predicted", "images", "share_of_true"])
    rows.writerows(
        [names[true], names[predicted], count, f"{share:.4f}"] for true, predicted, count, share in measured.confusions
    )
    return table.getvalue()


def per_class_report(measured: Measured) -> str:
    """Return a text with precision, recall, F1 and number of images of each class."""
    from sklearn.metrics import classification_report  # noqa: PLC0415  takes 1.4 s, needed at the end

    names = [for_terminal(name) for name in measured.dataset.class_names]
    known = {"labels": np.arange(len(names)), "target_names": names}
    report: str = classification_report(measured.labels, measured.predicted, **known, digits=3, zero_division=0)
    return report


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8", errors="backslashreplace")
