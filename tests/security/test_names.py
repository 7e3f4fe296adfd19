"""Names of files and classes are shown, never obeyed: by a terminal, a log, a spreadsheet, a picture, a page."""

import csv
import io
import logging
import re
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml
from conftest import TINY, compose
from matplotlib.figure import Figure
from measured import measured_of, of_second
from PIL import Image

from cnn_sweeps.data import load_folder
from cnn_sweeps.data.split import split_dataset
from cnn_sweeps.deliver import deliver
from cnn_sweeps.doctor.__main__ import doctor
from cnn_sweeps.errors import DataError, TrackingError
from cnn_sweeps.evaluation.figures import draw_confusion_matrix, draw_roc_curve, draw_scores
from cnn_sweeps.evaluation.pictures import draw_explained
from cnn_sweeps.evaluation.results import evaluate
from cnn_sweeps.evaluation.texts import per_class_report, write_report
from cnn_sweeps.selection import report as sweep_report
from cnn_sweeps.selection.agreement import Change
from cnn_sweeps.selection.standing import Standing
from cnn_sweeps.settings.command_line import CONF_DIR
from cnn_sweeps.settings.targets import call_target
from cnn_sweeps.sweep.console import Console
from cnn_sweeps.text.names import OnlyPrintable, block_for_markdown, for_csv, for_markdown, for_picture, for_terminal
from cnn_sweeps.tracking.models import ModelFacts
from cnn_sweeps.tracking.page import describe_run
from cnn_sweeps.tracking.record.record import Record
from cnn_sweeps.use.output import csv_table, summarize, terminal_table
from cnn_sweeps.use.prediction import Prediction

CLEARS_THE_SCREEN, FORGES_A_LINE, TURNS_ROUND = "a\x1b[2Jb", "cat\n2026-01-01 INFO all is well", "gpj.\u202ecod"
HOSTILE = [CLEARS_THE_SCREEN, FORGES_A_LINE, TURNS_ROUND, "a\rb", "a\x07", "a\x9b31m", "a\u2028b", "\udcff.png"]


@pytest.mark.parametrize("name", HOSTILE)
def test_name_on_a_terminal_is_one_line_that_prints(name):
    assert for_terminal(name).isprintable()
    assert len(for_terminal(name)) > len(name)  # nothing is left out, so that names stay apart


@pytest.mark.parametrize("name", ["photo 1.jpg", "Katze.png", "猫.png", "a\\b", "été"])
def test_ordinary_name_stays_as_it_is(name):
    assert for_terminal(name) == name


def test_log_keeps_its_own_lines_and_nothing_that_acts():
    record = logging.LogRecord("any", logging.INFO, "", 0, "first %s\n\tsecond", ("\x1b[31m",), None)
    assert OnlyPrintable("%(message)s").format(record) == "first \\x1b[31m\n\tsecond"


def test_terminal_and_log_of_every_run_are_so():
    configured = yaml.safe_load(Path(CONF_DIR, "hydra/job_logging/cnn_sweeps.yaml").read_text())
    formatters = [configured["formatters"][handler["formatter"]] for handler in configured["handlers"].values()]
    assert [formatter["class"] for formatter in formatters] == ["cnn_sweeps.text.names.OnlyPrintable"] * 2


def test_error_is_one_line_whatever_is_named_in_it():
    assert str(DataError(f"data.root={FORGES_A_LINE}{CLEARS_THE_SCREEN}")).isprintable()


def test_sweep_shows_and_logs_only_what_prints(tmp_path, capsys):
    console = Console(None, tmp_path)
    console.say(f"trial 1 {CLEARS_THE_SCREEN}\nsecond line")
    console.close()
    lines = (tmp_path / "sweep.log").read_text().splitlines()
    assert len(lines) == 2
    assert "\x1b[2J" not in capsys.readouterr().out + lines[0]


def test_doctor_and_deliver_show_names_of_runs_and_folders_as_what_prints(monkeypatch, capsys, tmp_path):
    found = Change(f"run 1 ({CLEARS_THE_SCREEN}) is below the sweep's", "if it is not needed, remove it")
    monkeypatch.setattr("cnn_sweeps.doctor.__main__.check_study_exists", lambda *_: None)
    monkeypatch.setattr("cnn_sweeps.doctor.mend.find_disagreements", lambda _: [found])
    with pytest.raises(SystemExit):
        doctor(["any"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mine.db")
    for number in range(2):
        folder = tmp_path / CLEARS_THE_SCREEN / str(number)
        Record(folder).begin("any", "any", "http://elsewhere", {})
    with pytest.raises(TrackingError):
        deliver([str(tmp_path)])
    told = capsys.readouterr().out
    assert told.count(for_terminal(CLEARS_THE_SCREEN)) >= 2
    assert CLEARS_THE_SCREEN not in told


def test_files_of_a_folder_are_named_as_what_prints(tmp_path):
    for i in range(8):
        file = tmp_path / "data" / f"class {i % 2}\x1b[2J" / f"{i}\n{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 30 * i, np.uint8)).save(file)
    (tmp_path / "data" / "class 0\x1b[2J" / FORGES_A_LINE).write_text("no image")
    dataset = load_folder(str(tmp_path / "data"), 8, 1, "skip", str(tmp_path / "cache"))
    names = [*dataset.skipped_files, *(dataset.image_name(i) for i in range(8))]
    assert len(names) == 9
    assert all(name.isprintable() for name in names)


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", *HOSTILE])
def test_cell_of_a_table_is_never_computed(name):
    assert for_csv(name).isprintable()
    assert not for_csv(name).startswith(("=", "+", "-", "@", "\t", "\r"))


def test_table_and_summary_of_predictions_hold_names_as_text(tmp_path, capsys):
    hostile = "=cmd()\x1b[2J"
    predictions = [Prediction(Path(hostile), hostile, 0.75, {hostile: 0.75, "other": 0.25})]
    with csv_table(tmp_path / "classes.csv", [hostile, "other"]) as write:
        write(predictions[0])
    terminal_table([Path(hostile)], [hostile, "other"])(predictions[0])
    text = (tmp_path / "classes.csv").read_text()
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    assert not [cell for cell in cells if cell.startswith("=")]
    told = capsys.readouterr().out + summarize(
        Counter([hostile]), ModelFacts((hostile, "other"), (8, 8, 1), 0.5, "0 to 255")
    )
    assert "\x1b" not in text + told


def test_columns_of_the_terminal_stand_below_each_other_whatever_the_letters(capsys):
    names = ["猫", "fu\u0308r", "cat"]
    write = terminal_table([Path(name) for name in names], names)
    for name in names:
        write(Prediction(Path(name), name, 0.5, {}))
    lines = capsys.readouterr().out.splitlines()
    widths = [len(line) + line.count("猫") - line.count("\u0308") for line in lines]
    assert len(set(widths)) == 1


def test_table_of_a_study_is_never_computed(tmp_path):
    study = optuna.create_study()
    study.add_trial(optuna.create_trial(value=-1.0, user_attrs={"=1+1": "@SUM(A1)", "lines": FORGES_A_LINE}))
    sweep_report.write_table(study, Standing(study.trials, None, {}, study.trials), tmp_path)
    header, values = csv.reader((tmp_path / "trials.csv").read_text().splitlines())
    assert dict(zip(header, values, strict=True)).items() >= {
        ("value", "-1.0"),
        ("user_attrs_=1+1", "'@SUM(A1)"),
        ("user_attrs_lines", for_terminal(FORGES_A_LINE)),
    }


FORMULA = r"$\frac$"


def test_classes_called_as_formulas_are_drawn(tmp_path):
    about = {"threshold": 0.5, "images": np.zeros((2, 8, 8, 1), np.uint8), "file_names": [FORMULA, "a$b$"]}
    measured = measured_of(of_second([0.7, 0.4]), np.array([1, 0]), [FORMULA, "$_{"], **about)
    figures = [
        draw_confusion_matrix(measured),
        draw_roc_curve(measured),
        draw_scores(measured),
        draw_explained(measured.dataset.images[0], np.ones((2, 2)), FORMULA, "$_{", 0.7),
    ]
    for figure in figures:
        figure.savefig(tmp_path / "figure.png")


def test_picture_shows_a_formula_as_it_is_typed(tmp_path):
    figure = Figure()
    text = figure.text(0.5, 0.5, for_picture(FORMULA))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(tmp_path / "figure.png")
    assert text._preprocess_math(text.get_text()) == (FORMULA, False)


def test_report_of_classes_has_a_line_a_class():
    names = [FORGES_A_LINE, CLEARS_THE_SCREEN]
    report = per_class_report(measured_of(of_second([0.2, 0.8]), np.array([0, 1]), names))
    assert "\n2026" not in report
    assert "\x1b" not in report


def test_report_names_the_positive_class_and_the_confusions(tmp_path):
    labels = np.array([0, 1, 0, 0, 1])
    write_report(tmp_path, measured_of(of_second([0.2, 0.8, 0.7, 0.9, 0.1]), labels, ["=cat", "dog"], threshold=0.5))
    told = (tmp_path / "test_report.txt").read_text()
    assert "dog is predicted if its probability is at least 0.5" in told
    assert "precision, recall and F1 elsewhere are those of dog, the positive class" in told
    rows = (tmp_path / "test_confusions.csv").read_text().splitlines()
    assert rows == ["true,predicted,images,share_of_true", "'=cat,dog,2,0.6667", "dog,'=cat,1,0.5000"]


def test_results_and_doubtful_images_name_classes_as_text(tmp_path, caplog):
    dataset = replace(compose_data(), class_names=[CLEARS_THE_SCREEN, FORGES_A_LINE])
    digests = dataset.digests.copy()
    digests[[dataset.labels.argmin(), dataset.labels.argmax()]] = "equal"  # of the first class, and of the second
    twice = replace(dataset, image_digests=digests)
    split = split_dataset(dataset, 0.2, 0.2, 0)
    scores = np.linspace(0, 1, len(dataset.labels))
    with caplog.at_level(logging.INFO):
        evaluation = evaluate(
            lambda chosen: np.stack([1 - scores[chosen], scores[chosen]], axis=1),
            *(dataset, split, compose(*TINY)),
            on_test=True,
        )
    write_report(tmp_path, evaluation.held_out)
    (conflict,) = split_dataset(twice, 0.2, 0.2, 0).conflicts
    assert FORGES_A_LINE.encode("unicode_escape").decode() in conflict
    told = [*caplog.messages, conflict, *(tmp_path / "test_report.txt").read_text().splitlines()]
    assert all(line.isprintable() for line in told)
    assert not any(line.startswith("2026") for line in told)


@pytest.mark.parametrize("name", ["<img src=x onerror=alert(1)>", "[a](javascript:b)", "`x` <b>", "``", "a\n# b"])
def test_name_in_markdown_is_code(name):
    fence, inside = re.fullmatch("(`+)(.+?)\\1", for_markdown(name)).groups()
    assert fence not in re.findall("`+", inside)
    assert inside.strip() == for_terminal(name)


def test_command_cannot_end_its_block():
    command = "python -m cnn_sweeps.train 'data.root=a\n```\n<script>'"
    first, *inside, last = block_for_markdown(command).splitlines()
    assert first == f"{last}bash"
    assert last not in inside


def test_page_of_a_run_names_its_data_as_code():
    dataset = replace(compose_data(), name="<b>photos</b>", source="/data/<script>")
    page = describe_run("train", "1", dataset, {"train": {"a": 1}}, part="")
    assert "`<b>photos</b>`, from `/data/<script>`" in page


def compose_data():
    return call_target("data", compose(*TINY).data)
