"""`report.html` of one training: what it came to, what it gets wrong, its data, and the commands that use it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnn_sweeps.data.images import Images, describe_images
from cnn_sweeps.evaluation.html_file import REPORT_FILE, address_of_picture, page_facts, write_html
from cnn_sweeps.evaluation.metrics import Estimate
from cnn_sweeps.evaluation.results import Evaluation, Measured
from cnn_sweeps.evaluation.sentences import tell_expected, tell_no_mistake
from cnn_sweeps.text.commands import Command
from cnn_sweeps.text.names import for_terminal
from cnn_sweeps.text.numbers import probability_text
from cnn_sweeps.text.passwords import hide_passwords
from cnn_sweeps.training.progress import TrainingProgress

_MOST_ROWS = 30  # of a table of classes
_MOST_CONFUSIONS = 10
_PICTURES = {
    "learning_curves": "Learning curves. Where validation gets worse while training gets better, it learns by heart.",
    "confusion_matrix": "Confusion matrix: how many images of each class (row) are taken for which (column).",
    "roc_curve": "ROC curve: what share of a class is found, over the share of other images that is taken for it.",
    "pr_curve": "Precision over recall: how often it is right when it names a class, over the share that is found.",
    "reliability": "Reliability: how often it is right, over how sure it is. On the dotted line both are equal.",
    "scores": "How sure it is: images by the probability that they are given.",
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
    """An image, as an address that holds it, with what is said of it."""

    address: str
    name: str
    predicted: str
    probability: float
    true: str  # empty if the prediction is right


class Training(NamedTuple):
    """The images of a training, how it went, and the epoch, from 1, after which its final weights were."""

    images: Images
    progress: TrainingProgress
    kept_epoch: int


class Shown(NamedTuple):
    """What a report shows of a training beside numbers: images, and pictures by name that lie in its folder."""

    mistakes: Sequence[Thumbnail] = ()
    explained: Sequence[Thumbnail] = ()
    pictures: Sequence[str] = tuple(_PICTURES)


class _Metric(NamedTuple):
    name: str
    value: str
    interval: str


def write_report(
    folder: Path,
    title: str,
    evaluation: Evaluation,
    training: Training,
    commands: Sequence[Command],
    shown: Shown,
) -> None:
    """Write `report.html` into the folder of a training's results.

    Args:
        folder: where its pictures are.
        title: the run's name.
        evaluation: of its final weights.
        training: how they came about.
        commands: that use it.
        shown: beside numbers.

    Raises:
        OSError: if it cannot be written.
    """
    images, measured = training.images, evaluation.held_out
    pictures = [
        {"address": address_of_picture(file), "told": _PICTURES[name], "is_broad": name == "learning_curves"}
        for name in shown.pictures
        if (file := folder / f"{name}.png").exists()
    ]
    write_html(
        folder / REPORT_FILE,
        "evaluation/templates/run.html",
        **page_facts(for_terminal(title)),
        sentences=[_tell_training(training), *_tell_results(evaluation)],
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


def _tell_training(training: Training) -> str:
    images, progress, kept_epoch = training
    counts = {split: sum(of_class.values()) for split, of_class in images.counts.items()}
    num_train, num_val = len(images.split.train), len(images.split.val)
    name = for_terminal(images.dataset.name)
    told = f"The network was trained on {num_train:,} of {sum(counts.values()):,} images of {name}"
    chosen = f"; its weights are those after epoch {kept_epoch} of {progress.epochs_done}"
    by = f", the best on {num_val:,} validation images" if kept_epoch == progress.best_epoch else ""
    return f"{told}, {len(images.dataset.class_names)} classes{chosen}{by}."


def _tell_results(evaluation: Evaluation) -> list[str]:
    measured = evaluation.held_out
    told = tell_expected(measured.metrics | measured.intervals, len(measured.labels))
    if confusions := measured.confusions:
        names, first = [for_terminal(name) for name in measured.dataset.class_names], confusions[0]
        number = f"{first.num_images:,} of {int((measured.labels == first.true).sum()):,} such images"
        told.append(f"Its commonest mistake: it takes {names[first.true]} for {names[first.predicted]}, {number}.")
    return told


def _notes(measured: Measured) -> list[str]:
    if measured.threshold is None:
        return ["Precision, recall and F1 are means over the classes, each against the rest."]
    second = for_terminal(measured.dataset.class_names[1])
    return [
        f"It says {second} from a probability of {probability_text(measured.threshold)} on, which was chosen on "
        f"validation images. Precision, recall and F1 are of {second}."
    ]


def _metrics(measured: Measured) -> list[_Metric]:
    return [_described(_NAMES.get(name, name.replace("_", " ")), each) for name, each in measured.estimates.items()]


def _described(name: str, estimate: Estimate) -> _Metric:
    interval = f"{estimate.low:.4f} to {estimate.high:.4f}" if np.isfinite(estimate.low) else ""
    return _Metric(name, f"{estimate.value:.4f}", interval)


def _mistaken(measured: Measured) -> dict[str, Any]:
    """Give the commonest confusions, and how each class does."""
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
    """Give what the images are: how many of each class for what, and what is odd about them."""
    names = images.dataset.class_names[:_MOST_ROWS]
    return {
        "source": f"{for_terminal(images.dataset.name)}, from {for_terminal(hide_passwords(images.dataset.source))}.",
        "counts": images.counts,
        "class_counts": [(for_terminal(name), [each[name] for each in images.counts.values()]) for name in names],
        "data_notes": describe_images(images.dataset, images.split)[2:],
    }
