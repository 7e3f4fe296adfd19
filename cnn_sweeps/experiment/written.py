"""What a person reads of a training once it has ended, in its folder: tables, pictures, and `report.html`."""

import keras

from cnn_sweeps.evaluation import report, texts
from cnn_sweeps.evaluation.html_file import REPORT_FILE
from cnn_sweeps.evaluation.report import Shown, Thumbnail
from cnn_sweeps.evaluation.results import Evaluation
from cnn_sweeps.experiment.parts import RESULTS, Part
from cnn_sweeps.system.files import told_in
from cnn_sweeps.tracking.address import store_of
from cnn_sweeps.tracking.entry import read_record
from cnn_sweeps.tracking.record import Record
from cnn_sweeps.tracking.usage import command_to_look, commands_of_record
from cnn_sweeps.training.progress import TrainingProgress


def write_results(
    record: Record, part: Part, model: keras.Model, evaluation: Evaluation, progress: TrainingProgress
) -> list[str]:
    """Write and record tables and `report.html` and, unless the settings say none, pictures; give what failed.

    Raises:
        OSError: if the disk is full.
    """
    failures, folder, config = list[str](), record.folder / RESULTS, part.config
    with told_in(failures, "the tables cannot be written"):
        texts.write_per_image(folder, evaluation)
        texts.write_report(folder, evaluation.held_out)
    shown = Shown(pictures=())
    if config.evaluation.pictures != "none":
        from cnn_sweeps.evaluation.pictures import write_pictures

        failures += write_pictures(folder, model, evaluation, progress, config.training)
        shown = _with_images(model, evaluation, failures) if config.report.images else Shown()
    with told_in(failures, f"{REPORT_FILE} cannot be written"):
        recorded, uri = read_record(record.folder), store_of(config.tracking)
        assert recorded is not None
        look = command_to_look(uri)
        commands = [*commands_of_record(record.folder, uri), *([] if look is None else [look])]
        report.write_report(folder, recorded.begin.name, evaluation, (part.images, progress), commands, shown)
    record.log_files(folder.iterdir())
    return failures


def _with_images(model: keras.Model, evaluation: Evaluation, failures: list[str]) -> Shown:
    from cnn_sweeps.evaluation.thumbnails import show_explained, show_mistakes

    mistakes, explained = list[Thumbnail](), list[Thumbnail]()
    with told_in(failures, "the mistakes cannot be shown"):
        mistakes = show_mistakes(evaluation.held_out)
    with told_in(failures, "Grad-CAM cannot be shown"):
        explained = show_explained(model, evaluation.held_out)
    return Shown(mistakes, explained)
