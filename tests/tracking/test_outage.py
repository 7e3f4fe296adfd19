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
from cnn_sweeps.experiment.recording import EpochRecorder
from cnn_sweeps.system import patience
from cnn_sweeps.tracking.database.address import is_recorded_as
from cnn_sweeps.tracking.live_run import LiveRun
from cnn_sweeps.tracking.record.position import num_waiting
from cnn_sweeps.tracking.record.record import find_records

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
    add = EpochRecorder.add

    def run(*arguments, at_epoch):
        def add_after(record, metrics, epoch, model):
            at_epoch.get(epoch, lambda: None)()
            add(record, metrics, epoch, model)

        monkeypatch.setattr(EpochRecorder, "add", add_after)
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
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        train(*FOUR_EPOCHS, "tracking.experiment_name=restarted", at_epoch={2: server.kill, 4: server.start})
    check_whole(only_run("restarted"))
    said = (tmp_path / "here/train.log").read_text()
    assert said.count("the run goes on, and its record waits in") == 1
    assert said.count("the tracking store is back and has all of the run") == 1
    assert "View run" not in printed.getvalue()  # MLflow's own
    assert num_waiting(tmp_path / "here", server.uri) == 0


def test_server_that_hangs_and_later_does_what_it_was_asked_has_nothing_twice(train, server, tmp_path, monkeypatch):
    """What it was sent while it hung, and what is sent again since no answer came, are the same."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    hang, wake = (partial(os.killpg, server._process.pid, number) for number in (signal.SIGSTOP, signal.SIGCONT))
    try:
        train(*FOUR_EPOCHS, "tracking.experiment_name=hung", at_epoch={2: hang, 4: wake})
    finally:
        wake()
    check_whole(only_run("hung"))
    assert num_waiting(tmp_path / "here", server.uri) == 0


def test_training_ends_well_without_its_server_and_is_delivered_once_by_one_command(
    train, server, tmp_path, monkeypatch
):
    train(*FOUR_EPOCHS, "tracking.experiment_name=gone", at_epoch={2: server.kill})
    told = (tmp_path / "here/train.log").read_text()
    command = re.search(r"python -m cnn_sweeps.deliver (\S+)", told)
    assert command is not None
    assert "cnn_sweeps.predict" not in told  # which would find no model yet
    with pytest.raises(TrackingError, match="does not answer"):
        deliver([command[1]])
    assert num_waiting(tmp_path / "here", server.uri) > 5

    server.start()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # the folder knows, but may be anybody's
    with pytest.raises(TrackingError, match=f"belongs to {server.uri}") as refused:
        deliver([command[1]])
    named = str(refused.value).split()[-1]
    assert f"entries delivered to {server.uri}" in what_deliver_says(command[1], named)
    check_whole(only_run("gone"))
    assert what_deliver_says("here", f"tracking.uri={server.uri}") == "nothing waits to be delivered\n"


def test_trials_that_begin_while_the_server_is_gone_are_trained_and_all_of_the_sweep_follows(
    train, server, tmp_path, monkeypatch
):
    monkeypatch.setattr(patience, "PATIENCE_S", 0.3)
    command = [*SWEEP, IN_THIS_PROCESS, "hydra.sweeper.n_trials=3", "tracking.experiment_name=swept"]
    with pytest.raises(SystemExit) as error:  # the best one cannot be tested
        train(*command, at_epoch={1: server.kill})
    assert f"hydra.sweeper.study_name={STUDY}" in str(error.value)
    trials = study_in(tmp_path).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    folders = find_records(sweep_folder(tmp_path))
    assert len(folders) == 4
    assert all(num_waiting(folder, server.uri) for folder in folders)

    server.start()
    train(*command, at_epoch={})
    runs = mlflow.search_runs(experiment_names=["swept"], output_format="list")
    assert [run.info.status for run in runs] == ["FINISHED"] * 4
    of_trial = {int(run.data.tags["trial.number"]): run for run in runs if "trial.number" in run.data.tags}
    assert {number: run.data.metrics["final_val_log_loss"] for number, run in of_trial.items()} == {
        trial.number: trial.value for trial in trials
    }
    assert {run.data.tags["trial.state"] for run in of_trial.values()} == {"COMPLETE"}
    assert len({run.data.tags["mlflow.parentRunId"] for run in of_trial.values()}) == 1
    assert sum("test_accuracy" in run.data.metrics for run in of_trial.values()) == 1
    assert not any(num_waiting(folder, server.uri) for folder in folders)


def test_record_that_two_names_lead_to_is_delivered_once(store, tmp_path, monkeypatch):
    uri = f"sqlite:///{store}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run = LiveRun(tmp_path / "one", uri)
    run.record.begin("delivered once", "a", uri, {"a": "b"})
    run.record.end("FINISHED")
    assert what_deliver_says(str(tmp_path), str(tmp_path / "one")) == f"{tmp_path}/one: 2 entries delivered to {uri}\n"
    assert only_run("delivered once").data.tags["a"] == "b"
    assert what_deliver_says(str(tmp_path)) == "nothing waits to be delivered\n"


def test_what_an_earlier_version_kept_is_refused_in_one_line(tmp_path):
    folder = tmp_path / "outbox" / ("0" * 32)
    folder.mkdir(parents=True)
    (folder / "about.json").touch()
    with pytest.raises(TrackingError, match=f"{folder}: is in the form of cnn-sweeps 0.1.0 before record.jsonl"):
        deliver([str(tmp_path)])


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


def test_what_the_store_refuses_is_told_once_and_ends_no_run_that_has_begun(store, tmp_path, caplog):
    run = LiveRun(tmp_path, f"sqlite:///{store}/mlflow.db")
    with run.ending(tmp_path / "train.log"):
        run.record.begin("refused", "a", f"sqlite:///{store}/mlflow.db", {})
        run.start(may_be_away=False)
        run.record.log_metrics({"bad$name": 1.0}, 1)
        for _ in range(3):
            run.catch_up()
    assert [record.levelname for record in caplog.records if "bad$name" in record.message] == ["WARNING"]
    with pytest.raises(TrackingError, match="1 of 1 run could not be delivered"):
        deliver([str(tmp_path), f"tracking.uri=sqlite:///{store}/mlflow.db"])


def test_run_that_ends_since_its_store_is_away_is_not_said_to_go_on(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = LiveRun(tmp_path, "http://127.0.0.1:9")
    with pytest.raises(TrackingOutageError), run.ending(tmp_path / "train.log"):
        run.record.begin("away", "a", "http://127.0.0.1:9", {})
        run.start(may_be_away=False)
    assert "once the store is back, run:" in caplog.text
    assert "the run goes on" not in caplog.text


def test_what_the_store_refuses_at_the_start_ends_the_run(store, tmp_path):
    run = LiveRun(tmp_path, f"sqlite:///{store}/mlflow.db")
    run.record.begin("refused", "a", f"sqlite:///{store}/mlflow.db", {})
    run.record.log_params({"bad$name": "a"})
    with pytest.raises(TrackingError, match=r"bad\$name"):
        run.start(may_be_away=True)
