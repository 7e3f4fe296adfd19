"""Runs and trials of several trainings that are interrupted: what was finished is kept, and nothing is there twice."""

import sys
from pathlib import Path
from unittest.mock import Mock

import mlflow
import pytest
from conftest import TINY
from tiny_sweeps import IN_THIS_PROCESS, SWEEP, child_runs, run_of, study_in, sweep_folder

from cnn_sweeps.evaluation.per_image import in_study
from cnn_sweeps.experiment import part as one_part
from cnn_sweeps.experiment import recording
from cnn_sweeps.training import loop as training

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

QUICK = ["repeats=2", "tracking.log_model=false", "training.early_stopping.enabled=false", "evaluation.pictures=none"]
VARYING = ("_s", "_s_se", "images_per_s", "percentage", "megabytes")  # what a clock measures, and of the machine


@pytest.fixture
def interrupt(monkeypatch):
    """Have this process told to end when a function is called for the n-th time, before or after it does its work."""

    def interrupt(owner, name, number=1, *, after=False):
        real, calls = getattr(owner, name), []

        def interrupted(*arguments, **named):
            calls.append(name)
            if len(calls) == number and not after:
                sys.exit(143)
            result = real(*arguments, **named)
            if len(calls) == number:
                sys.exit(143)
            return result

        monkeypatch.setattr(owner, name, interrupted)
        return lambda: monkeypatch.setattr(owner, name, real)

    return interrupt


def trained_parts(monkeypatch):
    """The seeds of the parts that are trained from now on."""
    seeds, train = [], one_part.train_part
    monkeypatch.setattr(
        one_part, "train_part", lambda part, *rest: seeds.append(part.config.seed) or train(part, *rest)
    )
    return seeds


def runs_of(experiment_name):
    """The whole runs of an experiment, oldest first."""
    found = mlflow.search_runs(
        experiment_names=[experiment_name], order_by=["attributes.start_time"], output_format="list"
    )
    return [run for run in found if "mlflow.parentRunId" not in run.data.tags]


def measured(run):
    return {name: value for name, value in run.data.metrics.items() if not name.endswith(VARYING)}


def epochs(run, metric="val_log_loss"):
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, metric)
    return {each.step: each.value for each in history}


@pytest.fixture(scope="module")
def uninterrupted(store, tmp_path_factory):
    """What a run of two trainings that is not interrupted leaves: its metrics, and those of its parts in each epoch."""
    from tiny_sweeps import command_in

    with command_in(tmp_path_factory.mktemp("uninterrupted"), store) as run_train_here:
        run_train_here(*TINY, *QUICK, "tracking.experiment_name=uninterrupted")
    (whole,) = runs_of("uninterrupted")
    return measured(whole), {part.info.run_name: (measured(part), epochs(part)) for part in child_runs(whole)}


@pytest.mark.parametrize(
    ("where", "num_trained", "num_epochs"),
    [
        ((training, "_train_epoch", 2), 2, 3),  # in the first part
        ((recording.Whole, "keep", 1), 2, 2),  # it has ended and is not kept yet
        ((recording.Whole, "keep", 1, "after"), 1, 2),  # between the parts
        ((recording, "record_start", 3), 1, 2),  # the second part's run is there, and nothing in it
        ((training, "_train_epoch", 4), 1, 1),  # in the second part
        ((recording, "average_metrics", 1), 0, 0),
    ],
)
def test_interrupted_run_goes_on_with_its_finished_parts_and_ends_as_if_it_had_not_been(
    run_train, interrupt, uninterrupted, monkeypatch, where, num_trained, num_epochs, request, tmp_path
):
    name = f"tracking.experiment_name={request.node.callspec.id}"
    owner, function, number, *after = where
    undo = interrupt(owner, function, number, after=bool(after))
    with pytest.raises(SystemExit, match="143"):
        run_train(*TINY, *QUICK, name)
    undo()
    trained = trained_parts(monkeypatch)
    monkeypatch.setattr(training, "_train_epoch", train_epoch := Mock(wraps=training._train_epoch))
    run_train(*TINY, *QUICK, name, "resume=true")
    assert trained == [0, 1][2 - num_trained :]
    assert train_epoch.call_count == num_epochs
    (whole,) = runs_of(request.node.callspec.id)
    parts = child_runs(whole)
    assert [(part.info.run_name, part.info.status) for part in parts] == [
        ("seed 0", "FINISHED"),
        ("seed 1", "FINISHED"),
    ]
    assert whole.info.status == "FINISHED"
    metrics, by_part = uninterrupted
    assert measured(whole) == metrics
    assert {part.info.run_name: (measured(part), epochs(part)) for part in parts} == by_part
    assert all("model.l2" in run.data.params for run in [whole, *parts])
    page = Path(mlflow.artifacts.download_artifacts(run_id=whole.info.run_id, artifact_path="report.html")).read_text()
    assert "Mean of 2 trainings ± its standard error: validation log loss " in page
    assert all(f"{by_part[name][0]['test_log_loss']:.4f}" in page for name in by_part)
    assert page.count("how good the network is") == 1  # of the first one
    assert list(Path(tmp_path, "outputs/checkpoints").iterdir()) == []


def test_interrupted_run_whose_evaluation_is_another_now_is_trained_again(run_train, interrupt, request):
    name = f"tracking.experiment_name={request.node.name}"
    undo = interrupt(recording.Whole, "keep", 1, after=True)
    with pytest.raises(SystemExit, match="143"):
        run_train(*TINY, *QUICK, name)
    undo()
    run_train(*TINY, *QUICK, name, "resume=true", "evaluation.threshold_metric=f1")
    assert [len(child_runs(run)) for run in runs_of(request.node.name)] == [1, 2]


@pytest.fixture
def interrupted_trial(run_train, interrupt, tmp_path):
    """The command of a sweep whose only trial was interrupted in its second training."""
    command = [
        *SWEEP,
        IN_THIS_PROCESS,
        "hydra.sweeper.n_trials=1",
        "repeats=2",
        "evaluate_best=1",
        "tracking.log_model=false",
    ]
    undo = interrupt(training, "_train_epoch", 4)
    with pytest.raises(SystemExit):
        run_train(*command)
    undo()
    (trial, waiting) = study_in(tmp_path).trials
    assert (trial.state.name, waiting.state.name) == ("FAIL", "WAITING")
    return command


def test_trial_that_is_tried_again_has_the_finished_trainings_of_the_lost_one(
    run_train, interrupted_trial, monkeypatch, tmp_path
):
    trained = trained_parts(monkeypatch)
    run_train(*interrupted_trial)
    assert trained == [1]
    lost, trial = study_in(tmp_path).trials
    assert (trial.state.name, trial.user_attrs["retry_of"]) == ("COMPLETE", lost.number)
    assert len(trial.user_attrs["objective_of_trainings"]) == 2
    assert lost.intermediate_values == trial.intermediate_values
    run = run_of(trial)
    parts = child_runs(run)
    assert [(part.info.run_name, part.info.status) for part in parts] == [
        ("seed 0", "FINISHED"),
        ("seed 1", "FINISHED"),
    ]
    losses = [part.data.metrics["final_val_log_loss"] for part in parts]
    assert trial.value == run.data.metrics["final_val_log_loss"] == sum(losses) / 2
    assert trial.user_attrs["objective_of_trainings"] == losses
    kept = in_study(trial.user_attrs["val_images"], "val_log_loss")  # of both, image by image
    assert (kept.num_images, kept.values.mean()) == (12, pytest.approx(trial.value, rel=2e-3))
    assert "test_accuracy" in run.data.metrics  # of the weights that the lost trial's training left
    assert list(Path(tmp_path, "outputs/checkpoints").iterdir()) == []


def test_trial_whose_first_trainings_weights_are_gone_trains_it_again(
    run_train, interrupted_trial, monkeypatch, tmp_path
):
    (sweep_folder(tmp_path) / "0" / "final.weights.h5").unlink()
    trained = trained_parts(monkeypatch)
    run_train(*interrupted_trial)
    assert trained == [0, 1]
    assert "test_accuracy" in run_of(study_in(tmp_path).trials[1]).data.metrics
