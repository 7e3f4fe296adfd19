"""A sweep's own run, its trials' ends, and its view, as the study has them."""

import json
import os
from contextlib import nullcontext
from types import SimpleNamespace

import mlflow
import optuna
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from records import change_owner, dead_owner
from test_tracking import begun, experiment_id, runs_in

from cnn_sweeps.errors import StudyError
from cnn_sweeps.experiment.notes import ABOUT_RUN, STUDY_RUN_ID
from cnn_sweeps.selection.outcome import AboutRun, Sweep
from cnn_sweeps.selection.sweep_run import SweepRun, check_no_trials_lost, name_sweep
from cnn_sweeps.sweep.study.ledger import TrialLedger
from cnn_sweeps.system import patience
from cnn_sweeps.system.owners import owner_tags
from cnn_sweeps.tracking.page import WINNER_NOTE
from cnn_sweeps.tracking.projection import project
from cnn_sweeps.tracking.record.entry import NOTE_TAG, PARENT_TAG, read_record
from cnn_sweeps.tracking.record.record import Record
from cnn_sweeps.tracking.views import describe_view

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def look(uri, experiment, tmp_path):
    """Give how a sweep is whose study has trials, and notes the run and what that is to say."""

    def look(*trials, folder="sweep", run_id=None, objectives=("val_log_loss",), name="sweep x", params=None, **tags):
        tags |= {"study": "x", NOTE_TAG: "Sweep for val_log_loss, {run_id}."}
        about = AboutRun(experiment=experiment, name=name, tags=tags, params=params or {})
        ledger = TrialLedger(minimize=True, settings_id="")
        ledger.read(trials)
        attributes = {ABOUT_RUN: about.model_dump(), STUDY_RUN_ID: run_id}
        return Sweep("x", objectives, attributes, trials, ledger, tmp_path / folder, uri)

    return look


def trial(number, state, params=(), **attributes):
    attributes |= {"error": "the worker process died (exit code -9)"} if state == "FAIL" else {}
    made = optuna.trial.create_trial(
        state=optuna.trial.TrialState[state],
        value=0.5 if state == "COMPLETE" else None,
        params=dict.fromkeys(params, 0.1),
        distributions=dict.fromkeys(params, optuna.distributions.FloatDistribution(0, 1)),
        user_attrs=attributes,
    )
    made.number = number
    return made


@pytest.mark.parametrize(
    ("study", "name"),
    [("sweep_2026-11-28_15-59-02-123456", "hotdog 28 Nov 15:59"), ("sweep_of_mine-2", "hotdog sweep_of_mine-2")],
)
def test_sweep_is_named_by_its_data_and_the_time_or_the_name_of_its_study(study, name):
    assert name_sweep("hotdog", study) == name


@pytest.mark.parametrize("is_same_folder", [True, False])
def test_sweeps_run_goes_on_as_the_same_one_with_new_tags_and_the_owner_of_now(is_same_folder, look, client):
    """Also for the controller of another host, which has a folder of its own."""
    begun_with = look(trial(0, "COMPLETE"), folder="first", n_trials="1")
    first = SweepRun(begun_with)
    first.end(begun_with, "KILLED")
    assert client.get_run(first.run_id).info.status == "KILLED"
    client.set_tag(first.run_id, "mlflow.owner.pid", "1")
    folder = "first" if is_same_folder else "second"
    again = SweepRun(look(trial(0, "COMPLETE"), folder=folder, run_id=first.run_id, n_trials="2"))
    assert again.run_id == first.run_id
    run = client.get_run(first.run_id)
    assert (run.info.status, run.info.run_name) == ("RUNNING", "sweep x")
    assert (run.data.tags["n_trials"], run.data.tags["mlflow.owner.pid"]) == ("2", str(os.getpid()))
    assert run.data.metrics["trials.complete"] == 1
    best = "**Best: trial 0, val_log_loss 0.5**  \n"
    assert run.data.tags[NOTE_TAG] == f"{best}Sweep for val_log_loss, {first.run_id}.  \n{WINNER_NOTE}"
    again.end(look(trial(0, "COMPLETE"), trial(1, "COMPLETE"), folder=folder, run_id=first.run_id), "FINISHED")
    run = client.get_run(first.run_id)
    assert (run.info.status, run.data.metrics["trials.complete"]) == ("FINISHED", 2)
    assert run.data.tags["best.trial"] == "0"


def test_controller_goes_on_with_a_run_that_another_one_of_the_same_folder_has_ended(look, client):
    first = SweepRun(look())
    run_id = first.run_id
    second = SweepRun(look(run_id=run_id))
    first.end(look(run_id=run_id), "FINISHED")
    second.update(look(trial(0, "COMPLETE"), run_id=run_id), nullcontext)
    run = client.get_run(run_id)
    assert (run.info.status, run.data.metrics["trials.complete"]) == ("RUNNING", 1)
    second.end(look(trial(0, "COMPLETE"), run_id=run_id), "FINISHED")
    assert client.get_run(run_id).info.status == "FINISHED"


def test_what_the_record_says_already_is_not_written_again(look):
    sweep = look(trial(0, "COMPLETE", ["model.l2"]), params={"seed": "0"})
    run = SweepRun(sweep)
    run.update(sweep, nullcontext)
    before = (sweep.folder / "record.jsonl").read_bytes()
    run.update(sweep, nullcontext)
    assert (sweep.folder / "record.jsonl").read_bytes() == before
    run.end(sweep, "FINISHED")


@pytest.mark.parametrize("loss", ["deleted", "in another store"])
def test_sweeps_run_that_the_store_does_not_have_is_made_anew(loss, look, client):
    known = "0" * 32
    if loss == "deleted":
        known = SweepRun(look()).run_id
        client.delete_run(known)
    again = SweepRun(look(run_id=known))
    assert again.run_id != known
    assert client.get_run(again.run_id).info.status == "RUNNING"
    again.end(look(run_id=again.run_id), "FINISHED")


def test_sweep_closes_what_dead_processes_left(look, experiment, client):
    client.create_run(experiment_id(experiment), run_name="left", tags=dead_owner())
    SweepRun(look()).end(look(), "FINISHED")
    assert runs_in(experiment)["left"].info.status == "KILLED"


def test_sweep_that_ends_closes_what_was_cut_off_in_it(look, experiment, client):
    """As after SIGTERM while a worker tested the best trial."""
    run = SweepRun(look())
    left = client.create_run(experiment_id(experiment), tags=dead_owner()).info.run_id
    run.end(look(run_id=run.run_id), "KILLED")
    assert {client.get_run(run_id).info.status for run_id in (left, run.run_id)} == {"KILLED"}


@pytest.mark.parametrize(
    ("state", "status", "told", "owner", "due"),
    [
        ("FAIL", None, "RUNNING", owner_tags, ("KILLED", "FAIL")),
        ("FAIL", "FINISHED", "COMPLETE", owner_tags, ("KILLED", "FAIL")),
        ("FAIL", "FAILED", "FAIL", owner_tags, ("FAILED", "FAIL")),
        ("COMPLETE", None, "COMPLETE", owner_tags, (None, "COMPLETE")),  # it is being tested
        ("COMPLETE", None, "COMPLETE", dead_owner, ("FINISHED", "COMPLETE")),
        ("COMPLETE", "KILLED", "COMPLETE", dead_owner, ("FINISHED", "COMPLETE")),
        ("PRUNED", "KILLED", "RUNNING", dead_owner, ("FINISHED", "PRUNED")),
        ("RUNNING", None, "RUNNING", owner_tags, (None, "RUNNING")),
    ],
)
@pytest.mark.parametrize(("is_here", "is_named"), [(True, False), (False, True)])
def test_run_of_a_trial_gets_the_end_that_the_study_has(
    is_here, is_named, state, status, told, owner, due, look, uri, experiment, client, tmp_path
):
    """From the trial's folder or, if that is on another host, in the store."""
    run = SweepRun(look())
    tags = {"trial.number": "0", "trial.state": told, PARENT_TAG: run.run_id}
    place = tmp_path / ("sweep/0" if is_here else "elsewhere")
    record = begun(uri, experiment, place, tags)
    change_owner(record.folder, owner())
    if status is not None:
        record.end(status)
    run_id = project(place, uri)
    ended = trial(0, state, **({"retried": True} if state == "FAIL" else {}))
    run.settle(look(ended, run_id=run.run_id), [ended] if is_named else None)
    if is_here:
        recorded = read_record(place)
        assert (recorded.status, recorded.tags["trial.state"]) == due
    of_trial = client.get_run(run_id)
    assert (of_trial.info.status, of_trial.data.tags["trial.state"]) == (due[0] or "RUNNING", due[1])
    is_told = (status, state) != ("FAILED", "FAIL") and state == "FAIL"
    assert of_trial.data.tags.get("error") == ("the worker process died (exit code -9)" if is_told else None)
    run.end(look(), "FINISHED")


def test_trial_that_repeats_another_is_recorded_as_a_finished_child_with_its_metrics_and_settings(
    look, uri, experiment, client, tmp_path
):
    original = trial(1, "COMPLETE", ["model.l2"], final={"final_val_log_loss": 0.5, "final_val_accuracy": 0.75})
    sweep = look(original)
    run = SweepRun(sweep)
    for params in ({"model.l2": "0.1"}, {"model.l2": "0.1", "seed": "0"}):
        record_id = run.record_duplicate(sweep, trial(3, "RUNNING", ["model.l2"]), original)
        made = client.get_run(project(tmp_path / "sweep/3", uri))
        assert (made.info.status, made.info.run_name) == ("FINISHED", "trial 3: equals trial 1")
        assert made.data.tags.items() >= {PARENT_TAG: run.run_id, "record.id": record_id, "trial.number": "3"}.items()
        assert made.data.metrics == {"final_val_log_loss": 0.5, "final_val_accuracy": 0.75}
        assert made.data.params == params
        begun(uri, experiment, tmp_path / "sweep/1").log_params({"model.l2": 0.1, "seed": 0})
    run.end(sweep, "FINISHED")


def test_store_that_is_away_is_asked_once_whatever_repeats_others_or_is_lost_meanwhile(
    look, uri, experiment, client, tmp_path, monkeypatch
):
    """Each question may take a minute, in which the controller does nothing else."""
    original, lost, asked = trial(1, "COMPLETE", ["model.l2"]), trial(2, "FAIL"), []
    sweep = look(original, lost)
    run = SweepRun(sweep)
    begun(uri, experiment, tmp_path / "sweep/2", {"trial.number": "2"})

    def is_away(*_, **__):
        asked.append(1)
        raise ConnectionError("away")

    with monkeypatch.context() as patch:
        patch.setattr(patience.Backoff, "_SHORTEST_PAUSE_S", 600.0)
        for name in ("search_runs", "get_run", "create_run", "log_batch", "get_experiment"):
            patch.setattr(mlflow.MlflowClient, name, is_away)
        for number in (3, 4):
            run.record_duplicate(sweep, trial(number, "RUNNING", ["model.l2"]), original)
        run.settle_soon(sweep, [lost])
        run.update(sweep, nullcontext)
        assert len(asked) == 1
        run.end(sweep, "FINISHED")
        assert read_record(tmp_path / "sweep/2").status == "KILLED"
    run.settle(sweep)
    runs = [client.get_run(project(tmp_path / "sweep" / name, uri)) for name in "234"]
    assert [each.info.status for each in runs] == ["KILLED", "FINISHED", "FINISHED"]


def test_parameters_of_a_sweep_are_what_is_not_searched_and_those_that_it_has_are_left_as_they_are(look, client):
    some = [trial(0, "COMPLETE", ["model.l2", "optimizer"])]
    fixed = {"seed": "0", "model.l2": "0.1", "optimizer.learning_rate": "1"}
    run = SweepRun(look())
    run.update(look(params=fixed, run_id=run.run_id), nullcontext)
    assert client.get_run(run.run_id).data.params == {}  # nobody knows yet what is searched
    for params in (fixed, fixed | {"seed": "1", "epochs": "2"}):
        run.update(look(*some, params=params, run_id=run.run_id), nullcontext)
    assert client.get_run(run.run_id).data.params == {"seed": "0", "epochs": "2"}
    run.end(look(*some, run_id=run.run_id), "FINISHED")


# What MLflow's page of the experiment lists.


def views(experiment):
    """Those that the page lists by name, and the states of the others, which only links lead to."""
    tags = mlflow.get_experiment_by_name(experiment).tags
    kept = [json.loads(text) for key, text in tags.items() if key.startswith("mlflow.sharedViewState.")]
    return {each["name"]: json.loads(each["state"]) for each in kept if "name" in each}, [
        each for each in kept if "name" not in each
    ]


def test_view_of_a_sweep_is_listed_once_and_shows_its_newest_keys(look, experiment):
    run = SweepRun(look())
    run.update(look(trial(0, "COMPLETE", ["model.l2"])), nullcontext)
    newest = look(trial(0, "COMPLETE", ["model.l2", "optimizer"]), objectives=["val_accuracy"])
    run.update(newest, nullcontext)
    listed, others = views(experiment)
    assert (list(listed), others) == (["all runs", "sweep x"], [])
    assert run.run_id in listed["sweep x"]["searchFilter"]
    assert (listed["sweep x"]["orderByKey"], listed["sweep x"]["orderByAsc"]) == ("metrics.`final_val_accuracy`", False)
    columns = ["params.`model.l2`", "params.`optimizer`", "metrics.`final_val_accuracy`"]
    assert listed["sweep x"]["selectedColumns"][:3] == columns
    assert listed["sweep x"]["selectedColumns"][-1] == "tags.`trial.state`"
    run.end(newest, "FINISHED")


def test_view_that_the_store_refuses_is_told_once_and_ends_no_sweep(look, monkeypatch, caplog):
    """As of an experiment that a person has deleted meanwhile."""
    sweep = look(trial(0, "COMPLETE", ["model.l2"]))
    run = SweepRun(sweep)

    def refuse(*_):
        raise MlflowException("deleted", INVALID_PARAMETER_VALUE)

    monkeypatch.setattr(mlflow.MlflowClient, "set_experiment_tag", refuse)
    for _ in range(2):
        run.update(sweep, nullcontext)
    assert caplog.text.count("cannot be used (deleted)") == 1
    run.end(sweep, "FINISHED")


def test_views_of_old_sweeps_are_no_longer_listed_and_a_persons_own_are_left_alone(look, experiment, client):
    own = {"name": "mine", "createdAt": 0, "state": "{}"}
    client.set_experiment_tag(experiment_id(experiment), "mlflow.sharedViewState.1234", json.dumps(own))
    run_ids = []
    for number in range(12):
        sweep = look(trial(0, "COMPLETE", ["model.l2"]), folder=str(number), name=f"sweep {number}")
        run = SweepRun(sweep)
        run.update(sweep, nullcontext)
        run.end(sweep, "FINISHED")
        run_ids.append(run.run_id)
    listed, others = views(experiment)
    assert set(listed) == {"mine", "all runs", *(f"sweep {number}" for number in range(2, 12))}
    filters = [each["searchFilter"] for each in others]
    views_of_old = [describe_view(run_id, [], ["x"], ascending=True) for run_id in run_ids[:2]]
    assert sorted(filters) == sorted(each["searchFilter"] for each in views_of_old)


def test_study_without_trials_whose_records_are_there_is_no_new_one(tmp_path):
    sweep = SimpleNamespace(name="s", trials=[], folder=tmp_path)
    for number, study in enumerate(("s", "s", "another")):
        Record(tmp_path / str(number)).begin("x", "x", "sqlite:///mlflow.db", {"study": study})
    with pytest.raises(StudyError, match=rf"s: study.journal has lost the 2 trials that have records in {tmp_path};"):
        check_no_trials_lost(sweep, "study.journal")
    check_no_trials_lost(SimpleNamespace(name="new", trials=[], folder=tmp_path), "study.journal")
