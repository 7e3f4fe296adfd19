"""Writes what a person reads after a training: tables, pictures and `report.html`."""

import logging
from collections.abc import Sequence

import keras

from cnn_sweeps.evaluation import report, texts
from cnn_sweeps.evaluation.html_file import REPORT_FILE, evaluation_in, write_html
from cnn_sweeps.evaluation.report import Shown, Thumbnail, Training
from cnn_sweeps.evaluation.results import Evaluation
from cnn_sweeps.experiment.parts import RESULTS, SHOWN_OF_PARTS, Part, average_metrics, describe_mean, folder_of_part
from cnn_sweeps.settings.schema import RunConfig
from cnn_sweeps.system.files import collecting_failures
from cnn_sweeps.text.commands import Command
from cnn_sweeps.text.names import for_terminal
from cnn_sweeps.tracking.database.address import store_of
from cnn_sweeps.tracking.record.entry import read_record
from cnn_sweeps.tracking.record.record import Record, short_path
from cnn_sweeps.tracking.usage import command_to_look, commands_of_record
from cnn_sweeps.training.progress import TrainingProgress

log = logging.getLogger(__name__)


def write_results(
    record: Record,
    part: Part,
    model: keras.Model,
    evaluation: Evaluation,
    progress: TrainingProgress,
    kept_epoch: int,
) -> list[str]:
    """Write and record tables, `report.html` and, unless the settings forbid it, pictures; return what failed.

    Raises:
        OSError: if the disk is full.
    """
    failures, folder, config = list[str](), record.folder / RESULTS, part.config
    with collecting_failures(failures, "the tables cannot be written"):
        texts.write_per_image(folder, evaluation)
        texts.write_report(folder, evaluation.held_out)
    shown = Shown(pictures=())
    if config.evaluation.pictures != "none":
        from cnn_sweeps.evaluation.pictures import write_pictures

        failures += write_pictures(folder, model, evaluation, progress, config.training)
        shown = _with_images(model, evaluation, failures) if config.report.images else Shown()
    with collecting_failures(failures, f"{REPORT_FILE} cannot be written"):
        title, commands = _title_and_commands(record, config)
        report.write_report(folder, title, evaluation, Training(part.images, progress, kept_epoch), commands, shown)
    record.log_files(folder.iterdir())
    return failures


def _with_images(model: keras.Model, evaluation: Evaluation, failures: list[str]) -> Shown:
    from cnn_sweeps.evaluation.thumbnails import show_explained, show_mistakes

    mistakes, explained = list[Thumbnail](), list[Thumbnail]()
    with collecting_failures(failures, "the mistakes cannot be shown"):
        mistakes = show_mistakes(evaluation.held_out)
    with collecting_failures(failures, "Grad-CAM cannot be shown"):
        explained = show_explained(model, evaluation.held_out)
    return Shown(mistakes, explained)


def write_whole(record: Record, parts: Sequence[Part], finals: Sequence[dict[str, float]]) -> None:
    """Write and record `report.html` of a run of several trainings; `finals` are their final metrics, in order.

    Raises:
        OSError: if the disk is full.
    """
    failures, folder, names = list[str](), record.folder / RESULTS, [part.name for part in parts]
    with collecting_failures(failures, f"{REPORT_FILE} cannot be written"):
        title, commands = _title_and_commands(record, parts[0].config)
        first = folder_of_part(names[0], record.folder) / RESULTS / REPORT_FILE
        metrics = [name for name in SHOWN_OF_PARTS if all(name in final for final in finals)]
        write_html(
            folder / REPORT_FILE,
            "evaluation/templates/whole.html",
            for_terminal(title),
            sentences=_summarize_whole(finals, parts),
            metrics=[SHOWN_OF_PARTS[name] for name in metrics],
            rows=[
                (name, [f"{final[each]:.4f}" for each in metrics]) for name, final in zip(names, finals, strict=False)
            ],
            first=names[0],
            evaluation=evaluation_in(first, with_images=parts[0].config.report.images),
            commands=commands,
        )
        record.log_files([folder / REPORT_FILE])
        log.info("The report, for a browser: %s", short_path(folder / REPORT_FILE))
    for failure in failures:
        log.warning("warning: %s", failure)


def _summarize_whole(finals: Sequence[dict[str, float]], parts: Sequence[Part]) -> list[str]:
    sentences = [f"{len(finals)} of {len(parts)} trainings of one configuration, with other seeds or on other folds."]
    if len(finals) > 1:
        mean = describe_mean(average_metrics(finals), len(finals))
        sentences.append(f"{mean[:1].upper()}{mean[1:]}.")
    if parts[0].config.folds > 1:
        sentences.append("Folds share training images. So the true error of the mean is larger than this.")
    return sentences


def _title_and_commands(record: Record, config: RunConfig) -> tuple[str, list[Command]]:
    recorded, uri = read_record(record.folder), store_of(config.tracking)
    assert recorded is not None
    look = command_to_look(uri)
    return recorded.begin.name, [*commands_of_record(record.folder, uri), *([] if look is None else [look])]
