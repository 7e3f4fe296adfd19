"""A sweep that two hosts share: its study and its record in PostgreSQL, its files with MLflow's tracking server."""

import functools
import os
import re
import socket
import threading
import time
import unittest.mock
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mlflow
import optuna
import psutil
import pytest
from conftest import TINY, compose
from servers import started_tracking_server
from tiny_sweeps import (
    IN_THIS_PROCESS,
    STUDY,
    SWEEP,
    finish,
    measured_on_test,
    processes_in,
    started,
    sweep_folder,
    sweep_log,
    train_command,
)
from waiting import wait_until

from cnn_sweeps.errors import StudyError, TrackingError
from cnn_sweeps.experiment.recording import EpochRecorder
from cnn_sweeps.sweep.study.address import parse_address
from cnn_sweeps.sweep.study.heartbeat import sign_key
from cnn_sweeps.sweep.study.storage import open_storage
from cnn_sweeps.tracking.database.address import find_store

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

OF_STUDIES, OF_TRACKING, OF_ADMIN = "tell-nobody-studies", "tell-nobody-tracking", "tell-nobody-admin"
NUM_TRIALS = 3


@pytest.fixture(scope="module")
def places(postgres, tmp_path_factory):
    """A database of studies, and a tracking server that asks for a password and has a database of its own."""
    pytest.importorskip("flask_wtf", reason="mlflow[auth] is not installed")
    folder = tmp_path_factory.mktemp("tracking")
    studies = postgres.new_database("studies", "researcher", OF_STUDIES)
    tracking = postgres.new_database("tracking", "mlflow", OF_TRACKING)
    accounts = folder / "accounts.ini"
    function = "mlflow.server.auth:authenticate_request_basic_auth"
    accounts.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/accounts.db\n"
        f"admin_username = admin\nauthorization_function = {function}\nauth_cache_ttl_seconds = 600\n"
    )
    environment = {
        "MLFLOW_AUTH_CONFIG_PATH": str(accounts),
        "MLFLOW_AUTH_ADMIN_PASSWORD": OF_ADMIN,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a key",
    }
    options = ["--app-name", "basic-auth"]
    with started_tracking_server(folder, tracking, options=options, environment=environment) as server:
        opened = functools.cache(lambda: open_storage(parse_address(studies)))
        yield SimpleNamespace(studies=studies, opened_studies=opened, tracking=tracking, server=server)


def look_at_workers(folder, controller):
    """The command lines of a sweep's workers, and where any of its processes listens for connections."""
    titles, listening = set(), []
    for process in processes_in(folder):
        with suppress(psutil.Error):  # it has ended
            titles |= {" ".join(process.cmdline())} if process.pid != controller.pid else set()
            listening += [each.laddr for each in process.net_connections() if each.status == "LISTEN"]
    return titles, listening


@pytest.fixture(scope="module")
def shared(places, tmp_path_factory):
    """What the same command, given on two hosts at once, leaves; the second host is one by its name."""
    uri = places.server.uri.replace("://", f"://admin:{OF_ADMIN}@")
    command = [*SWEEP, f"hydra.sweeper.storage={places.studies}", f"tracking.uri={uri}"]
    command += [f"hydra.sweeper.n_trials={NUM_TRIALS}", "hydra/sweeper/pruner=none", "evaluation.pictures=none"]
    here, there = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("there")
    (there / "sitecustomize.py").write_text("import socket\nsocket.gethostname = lambda: 'there'\n")
    looks = []
    add = EpochRecorder.add

    def hosts():
        time.sleep(0.5)  # each look is a request
        trials = optuna.load_study(study_name=STUDY, storage=places.opened_studies()).trials
        return {trial.user_attrs.get("owner", {}).get("owner.host") for trial in trials}

    def add_once_both_are_there(record, metrics, epoch, model):
        wait_until(lambda: "there" in hosts() or second.poll() is not None, "a trial of the other host")
        add(record, metrics, epoch, model)

    def look():
        while second.poll() is None:
            looks.append(look_at_workers(there, second))
            time.sleep(1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{there}:{os.environ.get('PYTHONPATH', '')}")
        with started(there, *command) as second, patch.context() as of_first, unittest.mock.patch.dict(os.environ):
            looking = threading.Thread(target=look)
            looking.start()
            of_first.setattr(EpochRecorder, "add", add_once_both_are_there)
            train_command(of_first, here, here)(*command, IN_THIS_PROCESS)
            finish(there, second)
            looking.join()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        patch.setenv("MLFLOW_TRACKING_PASSWORD", OF_ADMIN)
        mlflow.set_tracking_uri(places.server.uri)
        study = optuna.load_study(study_name=STUDY, storage=open_storage(parse_address(places.studies)))
        yield SimpleNamespace(
            folders=(here, there),
            trials=study.trials,
            study_attrs=study.user_attrs,
            runs=mlflow.search_runs(search_all_experiments=True, output_format="list"),
            titles=set().union(*(titles for titles, _ in looks)),
            listening=[where for _, listening in looks for where in listening],
        )


def test_both_hosts_together_run_exactly_the_total(shared):
    assert [trial.state.name for trial in shared.trials] == ["COMPLETE"] * NUM_TRIALS
    owners = [trial.user_attrs["owner"]["owner.host"] for trial in shared.trials]
    assert set(owners) == {socket.gethostname(), "there"}
    signs = {sign_key(trial.user_attrs["owner"]) for trial in shared.trials}
    assert len(signs) == 2
    assert signs <= shared.study_attrs.keys()


def test_one_record_shows_who_ran_what_and_the_best_trial_is_tested_once(shared):
    (sweep,) = (run for run in shared.runs if "trial.number" not in run.data.tags)
    runs = {int(run.data.tags["trial.number"]): run for run in shared.runs if run is not sweep}
    assert runs.keys() == set(range(NUM_TRIALS))
    assert {run.info.status for run in shared.runs} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {sweep.info.run_id}
    for trial in shared.trials:
        assert runs[trial.number].data.tags["mlflow.owner.host"] == trial.user_attrs["owner"]["owner.host"]
        assert runs[trial.number].data.metrics["final_val_log_loss"] == trial.value
    best = min(shared.trials, key=lambda trial: trial.value)
    assert {number for number, run in runs.items() if measured_on_test(run)} == {best.number}
    assert sum(sweep_log(folder).count("on the test images, once") for folder in shared.folders) == 1
    assert len({str(trial.params) for trial in shared.trials}) == sweep.data.metrics["trials.complete"] == NUM_TRIALS
    version = mlflow.MlflowClient().get_model_version_by_alias("cnn-sweeps-synthetic", "champion")
    assert version.tags["trial.number"] == str(best.number)


def test_files_go_through_the_server_and_the_best_model_comes_back(shared, places):
    version = mlflow.MlflowClient().get_model_version_by_alias("cnn-sweeps-synthetic", "champion")
    run = mlflow.get_run(version.tags["trial.run_id"])
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    (kept,) = places.server.artifacts.rglob("model.keras")
    came_back = mlflow.artifacts.download_artifacts("models:/cnn-sweeps-synthetic@champion")
    assert Path(came_back, "artifacts/model.keras").read_bytes() == kept.read_bytes()
    assert not any((folder / "mlruns").exists() for folder in shared.folders)


def test_no_password_is_left_in_folders_databases_files_logs_or_process_titles(shared, places, postgres):
    texts = {str(file): file.read_bytes() for file in places.server.artifacts.rglob("*") if file.is_file()}
    for folder in shared.folders:
        texts |= {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    texts |= {database: postgres.dump(database).encode() for database in ("studies", "tracking")}
    texts |= {title: title.encode() for title in shared.titles}
    assert len(texts) > 50
    for secret in (OF_STUDIES, OF_TRACKING, OF_ADMIN):
        assert not [name for name, text in texts.items() if secret.encode() in text]
    hydra = sweep_folder(shared.folders[0]) / "multirun.yaml"
    assert "researcher:${oc.env:HYDRA_SWEEPER_STORAGE_PASSWORD}@127.0.0.1" in hydra.read_text()


def test_sweep_listens_nowhere(shared):
    assert re.search("spawn_main|multiprocessing.forkserver", " ".join(shared.titles))
    assert shared.listening == []


# What is refused.


def test_database_of_the_other_program_is_refused_and_left_as_it_is(places, postgres):
    with pytest.raises(StudyError, match="it holds the tables of MLflow; Optuna needs a database of its own"):
        open_storage(parse_address(places.tracking))
    open_storage(parse_address(places.studies))
    with pytest.raises(TrackingError, match="it holds the tables of Optuna; MLflow needs a database of its own"):
        find_store(replace(compose().tracking, uri=places.studies))
    assert "TABLE public.studies" not in postgres.dump("tracking")
    assert "TABLE public.experiments" not in postgres.dump("studies")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("postgresql+psycopg", "mysql+pymysql"), "its driver is not installed; pip install 'pymysql'"),
        ((OF_STUDIES, "wrong-one"), 'password authentication failed for user "researcher"'),
        (("/studies", "/nowhere"), 'database "nowhere" does not exist'),
    ],
)
def test_tracking_database_that_cannot_be_used_is_refused_in_one_line(change, told, places, run_train, tmp_path):
    uri = places.studies.replace(*change)
    with pytest.raises(SystemExit) as error:
        run_train("--multirun", IN_THIS_PROCESS, *TINY, f"tracking.uri={uri}")
    message = str(error.value)
    assert message.startswith("error: tracking.uri=")
    assert told in message
    assert "\n" not in message
    assert OF_STUDIES not in message
    assert list(tmp_path.iterdir()) == []


def test_wrong_password_of_the_tracking_server_is_refused_in_one_line(places, run_train, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong-password")
    with pytest.raises(SystemExit) as error:
        run_train("--multirun", IN_THIS_PROCESS, *TINY, f"tracking.uri={places.server.uri}")
    message = str(error.value)
    assert message.startswith(f"error: tracking.uri={places.server.uri}: cannot be used (")
    assert "401" in message
    assert "\n" not in message
