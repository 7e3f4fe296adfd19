"""A tracking server killed in the middle of a training: of the record nothing is lost, doubled or out of order."""

import contextlib
import io
import os
import re
import signal
from functools import partial

import mlflow
import pytest
from conftest import TINY
from tiny_sweeps import IN_THIS_PROCESS, STUDY, SWEEP, study_in, sweep_folder

from cnn_sweeps.deliver import deliver
from cnn_sweeps.errors import TrackingError, TrackingOutageError
from cnn_sweeps.experiment.epoch_record import EpochRecord
from cnn_sweeps.settings.schema import TrackingConfig
from cnn_sweeps.system import patience
from cnn_sweeps.tracking.outbox import Outbox
from cnn_sweeps.tracking.runs import tracked_run
from cnn_sweeps.tracking.store import is_recorded_as

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

FOUR_EPOCHS = [*TINY, "training.epochs=4", "training.early_stopping.enabled=false", "hydra.run.dir=here"]


@pytest.fixture(scope="module")
def server(tracking_server):
    """The tracking server, which these tests kill and the others find alive."""
    yield tracking_server
    if not tracking_server.answers():
        tracking_server.start()


@pytest.fixture
def train(server, run_train, monkeypatch):
    """Train with the server as the store; what `at_epoch` names is done right before an epoch is recorded."""
    if not server.answers():
        server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(patience.Backoff, "_SHORTEST_PAUSE_S", 0.1)
    add = EpochRecord.add

    def run(*arguments, at_epoch):
        def add_after(record, metrics, epoch):
            at_epoch.get(epoch, lambda: None)()
            add(record, metrics, epoch)

        monkeypatch.setattr(EpochRecord, "add", add_after)
        run_train(*arguments)

    return run


def only_run(name):
    (run,) = mlflow.search_runs(experiment_names=[name], output_format="list")
    return run


def what_deliver_says(*words):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        deliver(words)
    return said.getvalue()


def check_whole(run):
    """See that nothing of the record of four epochs is missing, and nothing is there twice."""
    client = mlflow.MlflowClient()
    for name in ("train_loss", "val_log_loss", "learning_rate"):
        history = client.get_metric_history(run.info.run_id, name)
        assert [metric.step for metric in history] == [1, 2, 3, 4]
        times = [metric.timestamp for metric in history]
        assert times == sorted(times)
        assert run.info.start_time < times[0]
        assert times[-1] <= run.info.end_time
    assert run.info.status == "FINISHED"
    assert len(client.get_metric_history(run.info.run_id, "test_accuracy")) == 1
    assert run.data.params["model.l2"]
    assert run.data.tags["mlflow.note.content"]
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "data.json", "test_report.txt", "logs"} <= files
    (kept,) = run.outputs.model_outputs
    assert mlflow.pyfunc.load_model(f"models:/{kept.model_id}").metadata.metadata["cnn_sweeps"]["image_shape"]


def test_server_that_is_restarted_during_a_training_has_all_of_it_in_the_end(train, server, tmp_path):
    train(*FOUR_EPOCHS, "tracking.experiment_name=restarted", at_epoch={2: server.kill, 4: server.start})
    check_whole(only_run("restarted"))
    said = (tmp_path / "here/train.log").read_text()
    assert said.count("the run goes on, and its record waits in") == 1
    assert said.count("the tracking store has all of the run again") == 1
    assert not (tmp_path / "here/outbox").exists()


def test_server_that_hangs_and_later_does_what_it_was_asked_has_nothing_twice(train, server, tmp_path, monkeypatch):
    """What it was sent while it hung, and what is sent again since no answer came, are the same."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    hang, wake = (partial(os.killpg, server._process.pid, number) for number in (signal.SIGSTOP, signal.SIGCONT))
    try:
        train(*FOUR_EPOCHS, "tracking.experiment_name=hung", at_epoch={2: hang, 4: wake})
    finally:
        wake()
    check_whole(only_run("hung"))
    assert not (tmp_path / "here/outbox").exists()


def test_training_ends_well_without_its_server_and_is_delivered_once_by_one_command(
    train, server, tmp_path, monkeypatch
):
    train(*FOUR_EPOCHS, "tracking.experiment_name=gone", at_epoch={2: server.kill})
    command = re.search(r"python -m cnn_sweeps.deliver (\S+)", (tmp_path / "here/train.log").read_text())
    assert command is not None
    with pytest.raises(TrackingError, match="does not answer"):
        deliver([command[1]])
    waiting = sorted(path.name for path in (tmp_path / "here/outbox").glob("*/*.json"))
    assert len(waiting) > 5

    server.start()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # the folder knows, but may be anybody's
    with pytest.raises(TrackingError, match=f"is for {server.uri}") as refused:
        deliver([command[1]])
    named = str(refused.value).split()[-1]
    assert f"entries delivered to {server.uri}" in what_deliver_says(command[1], named)
    check_whole(only_run("gone"))
    assert what_deliver_says("here") == "nothing waits to be delivered\n"
    assert not (tmp_path / "here/outbox").exists()


def test_sweep_whose_server_is_gone_keeps_its_trial_tries_others_again_and_is_finished_by_the_same_command(
    train, server, tmp_path, monkeypatch
):
    monkeypatch.setattr(patience, "PATIENCE_S", 0.3)
    command = [*SWEEP, IN_THIS_PROCESS, "hydra.sweeper.n_trials=2", "tracking.experiment_name=swept"]
    with pytest.raises(SystemExit, match="3 trials in a row failed at the same place") as error:
        train(*command, at_epoch={1: server.kill})
    assert f"hydra.sweeper.study_name={STUDY}" in str(error.value)
    first, *others = study_in(tmp_path).trials
    assert first.state.name == "COMPLETE"
    assert {trial.state.name for trial in others} == {"FAIL", "WAITING"}
    assert "does not answer" in others[0].user_attrs["error"]
    assert list(sweep_folder(tmp_path).glob("0/outbox/*/about.json"))

    server.start()
    train(*command, at_epoch={})
    complete = [trial for trial in study_in(tmp_path).trials if trial.state.name == "COMPLETE"]
    assert complete[0].number == 0
    assert len(complete) == 2
    runs = mlflow.search_runs(experiment_names=["swept"], output_format="list")
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    of_trial = {int(run.data.tags["trial.number"]): run for run in runs if "trial.number" in run.data.tags}
    assert {number: run.data.metrics["final_val_log_loss"] for number, run in of_trial.items()} == {
        trial.number: trial.value for trial in complete
    }
    assert {run.data.tags["trial.state"] for run in of_trial.values()} == {"COMPLETE"}
    assert sum("test_accuracy" in run.data.metrics for run in of_trial.values()) == 1
    assert not list(sweep_folder(tmp_path).rglob("outbox"))


def test_outbox_that_two_commands_or_two_names_lead_to_is_delivered_once(store, tmp_path, monkeypatch):
    uri = f"sqlite:///{store}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    run_id = mlflow.MlflowClient().create_run("0").info.run_id
    Outbox(tmp_path / "one", run_id).keep("tags", {"tags": {"a": "b"}})
    said = what_deliver_says(str(tmp_path), str(tmp_path / "one"), str(tmp_path / "one/outbox" / run_id))
    assert said == f"run {run_id}: 1 entries delivered to {uri}\n"
    assert mlflow.get_run(run_id).data.tags["a"] == "b"
    assert list((tmp_path / "one").iterdir()) == []


def test_run_that_is_resumed_is_running_whatever_waited_of_its_first_part(store, tmp_path):
    uri = f"sqlite:///{store}/mlflow.db"
    tracking = TrackingConfig(uri=None, experiment_name="r", run_name=None, registered_model=None, log_model=False)
    with tracked_run(uri, tracking, "r", {}, tmp_path / "first/train.log") as run_id:
        pass
    Outbox(tmp_path / "first", run_id).keep("end", {"status": "KILLED", "end_time": 1000})
    with tracked_run(uri, tracking, "r", {}, tmp_path / "second/train.log", resumed_run_id=run_id):
        assert mlflow.get_run(run_id).info.status == "RUNNING"
    assert mlflow.get_run(run_id).info.status == "FINISHED"


@pytest.mark.parametrize(
    ("given", "recorded", "is_it"),
    [
        ("http://me:secret@host:5000", "http://host:5000", True),
        ("http://host:5000", "http://host:5000", True),
        ("http://host:5001", "http://host:5000", False),
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db", True),
        ("postgresql://you:secret@host/db", "postgresql://me:***@host/db", False),
        ("", "http://host:5000", False),
    ],
)
def test_address_with_a_password_is_known_as_the_one_that_was_recorded_without(given, recorded, is_it):
    assert is_recorded_as(given, recorded) == is_it


def test_what_the_store_refuses_is_an_error_as_before_and_nothing_waits(store, tmp_path):
    mlflow.set_tracking_uri(f"sqlite:///{store}/mlflow.db")
    for kind, content in {"tags": {"tags": {"a": "b"}}, "metrics": {"metrics": [("bad$name", 1.0, 1, 1)]}}.items():
        with pytest.raises(TrackingError) as error:
            Outbox(tmp_path, "0" * 32).write(kind, content)
        assert not isinstance(error.value, TrackingOutageError)
    assert list(tmp_path.iterdir()) == []
