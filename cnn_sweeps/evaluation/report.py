"""Writes `report.html` of one training: results, mistakes, data, and commands that use the model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnn_sweeps.data.images import Images, describe_images
from cnn_sweeps.evaluation.html_file import REPORT_FILE, address_of_picture, write_html
from cnn_sweeps.evaluation.results import Evaluation, Measured
from cnn_sweeps.evaluation.sentences import tell_expected, tell_no_mistake
from cnn_sweeps.text.commands import Command
from cnn_sweeps.text.names import for_terminal
from cnn_sweeps.text.numbers import decimals, probability_text
from cnn_sweeps.text.passwords import hide_passwords
from cnn_sweeps.training.progress import TrainingProgress

_MOST_ROWS = 30  # of a table of classes
_MOST_CONFUSIONS = 10
_PICTURES = {
    "learning_curves": "Learning curves. If validation gets worse while training gets better, the network overfits.",
    "confusion_matrix": "Confusion matrix: how many images of each class (row) are predicted as which class (column).",
    "roc_curve": "ROC curve: the share of a class that is found, over the share of other images taken for that class.",
    "pr_curve": "Precision over recall: how often a predicted class is right, over the share of it that is found.",
    "reliability": "Reliability: how often predictions are right, over their probability. Ideal is the dotted line.",
    "scores": "Number of images by predicted probability.",
    "filters": "Filters of the first convolution.",
}
_NAMES = {
    "log_loss": "log loss, lower is better",
    "roc_auc": "ROC AUC: area under the ROC curve",
    "pr_auc": "average precision: area under the precision-recall curve",
    "brier_score": "Brier score, lower is better",
    "f1": "F1",
    "expected_calibration_error": "calibration error, lower is better",
}


class Thumbnail(NamedTuple):
    """An image as a data: address, with its name, prediction and true class."""

    address: str
    name: str
    predicted: str
    probability: float
    true: str  # the true class; empty if the prediction is right


class Training(NamedTuple):
    """A finished training."""

    images: Images
    progress: TrainingProgress
    kept_epoch: int  # the epoch, counted from 1, whose weights are kept


class Shown(NamedTuple):
    """What a report shows beside numbers: images, and the names of pictures in its folder."""

    mistakes: Sequence[Thumbnail] = ()
    explained: Sequence[Thumbnail] = ()
    pictures: Sequence[str] = tuple(_PICTURES)


def write_report(
    folder: Path,
    title: str,
    evaluation: Evaluation,
    training: Training,
    commands: Sequence[Command],
    shown: Shown,
) -> None:
    """Write `report.html` into the folder of a training's results, which has its pictures.

    Raises:
        OSError: if it cannot be written.
    """
    images, measured = training.images, evaluation.held_out
    pictures = [
        {"address": address_of_picture(file), "caption": _PICTURES[name], "is_broad": name == "learning_curves"}
        for name in shown.pictures
        if (file := folder / f"{name}.png").exists()
    ]
    write_html(
        folder / REPORT_FILE,
        "evaluation/templates/run.html",
        for_terminal(title),
        sentences=[_describe_training(training), *_describe_results(evaluation)],
        measured=measured,
        notes=_notes(measured),
        metrics=_metrics(measured),
        **_mistaken(measured),
        **_data(images),
        mistakes=shown.mistakes,
        explained=shown.explained,
        pictures=pictures,
        commands=commands,
    )


def _describe_training(training: Training) -> str:
    images, progress, kept_epoch = training
    num_images = sum(sum(of_class.values()) for of_class in images.counts.values())
    num_train, num_val = len(images.split.train), len(images.split.val)
    name, num_classes = for_terminal(images.dataset.name), len(images.dataset.class_names)
    trained = f"The network was trained on {num_train:,} of {num_images:,} images of {name}, {num_classes} classes"
    kept = f"its weights are those after epoch {kept_epoch} of {progress.epochs_done}"
    by = f", the best on {num_val:,} validation images" if kept_epoch == progress.best_epoch else ""
    return f"{trained}; {kept}{by}."


def _describe_results(evaluation: Evaluation) -> list[str]:
    measured = evaluation.held_out
    sentences = tell_expected(measured.metrics | measured.intervals, len(measured.labels))
    if confusions := measured.confusions:
        names, first = [for_terminal(name) for name in measured.dataset.class_names], confusions[0]
        number = f"{first.num_images:,} of {int((measured.labels == first.true).sum()):,} such images"
        sentences.append(f"Its commonest mistake: it takes {names[first.true]} for {names[first.predicted]}, {number}.")
    return sentences


def _notes(measured: Measured) -> list[str]:
    if measured.threshold is None:
        return ["Precision, recall and F1 are means over the classes, each against the rest."]
    second = for_terminal(measured.dataset.class_names[1])
    return [
        f"It predicts {second} if its probability is at least {probability_text(measured.threshold)}. This threshold "
        f"was chosen on validation images. Precision, recall and F1 are those of {second}."
    ]


def _metrics(measured: Measured) -> list[dict[str, str]]:
    return [
        {
            "name": _NAMES.get(name, name.replace("_", " ")),
            "value": decimals(value, 4),
            "interval": f"{decimals(low, 4)} to {decimals(high, 4)}" if np.isfinite(low) else "",
        }
        for name, (value, low, high) in measured.estimates.items()
    ]


def _mistaken(measured: Measured) -> dict[str, Any]:
    """Return the template's variables about the commonest confusions and the results of each class."""
    names, counts = [for_terminal(name) for name in measured.dataset.class_names], measured.confusion_matrix
    confusions = [
        {"true": names[each.true], "predicted": names[each.predicted], "images": each.num_images}
        | {"share": f"{each.share:.1%}"}
        for each in measured.confusions
    ]
    of_class = zip(names, counts.sum(axis=1).tolist(), counts.sum(axis=0).tolist(), counts.diagonal(), strict=True)
    classes = [
        {"name": name, "images": true, "recall": _share(right, true), "precision": _share(right, predicted)}
        for name, true, predicted, right in of_class
    ]
    return {
        "no_mistake": tell_no_mistake(len(measured.labels)),
        "confusions": confusions[:_MOST_CONFUSIONS],
        "more_confusions": max(0, len(confusions) - _MOST_CONFUSIONS),
        "classes": classes[:_MOST_ROWS],
        "more_classes": max(0, len(classes) - _MOST_ROWS),
    }


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _data(images: Images) -> dict[str, Any]:
    """Return the template's variables about the images: source, numbers by split and class, and oddities."""
    names = images.dataset.class_names[:_MOST_ROWS]
    return {
        "source": f"{for_terminal(images.dataset.name)}, from {for_terminal(hide_passwords(images.dataset.source))}.",
        "counts": images.counts,
        "class_counts": [(for_terminal(name), [each[name] for each in images.counts.values()]) for name in names],
        "data_notes": describe_images(images.dataset, images.split)[2:],
    }
