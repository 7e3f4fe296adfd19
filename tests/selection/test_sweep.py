"""Sweeps as a user starts them, and what they leave in the study, in MLflow and on disk."""

import csv
import html
import json
import os
import re
import shlex
import shutil
import signal
from concurrent.futures import Future
from pathlib import Path
from statistics import mean, stdev
from types import SimpleNamespace

import keras
import mlflow
import numpy as np
import pandas as pd
import psutil
import pytest
from conftest import TINY, compose
from PIL import Image
from test_batch_statistics import differences
from tiny_sweeps import (
    IN_THIS_PROCESS,
    STUDY,
    SWEEP,
    SWEEP_OF_FILTERS,
    all_runs,
    child_runs,
    command_in,
    measured_on_test,
    parent_run,
    run_of,
    started,
    study_in,
    sweep_folder,
    sweep_log,
)
from waiting import wait_until

from cnn_sweeps.data.split import split_dataset
from cnn_sweeps.evaluation.metrics import summarize
from cnn_sweeps.evaluation.per_image import in_study
from cnn_sweeps.models.layers import class_probabilities
from cnn_sweeps.selection import application
from cnn_sweeps.selection.sweep_run import SweepRun
from cnn_sweeps.settings.targets import call_target
from cnn_sweeps.sweep.jobs.choice import InThisProcess
from cnn_sweeps.sweep.space import override_text
from cnn_sweeps.sweep.study.address import parse_address
from cnn_sweeps.sweep.study.storage import selection_lock
from cnn_sweeps.system.locks import file_lock
from cnn_sweeps.text.commands import one_word_a_line
from cnn_sweeps.tracking.page import tags_of
from cnn_sweeps.tracking.record.entry import read_entries, read_record
from cnn_sweeps.tracking.usage import command_to_predict
from cnn_sweeps.tracking.views import describe_all_runs, describe_view

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def _sessions_store(store):
    mlflow.set_tracking_uri(f"sqlite:///{store}/mlflow.db")


def artifact(run, name):
    return mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=name)


def newest_run():
    return mlflow.search_runs(search_all_experiments=True, max_results=1, output_format="list")[0]


# A plain sweep.

PLAIN = [*SWEEP, IN_THIS_PROCESS, "tracking.experiment_name=plain sweep", "evaluation.pictures=best"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory, store):
    """What `python -m cnn_sweeps.train --multirun` with four trials leaves."""
    folder = tmp_path_factory.mktemp("swept")
    with command_in(folder, store) as run:
        run(*PLAIN, "hydra.sweeper.n_trials=4")
    study = study_in(folder)
    parent = parent_run(study)
    champion = mlflow.MlflowClient().get_model_version_by_alias("plain sweep-synthetic", "champion")
    return SimpleNamespace(
        folder=folder, study=study, trials=study.trials, parent=parent, children=child_runs(parent), champion=champion
    )


def test_sweep_is_one_run_that_tells_what_was_searched_and_what_came_out(swept):
    best, data = swept.study.best_trial, swept.parent.data
    assert swept.parent.info.status == "FINISHED"
    assert swept.parent.info.run_name == f"synthetic {STUDY}"
    assert (data.tags["study"], data.tags["objective"], data.tags["n_trials"]) == (STUDY, "val_log_loss", "4")
    for key in ("model.dropout", "model.l2", "optimizer.decay_rate"):
        assert key in data.tags["sweep.search_space"]
        assert key in data.tags["best.params"]
    assert data.tags["best.trial"] == str(best.number)
    assert data.metrics["best_val_log_loss"] == best.value
    counts = {key.removeprefix("trials."): value for key, value in data.metrics.items() if key.startswith("trials.")}
    assert counts == {"complete": 4, "pruned": 0, "fail": 0, "running": 0, "waiting": 0, "retried": 0}
    assert {"version.tensorflow", "mlflow.command"} <= set(data.tags)
    of_best = run_of(swept.study.best_trial)
    for name in ("final_val_log_loss", "test_accuracy"):  # so that sweeps and runs rank in one column
        assert data.metrics[name] == of_best.data.metrics[name]
    assert swept.parent.inputs.dataset_inputs[0].dataset.digest == of_best.data.tags["data.fingerprint"]


def test_page_of_a_sweep_begins_with_the_best_trial_and_the_link_to_all_then_its_test_and_its_model(swept):
    best, run_id = swept.study.best_trial, swept.parent.info.run_id
    lines = swept.parent.data.tags["mlflow.note.content"].splitlines()
    assert lines[0].startswith(f"**Best: trial {best.number}, val_log_loss {best.value:.4g}** with `dropout=")
    link = f"?workflowType=machine_learning&viewStateShareKey=sweep-{run_id}&compareRunsMode=CHART)"
    assert lines[1].rstrip().endswith(link)
    assert re.match(r"\*\*Test images\*\*: log loss 0\.\d{4} \([\d.]+ to [\d.]+\), accuracy ", lines[2])
    assert re.match(r"\*\*How sure\*\*: \d of 3 other completed trials (is|are) not clearly worse than it", lines[3])
    assert lines[4].rstrip() == "**Model**: `registered as plain sweep-synthetic version 1`"
    predict = command_to_predict("models:/plain sweep-synthetic/1", mlflow.get_tracking_uri())
    assert one_word_a_line(predict.command) in swept.parent.data.tags["mlflow.note.content"]


def test_pages_of_what_was_chosen_say_by_which_sweep_and_how_it_predicts_and_of_the_others_no_such_thing(swept):
    uri, chosen = mlflow.get_tracking_uri(), f"Chosen by the sweep `synthetic {STUDY}` out of 4 completed trials"
    best = run_of(swept.study.best_trial)
    note = best.data.tags["mlflow.note.content"]
    models = {
        note: f"runs:/{best.info.run_id}/synthetic-cnn",
        swept.champion.description: "models:/plain sweep-synthetic/1",
    }
    for page, model in models.items():
        first, *lines = page.splitlines()
        assert first.rstrip() == chosen
        assert "Test images" in "".join(lines[:2])
        assert page.count(one_word_a_line(command_to_predict(model, uri).command)) == 1
    assert note.index("predict PHOTOS") < note.index("To repeat this run")
    for run in swept.children:
        if run.info.run_id != best.info.run_id:
            note = run.data.tags["mlflow.note.content"]
            assert note.startswith("**Validation images**: ")
            assert "predict" not in note


def test_every_trial_is_a_child_run_with_its_values_and_the_study_has_what_it_reached(swept):
    assert sorted(run.data.tags["trial.number"] for run in swept.children) == ["0", "1", "2", "3"]
    for trial in swept.trials:
        (run,) = (run for run in swept.children if run.data.tags["trial.number"] == str(trial.number))
        assert run.data.tags["record.id"] == trial.user_attrs["record"]
        assert (run.info.status, run.data.tags["trial.state"]) == ("FINISHED", "COMPLETE")
        assert {key: float(run.data.params[key]) for key in trial.params} == trial.params
        assert run.data.metrics["final_val_log_loss"] == trial.value
        assert run.info.run_name.startswith(f"trial {trial.number}: dropout=")


def test_first_trial_is_the_current_configuration(swept):
    settings = compose(*TINY).settings
    assert swept.trials[0].params == {key: settings[key] for key in swept.trials[0].params}
    assert len({str(trial.params) for trial in swept.trials}) == 4
    assert all(value == float(f"{value:.4g}") for trial in swept.trials[1:] for value in trial.params.values())


def test_study_names_its_objective_for_optunas_dashboard(swept):
    assert swept.study.metric_names == ["val_log_loss"]


def test_epochs_of_every_trial_are_in_the_study(swept):
    client = mlflow.MlflowClient()
    for trial in swept.trials:
        history = client.get_metric_history(run_of(trial).info.run_id, "val_log_loss")
        assert trial.intermediate_values == {metric.step: metric.value for metric in history}
        assert sorted(trial.intermediate_values) == [1, 2]


def test_objective_is_the_first_metric_of_every_epoch(swept):
    """By which MLflow compares runs."""
    for trial in swept.trials:
        entries = [entry for entry, _ in read_entries(sweep_folder(swept.folder) / trial.user_attrs["folder"])]
        epochs = [list(entry.metrics) for entry in entries if entry.kind == "metrics"][:2]
        assert [names[:2] for names in epochs] == [["best_val_log_loss", "val_log_loss"]] * 2


def test_only_the_best_trial_is_tested(swept):
    tested = {run.data.tags["trial.number"]: measured_on_test(run) for run in swept.children if measured_on_test(run)}
    assert tested.keys() == {str(swept.study.best_trial.number)}
    assert {"test_log_loss", "test_accuracy", "test_roc_auc"} <= tested[str(swept.study.best_trial.number)]
    assert sweep_log(swept.folder).count("on the test images, once") == 1


def test_sweep_says_of_its_images_what_a_run_says_before_its_first_trial_ends(swept):
    said = [line.split(maxsplit=2)[2] for line in sweep_log(swept.folder).splitlines()]
    start = said.index("synthetic: 36 train, 12 val, 12 test images of 2 classes")
    assert said[start + 1] == "classes: stripes 0 degrees (30), stripes 90 degrees (30)"
    assert said[start + 2].startswith("trial   0 ")


def test_sweeps_run_keeps_table_report_and_log(swept):
    files = {file.path for file in mlflow.MlflowClient().list_artifacts(swept.parent.info.run_id)}
    assert files == {"trials.csv", "sweep.log", "multirun.yaml", "optimization_results.yaml", "report.html"}
    with open(artifact(swept.parent, "trials.csv"), newline="") as table:  # noqa: PTH123
        rows = list(csv.DictReader(table))
    assert [float(row["value"]) for row in rows] == [trial.value for trial in swept.trials]
    assert "user_attrs_val_images" not in rows[0]
    assert "Ranking, 4 of 4 completed trials" in sweep_log(swept.folder)


def test_trials_are_ranked_and_those_tied_with_the_best_are_noted(swept):
    best = swept.study.best_trial
    ranked = sorted(swept.trials, key=lambda trial: trial.value)
    for trial in swept.trials:
        kept = in_study(trial.user_attrs["val_images"], "val_log_loss")
        assert (len(kept.values), kept.num_images) == (12, 12)
        assert kept.values.mean() == pytest.approx(trial.value, rel=2e-3)
    noted = swept.study.user_attrs["ranking"]
    assert (noted["trials"], noted["images"], noted["tied"][0]) == (4, 12, best.number)
    with open(artifact(swept.parent, "trials.csv"), newline="") as table:  # noqa: PTH123
        rows = list(csv.DictReader(table))
    assert [int(row["number"]) for row in sorted(rows, key=lambda row: int(row["rank"]))] == [
        trial.number for trial in ranked
    ]
    assert {int(row["number"]) for row in rows if row["tied_with_best"] == "True"} == {*noted["tied"]}
    assert "clearly worse than the best on these 12 validation images (95 %)" in sweep_log(swept.folder)


def test_report_tells_what_was_found_and_how_the_champion_is_used(swept):
    page, best = Path(artifact(swept.parent, "report.html")).read_text(), swept.study.best_trial
    assert f"Trial {best.number} is the chosen one: validation log loss {best.value:.4g}" in page
    measured = read_record(sweep_folder(swept.folder) / str(best.number)).newest
    assert f"it is right in {measured['test_accuracy']:.1%} (" in page  # the interval: evaluation/test_report.py
    assert page.count("Test images: how good the network is") == 1  # of the champion's own report
    commands = re.findall(r"<pre>(.+)</pre>", page)
    assert f"model=runs:/{run_of(best).info.run_id}/synthetic-cnn" in commands[3]
    assert commands[0] == html.escape(tags_of(swept.parent)["sweep.command"], quote=False).replace("'", "&#39;")


def test_best_trials_model_is_the_champion_with_its_lineage_and_predicts_what_was_measured(swept):
    version, best = swept.champion, swept.study.best_trial
    assert version.tags["study"] == STUDY
    assert version.tags["trial.number"] == str(best.number)
    run = run_of(best)
    assert version.tags["trial.run_id"] == run.info.run_id
    assert float(version.tags["objective.value"]) == best.value
    assert version.tags["comparable.metric"] == "val_log_loss"
    model = mlflow.pyfunc.load_model(f"models:/{version.name}/{version.version}")
    data = call_target("data", compose(*TINY).data)
    test = split_dataset(data, 0.2, 0.2, 0).test
    outputs = model.predict(data.images[test].astype(np.float32))
    threshold = model.metadata.metadata["cnn_sweeps"]["decision_threshold"]
    measured = summarize(class_probabilities(outputs), data.labels[test], threshold)
    assert measured["log_loss"] == pytest.approx(run.data.metrics["test_log_loss"], rel=1e-5)
    assert measured["accuracy"] == run.data.metrics["test_accuracy"]
    assert threshold == run.data.metrics["decision_threshold"]


def test_best_value_is_told_with_what_has_chosen_it_and_the_commands_come_last(swept):
    said = sweep_log(swept.folder)
    note = "were chosen on the same validation images"
    assert said.count(note) == 1
    assert swept.parent.data.tags["mlflow.note.content"].count(note) == 1
    order = ["Ranking, 4 of 4", note, "on the test images, once", "alias champion", "The best configuration"]
    order += ["To look at the trials, ranked"]
    assert sorted(order, key=said.index) == order


def test_printed_command_of_the_best_trial_reproduces_its_value_exactly(swept, run_train):
    told = re.search(r"to run by itself:\n\S+ \S+ +(.*)", sweep_log(swept.folder))[1]
    program, *arguments = shlex.split(told)
    assert program in ("python", "train")
    run_train(*(word for word in arguments if "=" in word), "tracking.log_model=false")
    assert newest_run().data.metrics["final_val_log_loss"] == swept.study.best_value


def test_same_command_with_more_trials_goes_on_in_the_same_study_run_and_folders(swept, store):
    """Numbers go on, and the best trial is not tested again unless another one is better now."""
    before = {run.info.run_id: run.data.metrics for run in swept.children}
    first_log = (sweep_folder(swept.folder) / "0" / "train.log").read_text()
    with command_in(swept.folder, store) as run:
        run(*PLAIN, "hydra.sweeper.n_trials=5")
    study = study_in(swept.folder)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 5
    assert [trial.value for trial in study.trials[:4]] == [trial.value for trial in swept.trials]
    parent = parent_run(study)
    assert (parent.info.run_id, parent.info.status) == (swept.parent.info.run_id, "FINISHED")
    assert (parent.data.tags["n_trials"], parent.data.metrics["trials.complete"]) == ("5", 5)
    children = child_runs(parent)
    assert len(children) == 5
    assert (sweep_folder(swept.folder) / "4" / "train.log").exists()
    assert (sweep_folder(swept.folder) / "0" / "train.log").read_text() == first_log
    assert {run.info.run_id: run.data.metrics for run in children if run.info.run_id in before} == before
    tested = {run.data.tags["trial.number"] for run in children if measured_on_test(run)}
    assert tested == {str(swept.study.best_trial.number), str(study.best_trial.number)}
    said = sweep_log(swept.folder)
    assert said.count("on the test images, once") == len(tested)
    assert said.count("classes: stripes 0 degrees (30), ") == 2  # at each start
    if len(tested) == 1:
        assert f"trial {study.best_trial.number} was tested before" in said
    page = Path(artifact(parent, "report.html")).read_text()  # written anew
    assert "5 trials searched" in page
    assert page.count("how good the network is") == 1


@pytest.fixture(scope="module")
def untested(tmp_path_factory, store):
    """The study of a sweep that gives two values for a key, and whose best trial is not to be tested."""
    folder = tmp_path_factory.mktemp("untested")
    last_are_several = ["model.dropout=0.5", "++model.dropout=0.1,0.3", "model.l2=${model.dropout}"]
    experiment = "tracking.experiment_name=not/tested"  # a name that MLflow's registry would refuse
    with command_in(folder, store) as run:
        run(*SWEEP, IN_THIS_PROCESS, *last_are_several, "training.epochs=1", "evaluate_best=false", experiment)
    return study_in(folder)


def test_of_two_values_for_a_key_the_last_one_counts_and_an_interpolation_is_resolved_in_each_trial(untested):
    """As in every Hydra command."""
    trials = [run_of(trial).data.params for trial in untested.trials]
    for key in ("model.dropout", "model.l2"):
        assert [params[key] for params in trials] == ["0.1", "0.3"]


# Trials that do not complete.


def test_pruned_trials_leave_finished_runs_and_no_checkpoint_and_the_sweep_says_that_none_completed(
    run_train, tmp_path
):
    with pytest.raises(SystemExit, match=r"no trial completed: 0 completed, 2 pruned, 0 failed.*choose a more patient"):
        run_train(
            *(*SWEEP, IN_THIS_PROCESS, "hydra.sweeper.n_trials=2"),
            *("hydra/sweeper/pruner=threshold", "hydra.sweeper.pruner.upper=1e-6"),
        )
    study = study_in(tmp_path)
    assert [(trial.state.name, trial.last_step) for trial in study.trials] == [("PRUNED", 1)] * 2
    parent = parent_run(study)
    assert parent.info.status == "FAILED"
    assert parent.data.metrics["trials.pruned"] == 2
    children = child_runs(parent)
    assert [run.info.status for run in children] == ["FINISHED"] * 2
    assert [run.data.tags["trial.state"] for run in children] == ["PRUNED"] * 2
    assert not any(name.startswith(("final_", "test_")) for run in children for name in run.data.metrics)
    notes = [run.data.tags["mlflow.note.content"] for run in children]
    assert all(note.startswith("**PRUNED after epoch 1**: val_log_loss 0.") for note in notes)
    assert "no trial completed" in sweep_log(tmp_path)
    assert list((tmp_path / "outputs/checkpoints").iterdir()) == []


def test_diverging_trial_fails_with_its_reason_and_the_others_complete(run_train, tmp_path):
    run_train(*SWEEP, IN_THIS_PROCESS, "optimizer.learning_rate=1e-3,1e30,1e-2", "tracking.log_model=false")
    study = study_in(tmp_path)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert study.trials[1].user_attrs["error"].startswith("TrainingError: train_loss became nan in epoch 1")
    assert "TrainingError" in (sweep_folder(tmp_path) / "1" / "error.txt").read_text()
    assert "train_loss became nan" in sweep_log(tmp_path)
    parent = parent_run(study)
    assert parent.info.status == "FINISHED"
    assert (parent.data.metrics["trials.complete"], parent.data.metrics["trials.fail"]) == (2, 1)
    failed = run_of(study.trials[1])
    assert failed.info.status == "FAILED"
    assert failed.data.tags["error"].startswith("TrainingError: train_loss became nan")
    assert failed.data.tags["trial.state"] == "FAIL"


def test_data_that_no_trial_can_use_stop_the_sweep_in_one_line(run_train, tmp_path):
    with pytest.raises(SystemExit) as error:
        run_train(*SWEEP, IN_THIS_PROCESS, "folds=1000")
    assert re.fullmatch(r"error: 3 trials in a row failed .*DataError: folds=1000: class .*", str(error.value))
    assert "Traceback" not in sweep_log(tmp_path)
    study = study_in(tmp_path)
    assert [trial.state.name for trial in study.trials] == ["FAIL"] * 3 + ["WAITING"] * 3  # once the data are others
    parent = parent_run(study)
    assert (parent.info.status, parent.data.metrics["trials.retried"]) == ("FAILED", 3)


# Several trainings, several objectives, several chosen trials.


def test_repeats_and_folds_make_a_trial_the_mean_of_its_child_runs(run_train, tmp_path):
    run_train(*SWEEP, IN_THIS_PROCESS, "repeats=2", "folds=2", "hydra.sweeper.n_trials=1")
    study = study_in(tmp_path)
    (run,) = child_runs(parent_run(study))
    trainings = child_runs(run)
    assert [each.info.run_name for each in trainings] == [
        f"seed {seed} fold {fold} of 2" for seed in (0, 1) for fold in (1, 2)
    ]
    values = [each.data.metrics["final_val_log_loss"] for each in trainings]
    assert len(set(values)) == 4
    assert study.best_value == pytest.approx(mean(values), rel=1e-12)
    assert run.data.metrics["final_val_log_loss"] == study.best_value
    assert run.data.metrics["final_val_log_loss_se"] == pytest.approx(stdev(values) / 2)
    assert run.data.metrics["decision_threshold"] == trainings[0].data.metrics["decision_threshold"]  # which is tested
    assert (run.data.tags["trial.number"], run.data.tags["trial.state"]) == ("0", "COMPLETE")
    assert {each.info.status for each in (run, *trainings)} == {"FINISHED"}
    assert not any("trial.number" in each.data.tags or measured_on_test(each) for each in trainings)
    assert measured_on_test(run)
    assert [each.data.params["seed"] for each in trainings] == ["0", "0", "1", "1"]


def test_trial_that_clearly_loses_is_pruned_before_its_last_training(run_train, tmp_path):
    """The number of parameters differs by the same amount in every training, which is no chance."""
    run_train(
        *(*SWEEP_OF_FILTERS, IN_THIS_PROCESS, "model.filters=[4,8],[8,8]", "objective=num_parameters", "repeats=3"),
        *("training.epochs=1", "evaluate_best=false", "tracking.log_model=false"),
    )
    study = study_in(tmp_path)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED"]
    assert [len(child_runs(run_of(trial))) for trial in study.trials] == [3, 2]
    loser = run_of(study.trials[1])
    assert (loser.info.status, loser.data.tags["trial.state"]) == ("FINISHED", "PRUNED")
    assert loser.data.metrics["num_parameters"] > study.best_value


def test_several_objectives_end_in_a_pareto_front_and_its_first_trial_is_tested(run_train, tmp_path, monkeypatch):
    monkeypatch.setattr("cnn_sweeps.evaluation.pictures.write_pictures", lambda *_: [])  # of a trial: others look
    run_train(
        *(*SWEEP_OF_FILTERS, IN_THIS_PROCESS, "model.filters=[8,8],[4,8]"),
        "objective=[val_log_loss,num_parameters]",
        *("hydra.sweeper.direction=[minimize,minimize]", "tracking.log_model=false", "evaluation.pictures=best"),
    )
    study = study_in(tmp_path)
    parent = parent_run(study)
    for trial in study.trials:
        metrics = run_of(trial).data.metrics
        assert trial.values == [metrics["final_val_log_loss"], metrics["num_parameters"]]
    assert study.trials[0].values[1] > study.trials[1].values[1]
    assert parent.data.metrics["trials.complete"] == 2
    first = min(study.best_trials, key=lambda trial: trial.values[0])
    tested = [run.data.tags["trial.number"] for run in child_runs(parent) if measured_on_test(run)]
    assert tested == [str(first.number)]
    page = Path(artifact(parent, "report.html")).read_text()
    assert f"Trial {first.number} is the first on the Pareto front" in page
    assert "Pareto front" in sweep_log(tmp_path)


def test_pictures_are_of_the_trial_that_is_chosen_unless_all_or_none_are_asked_for(swept, run_train, tmp_path):
    def drawn(children):
        found = {}
        for run in children:
            files = {file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id)}
            found[run.data.tags["trial.number"]] = {"confusion_matrix.png", "reliability.png"} <= files
        return found

    best = str(swept.study.best_trial.number)
    assert drawn(swept.children) == {number: number == best for number in ("0", "1", "2", "3")}
    every = [*SWEEP, IN_THIS_PROCESS, "tracking.log_model=false", "evaluate_best=false", "training.epochs=1"]
    accuracy = ["objective=val_accuracy", "hydra.sweeper.direction=maximize", "evaluation.threshold_metric=accuracy"]
    run_train(*every, *accuracy, "hydra.sweeper.n_trials=1", "evaluation.pictures=all")
    study = study_in(tmp_path)
    assert drawn(child_runs(parent_run(study))) == {"0": True}
    for trial in study.trials:  # what is optimised is at the threshold, what pruning sees is at 0.5
        metrics = run_of(trial).data.metrics
        assert trial.value == metrics["final_val_accuracy"] >= metrics["final_val_accuracy_at_half"]
        assert trial.intermediate_values == {1: metrics["val_accuracy"]}


def test_every_trial_has_all_validation_metrics_and_what_is_tested_has_intervals(swept):
    """Which cost a trial of many images and classes seconds, and of which nobody looks at most."""
    for run in swept.children:
        assert {f"final_val_{name}" for name in ("accuracy", "f1", "roc_auc", "brier_score")} <= set(run.data.metrics)
        recorded = read_record(sweep_folder(swept.folder) / run.data.tags["trial.number"])
        bounds = {name for name in recorded.metrics if name.startswith("interval/")}  # which MLflow does not show
        assert bool(bounds) == bool(measured_on_test(run))
        assert all(name.startswith("interval/test_") for name in bounds)


def test_best_configuration_is_retrained_on_training_and_validation_images_whatever_cannot_be_drawn(
    run_train, tmp_path, monkeypatch
):
    monkeypatch.setattr("cnn_sweeps.evaluation.figures.draw_roc_curve", lambda *_: 1 / 0)
    experiment = "tracking.experiment_name=retrained"
    sweep = [*SWEEP, IN_THIS_PROCESS, experiment, "retrain_best=true", "evaluation.pictures=best"]
    run_train(*sweep, "hydra.sweeper.n_trials=1")
    study = study_in(tmp_path)
    (again,) = (run for run in child_runs(parent_run(study)) if "retrained.trial" in run.data.tags)
    best = run_of(study.best_trial)
    assert again.data.tags["retrained.trial"] == str(study.best_trial.number)
    assert again.info.run_name == f"trial {study.best_trial.number} retrained on train + validation"
    epochs = mlflow.MlflowClient().get_metric_history(again.info.run_id, "train_log_loss")
    assert [each.step for each in epochs] == list(range(1, int(best.data.metrics["best_epoch"]) + 1))
    assert not any(name.startswith(("val_", "final_val_")) for name in again.data.metrics)
    assert measured_on_test(again) >= {"test_log_loss", "test_accuracy"}

    client = mlflow.MlflowClient()
    champion, retrained = (
        client.get_model_version_by_alias("retrained-synthetic", alias) for alias in ("champion", "retrained")
    )
    assert champion.version != retrained.version
    failure = f"warning: trial {study.best_trial.number}: roc_curve.png cannot be drawn (ZeroDivisionError: division by"
    assert failure in sweep_log(tmp_path)
    assert retrained.tags["retrained.images"] == "48"  # of 60, 12 of them for the test
    data = call_target("data", compose(*TINY).data)
    test = split_dataset(data, 0.2, 0.2, 0).test
    model = mlflow.pyfunc.load_model("models:/retrained-synthetic@retrained")
    outputs = model.predict(data.images[test].astype(np.float32))
    threshold = model.metadata.metadata["cnn_sweeps"]["decision_threshold"]
    assert threshold == best.data.metrics["decision_threshold"] == again.data.metrics["decision_threshold"]
    measured = summarize(class_probabilities(outputs), data.labels[test], threshold)
    assert measured["log_loss"] == pytest.approx(again.data.metrics["test_log_loss"], rel=1e-5)
    assert measured["accuracy"] == again.data.metrics["test_accuracy"]
    kept = Path(mlflow.artifacts.download_artifacts("models:/retrained-synthetic@retrained"), "artifacts/model.keras")
    whole = np.setdiff1d(np.arange(60), test)
    assert differences(keras.saving.load_model(kept), data.images[whole]).max() < 0.01

    run_train(*sweep, "hydra.sweeper.n_trials=1")
    assert f"trial {study.best_trial.number} was retrained before" in sweep_log(tmp_path)
    assert sum("retrained.trial" in run.data.tags for run in child_runs(parent_run(study))) == 1


def test_ablation_trains_every_arm_with_every_seed_and_ends_with_a_table_and_verdicts(run_train, tmp_path):
    """Its arms are the options of a group: a parameter of the trials, and the sweep's run has what is fixed."""
    arms = ["none", "dropout", "l2", "both", "both_and_decay"]
    epochs = "training.epochs=4"  # enough for the default pruner to stop some
    smallest = ["model.filters=[4]", "model.dense_units=[4]"]  # there are five kinds of graphs
    sweep = [word for word in SWEEP if not word.startswith(("model.filters=", "model.dense_units="))]
    run_train(*sweep, *smallest, IN_THIS_PROCESS, "experiment=ablation", "seed=0,1", epochs)
    study = study_in(tmp_path)
    assert {trial.state.name for trial in study.trials} == {"COMPLETE"}
    assert [(trial.params["ablation"], trial.params["seed"]) for trial in study.trials] == [
        (arm, seed) for arm in arms for seed in (0, 1)
    ]
    expected = {
        "none": ("0.0", "0.0", "constant"),
        "dropout": ("0.5", "0.0", "constant"),
        "l2": ("0.0", "0.001", "constant"),
        "both": ("0.5", "0.001", "constant"),
        "both_and_decay": ("0.5", "0.001", "exponential"),
    }
    parent = parent_run(study)
    assert parent.info.run_name.startswith("ablation synthetic ")
    for trial in study.trials:
        run = run_of(trial)
        params = [run.data.params[key] for key in ("model.dropout", "model.l2", "optimizer.schedule")]
        assert tuple(params) == expected[trial.params["ablation"]]
        assert run.data.params["ablation"] == trial.params["ablation"]
        assert measured_on_test(run)
        assert parent.data.params.items() <= run.data.params.items()  # it has what all trials share
    assert parent.data.params["training.batch_size"] == "16"
    assert not {"ablation", "seed", "model.dropout", "model.l2", "optimizer.schedule"} & parent.data.params.keys()
    table = pd.read_csv(artifact(parent, "ablation.csv"))
    row = table[(table["arm"] == "l2") & (table["metric"] == "test_accuracy")].iloc[0]
    of_arm = [run_of(trial) for trial in study.trials if trial.params["ablation"] == "l2"]
    assert row["mean"] == pytest.approx(mean(run.data.metrics["test_accuracy"] for run in of_arm))
    assert Image.open(artifact(parent, "ablation.png")).width > 800
    page = Path(artifact(parent, "report.html")).read_text()
    assert "10 trainings compare none, dropout, l2, both, both_and_decay, with 2 seeds." in page
    assert "Two seeds are too few, so every verdict" in page
    note = parent.data.tags["mlflow.note.content"]
    short, link, *claims = note.partition("\n\n")[0].splitlines()
    assert short.rstrip() == "**Undecided: dropout, L2, both together, early stopping, decay**"
    assert link.startswith("[The trials, ranked and drawn](")
    assert [claim.partition(";")[0].rpartition(": ")[2] for claim in claims] == ["undecided"] * 5
    assert not re.search(r"\*\*best|best (trial|value)|chosen|champion", note, re.IGNORECASE)
    assert not any("best" in key or key.startswith("final_") for key in [*parent.data.tags, *parent.data.metrics])
    said = sweep_log(tmp_path)
    assert "best configuration" not in said
    assert "Expect worse" not in said
    for claim in ("Dropout narrows the gap", "Early stopping halts at the best point", "Decay of the learning rate"):
        assert len(re.findall(rf"{claim}.*: (supported|refuted|undecided);", said)) == 1


def test_champion_is_chosen_by_what_the_best_give_with_other_seeds_and_is_the_one_that_was_trained_first(
    run_train, tmp_path, monkeypatch
):
    monkeypatch.setattr(application, "NUM_SEEDS", 2)
    command = ["model.dropout=0.0,0.1,0.6", "training.epochs=1", "confirm=2", "tracking.experiment_name=confirmed"]
    run_train(*SWEEP, IN_THIS_PROCESS, *command)
    study = study_in(tmp_path)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3
    best, second, _ = sorted(study.trials, key=lambda trial: trial.value)
    parent = parent_run(study)
    assert parent.data.metrics["trials.complete"] == 3
    children = child_runs(parent)
    again = [run for run in children if "confirms.trial" in run.data.tags]
    assert sorted((run.data.tags["confirms.trial"], run.data.params["seed"]) for run in again) == sorted(
        (str(trial.number), seed) for trial in (best, second) for seed in ("1", "2")
    )
    tags = mlflow.get_experiment(parent.info.experiment_id).tags
    view = json.loads(json.loads(tags[f"mlflow.sharedViewState.sweep-{parent.info.run_id}"])["state"])
    listed = mlflow.search_runs([parent.info.experiment_id], view["searchFilter"], output_format="list")
    assert sorted(run.data.tags["trial.number"] for run in listed) == ["0", "1", "2"]
    losses = {
        trial.number: [
            run.data.metrics["final_val_log_loss"]
            for run in again
            if run.data.tags["confirms.trial"] == str(trial.number)
        ]
        for trial in (best, second)
    }
    chosen = min(losses, key=lambda number: mean(losses[number]))
    version = mlflow.MlflowClient().get_model_version_by_alias("confirmed-synthetic", "champion")
    assert version.tags["trial.number"] == str(chosen)
    assert version.tags["trial.run_id"] == run_of(study.trials[chosen]).info.run_id
    noted = study.user_attrs["ranking"]
    assert (noted["best"], noted["champion"]) == (best.number, chosen)
    called = "Best" if chosen == best.number else "Chosen"
    assert f"**{called}: trial {chosen}, val_log_loss" in parent.data.tags["mlflow.note.content"]
    assert parent.data.metrics["test_log_loss"] == run_of(study.trials[chosen]).data.metrics["test_log_loss"]
    assert {int(number): sorted(values) for number, values in noted["again"].items()} == {
        number: sorted(values) for number, values in losses.items()
    }
    of_chosen = run_of(study.trials[chosen]).data
    parent = parent_run(study)
    assert parent.data.tags["best.trial"] == str(chosen)
    for name in ("final_val_log_loss", "test_accuracy"):
        assert parent.data.metrics[name] == of_chosen.metrics[name]
    shown = describe_view(parent.info.run_id, [], ["final_val_log_loss"], ascending=True)["searchFilter"]
    ranked = mlflow.search_runs(experiment_names=["confirmed"], filter_string=shown, output_format="list")
    assert sorted(run.data.tags["trial.number"] for run in ranked) == ["0", "1", "2"]
    shown = describe_all_runs()["searchFilter"]
    of_all = mlflow.search_runs(experiment_names=["confirmed"], filter_string=shown, output_format="list")
    assert len(of_all) == len(ranked) + 1  # the sweep's own
    said = sweep_log(tmp_path)
    assert f"trial {chosen} is the best of 2 that were trained again" in said
    command = said.partition("to run by itself:")[2]
    assert f"model.dropout={study.trials[chosen].params['model.dropout']}\n" in command
    assert " confirm=" not in command  # which means nothing to a run by itself
    for run in again:
        of_trial = run_of(study.trials[int(run.data.tags["confirms.trial"])]).data.params
        assert {key for key, each in run.data.params.items() if of_trial[key] != each} == {"seed"}
        assert not measured_on_test(run)


def test_while_a_controller_tests_or_retrains_others_may_claim_trials_and_none_of_them_tests(
    run_train, tmp_path, monkeypatch
):
    address, held = parse_address(str(sweep_folder(tmp_path) / "study.journal"), STUDY), []

    def look(*_):
        with file_lock(address.lock_file("controllers"), wait=False) as is_free, selection_lock(address) as may_test:
            held.append((is_free, may_test))
        done = Future()
        done.set_result(([], {}))
        return done

    monkeypatch.setattr(InThisProcess, "call", look)
    run_train(*SWEEP, IN_THIS_PROCESS, "hydra.sweeper.n_trials=1", "training.epochs=1", "retrain_best=true")
    assert held == [(True, False)] * 2


def test_evaluate_best_false_tests_nothing_and_keeps_the_model_and_pictures_none_draws_nothing(untested):
    parent = parent_run(untested)
    files = {file.path for file in mlflow.MlflowClient().list_artifacts(parent.info.run_id)}
    assert files == {"trials.csv", "sweep.log", "multirun.yaml", "optimization_results.yaml", "report.html"}
    page = Path(artifact(parent, "report.html")).read_text()
    assert "It was not tested" not in page  # but measured on validation images, as its model is kept
    assert "Validation images: how good the network is" in page
    assert "data:image" not in page
    assert "<script" not in page
    version = mlflow.MlflowClient().get_model_version_by_alias("not-tested-synthetic", "champion")
    assert version.tags["trial.run_id"] == run_of(untested.best_trial).info.run_id
    for run in child_runs(parent):
        assert "test_" not in " ".join(run.data.metrics)
        assert not any(file.path == "test_report.txt" for file in mlflow.MlflowClient().list_artifacts(run.info.run_id))


def test_duplicate_is_recorded_once_though_the_store_is_away_and_takes_no_other_trials_place_in_the_test(
    run_train, tmp_path, monkeypatch
):
    """Points that leave out a key which has one value only are equal once they are sampled."""
    record = SweepRun.record_duplicate

    def is_away(*_, **__):
        raise ConnectionError("away")

    def record_meanwhile(self, *arguments):
        with monkeypatch.context() as patch:  # the store goes away with the run half made
            patch.setattr(mlflow.MlflowClient, "log_batch", is_away)
            return record(self, *arguments)

    monkeypatch.setattr(SweepRun, "record_duplicate", record_meanwhile)
    point, worse = "model.dropout:0.1", "model.dropout:0.5"
    run_train(
        *(*SWEEP, IN_THIS_PROCESS, "hydra.sweeper.n_trials=3", "evaluate_best=2", "tracking.log_model=false"),
        "optimizer.decay_rate=0.96",
        "hydra.sweeper.params={model.dropout:'choice(0.5,0.1)',model.l2:'choice(0.001)'}",
        f"hydra.sweeper.enqueue=[{{{point},model.l2:0.001}},{{{point}}},{{{worse}}}]",
    )
    study = study_in(tmp_path)
    original, duplicate, other = study.trials
    assert len(child_runs(parent_run(study))) == 3
    assert original.params == duplicate.params
    assert original.value == duplicate.value < other.value
    parent = parent_run(study)
    runs = {run.data.tags["trial.number"]: run for run in child_runs(parent)}
    assert runs.keys() == {"0", "1", "2"}
    assert runs["1"].info.status == "FINISHED"
    assert (runs["1"].data.tags["trial.duplicate_of"], runs["1"].data.tags["trial.state"]) == ("0", "COMPLETE")
    assert runs["1"].data.metrics["final_val_log_loss"] == duplicate.value
    assert {key: float(runs["1"].data.params[key]) for key in duplicate.params} == duplicate.params
    assert runs["1"].data.params == runs["0"].data.params  # a comparison of the two finds no difference
    assert not (sweep_folder(tmp_path) / "1/train.log").exists()
    assert {number for number, run in runs.items() if measured_on_test(run)} == {"0", "2"}


def test_test_that_was_cut_off_is_brought_to_its_end_by_the_same_command_wherever_the_trials_folders_are(
    run_train, tmp_path
):
    """As if the controller had been killed while the best trial's pictures were drawn."""
    subdir = "hydra.sweep.subdir='trial ${hydra.job.num}'"
    command = [*SWEEP, IN_THIS_PROCESS, "hydra.sweeper.n_trials=1", "tracking.log_model=false", subdir]
    run_train(*command)
    (trial,) = study_in(tmp_path).trials
    assert (sweep_folder(tmp_path) / "trial 0" / "train.log").exists()
    assert measured_on_test(run_of(trial))
    client, run_id = mlflow.MlflowClient(), run_of(trial).info.run_id
    client.update_run(run_id, status="RUNNING")
    client.set_tag(run_id, "mlflow.owner.started", "0")
    run_train(*command)
    assert client.get_run(run_id).info.status == "FINISHED"


# Worker processes.


def test_every_trial_of_a_worker_has_the_value_that_the_same_run_has_by_itself(run_train, tmp_path):
    one_worker = ["hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1"]
    run_train(*SWEEP, *one_worker, "regularization=full", "evaluate_best=false", "tracking.log_model=false")
    trials = study_in(tmp_path).trials
    owners = {run_of(trial).data.tags["mlflow.owner.pid"] for trial in trials}
    assert len(owners) == 1
    assert owners != {str(os.getpid())}
    for trial in trials:
        overrides = [override_text(key, value) for key, value in trial.params.items()]
        run_train(*TINY, "regularization=full", *overrides, "tracking.log_model=false")
        assert newest_run().data.metrics["final_val_log_loss"] == trial.value
        assert "epoch 2/2" in (sweep_folder(tmp_path) / str(trial.number) / "train.log").read_text()


def test_trial_whose_worker_is_killed_is_resumed_and_sigterm_closes_all_runs_and_leaves_the_trials_to_the_same_command(
    tmp_path, empty_database
):
    """That such sweeps end as if nothing had happened: tests/faults."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    long = ["training.epochs=10000", "training.early_stopping.enabled=false", "hydra/sweeper/pruner=none"]
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")

    def wait_for_line(number, pattern):
        log = sweep_folder(tmp_path) / str(number) / "train.log"
        says_so = lambda: log.exists() and re.search(pattern, log.read_text(), re.DOTALL)  # noqa: E731
        wait_until(lambda: process.poll() is not None or says_so(), f"trial {number}")

    with started(tmp_path, *SWEEP, *long, "hydra.sweeper.n_trials=1") as process:
        wait_for_line(0, "epoch +3/")
        (killed,) = study_in(tmp_path).trials
        worker = psutil.Process(int(run_of(killed).data.tags["mlflow.owner.pid"]))
        assert process.pid in [parent.pid for parent in worker.parents()]
        worker.send_signal(signal.SIGKILL)
        wait_for_line(1, "resuming after epoch.*epoch +[0-9]+/")
        process.terminate()
        assert process.wait() == 143

    study = study_in(tmp_path)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "FAIL", "WAITING"]
    assert [trial.user_attrs.get("retry_of") for trial in study.trials] == [None, 0, 1]
    lost, again, _ = study.trials
    assert lost.user_attrs["error"] == "the worker process died (exit code -9)"
    assert again.params == lost.params
    assert [run.info.status for run in all_runs(tmp_path)] == ["KILLED"] * 3
    assert run_of(lost).data.tags["trial.state"] == "FAIL"
    assert run_of(again).data.tags["trial.retry_of"] == "0"
    assert parent_run(study).data.metrics["trials.retried"] == 2


# What is refused before there is anything.

UNREACHABLE = "hydra.sweeper.storage=postgresql://127.0.0.1:1/x"


def refusal(run_train, *arguments):
    """Run the sweep; give the one line that refuses it."""
    with pytest.raises(SystemExit) as error:
        run_train("--multirun", IN_THIS_PROCESS, *arguments)
    message = str(error.value)
    assert message.startswith("error: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("preset", ["architecture", "optimizer", "wide"])  # the default one: in every other sweep here
def test_search_preset_passes_all_checks_and_then_alone_the_storage_is_asked(preset, run_train, tmp_path):
    assert UNREACHABLE in refusal(run_train, f"search={preset}", UNREACHABLE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.no_such=1,2"], "model.no_such"),
        (["+model.depth=1,2"], "model.depth: no such setting here"),
        (["hydra.sweeper.params={model.no_such:'choice(1,2)'}"], "model.no_such"),
        (["model.dropout=interval(0,1.5)"], "model.dropout=1.5: should be less than 1"),
        (["model.dropout=0.1,0.5,1.5"], "model.dropout=1.5: should be less than 1"),
        (["model.dropout=interval(0,1.5)", "model.l2=interval(0,1)"], "model.dropout=1.5: should be less than 1"),
        (
            ["data=synthetic", "data.image_size=8,64", "model.filters=[4],[4,8,16,32]", "model.padding=same"],
            "images of 8x8 pixels: 4 blocks",
        ),
        (
            ["model=pretrained", "data=synthetic", "data.image_size=32,64"],
            "data.image_size: the trials would have images of several sizes",
        ),
        (["model.filters=[8],[]"], "model.filters=[]"),
        (["data.num_images=interval(10.5,20)", "data=synthetic"], "data.num_images=10.5: should be a valid integer"),
        (["objective=test_accuracy"], "objective=test_accuracy: a sweep must not look at test images"),
        (["objective=val_accuracy"], "set hydra.sweeper.direction=maximize"),
        (["hydra.sweeper.direction=maximize"], "set hydra.sweeper.direction=minimize"),
        (
            ["objective=[val_log_loss,val_accuracy]"],
            "hydra.sweeper.direction=minimize: this does not fit objective=['val_log_loss', 'val_accuracy']; "
            "set hydra.sweeper.direction=[minimize,maximize]",
        ),
        (["hydra.sweeper.direction=[minimize,minimize]"], "set hydra.sweeper.direction=minimize"),
        (["model.dropout=interval(0.5,0.1)"], "model.dropout=interval(0.5,0.1): the interval is empty"),
        (["model.l2=tag(log,interval(0,0.1))"], "model.l2=tag(log,interval(0,0.1)): an interval with a log scale must"),
        (["confirm=2", "seed=0,1"], "confirm=2: this trains the best trials again with other seeds, but"),
        (["confirm=2", "objective=[val_log_loss,num_parameters]"], "confirm=2: of several objectives no trial is the"),
        (["evaluate_best=-1"], "evaluate_best=-1: should be false or a number of trials"),
        (["search=optimizer", UNREACHABLE, "model.padding=x"], "padding=x"),
        ([UNREACHABLE], "storage=postgresql://127.0.0.1:1/x: cannot be used"),
        (["tracking.uri=http://127.0.0.1:1"], "tracking.uri=http://127.0.0.1:1: the tracking server does not answer"),
        (["tracking.uri=sqlite:///no/such/folder/x.db"], "the folder of the database does not exist"),
        (["data=folder", "data.root=nowhere"], "data.root=nowhere: does not exist; name a folder of class folders"),
        (["search=nothing"], "search=nothing: no such option; allowed: ablation, architecture, optimizer"),
        (["search=regularisation"], "did you mean regularization?"),
        (["hydra/sweeper/pruner=x"], "hydra/sweeper/pruner=x: no such option"),
        (["hydra/sweeper/sampler=x"], "hydra/sweeper/sampler=x: no such option"),
        (["hydra.sweeper.enqueue=[{model.dropout:0.9}]"], "enqueue[0].model.dropout: 0.9 is not between 0.0 and 0.7"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line_before_there_is_anything(overrides, message, run_train, tmp_path):
    assert message in refusal(run_train, *overrides)
    assert list(tmp_path.iterdir()) == []


def test_password_of_a_storage_that_does_not_answer_is_not_told(run_train):
    message = refusal(run_train, "hydra.sweeper.storage='postgresql://me:secret@127.0.0.1:1/x'")
    assert "secret" not in message
