"""MLflow's database of another version, and a project's folder that was moved or copied."""

import logging
import os
import re
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import mlflow
import pytest
from commands import refusal
from conftest import TINY

from cnn_sweeps.deliver import deliver
from cnn_sweeps.doctor.__main__ import doctor
from cnn_sweeps.errors import MovedError, TrackingError, TrackingOutageError
from cnn_sweeps.settings.schema import TrackingConfig
from cnn_sweeps.tracking.database import upgrade
from cnn_sweeps.tracking.database.address import describe_store, find_existing_store, find_store
from cnn_sweeps.tracking.database.inspection import check_store
from cnn_sweeps.tracking.projection import project
from cnn_sweeps.tracking.record.record import Record

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

REVISION = "SELECT version_num FROM alembic_version"


def ask(file, statement):
    with closing(sqlite3.connect(file)) as database, database:
        return database.execute(statement).fetchall()


# Of another MLflow.


@pytest.fixture(scope="session")
def made_by_an_older_mlflow(empty_database, tmp_path_factory):
    """A database as an older MLflow has left it, with an experiment."""
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config

    file = tmp_path_factory.mktemp("older") / "mlflow.db"
    shutil.copy(empty_database, file)
    command.downgrade(_get_alembic_config(f"sqlite:///{file}"), "-2")
    ask(file, "INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (7, 'of before', 'active')")
    return file


@pytest.fixture
def old(made_by_an_older_mlflow, tmp_path):
    file = tmp_path / "mlflow.db"
    shutil.copy(made_by_an_older_mlflow, file)
    return file


def files_beside(file):
    return sorted(each.name for each in file.parent.iterdir() if not each.name.endswith(".lock"))


def test_database_of_an_older_mlflow_is_upgraded_once_a_copy_of_it_is_made(old, empty_database, caplog):
    ((revision,),) = ask(old, REVISION)
    with closing(sqlite3.connect(old)) as in_use:
        in_use.execute("SELECT * FROM experiments").fetchone()
        for _ in range(2):
            find_existing_store(f"sqlite:///{old}")
    assert ask(old, REVISION) == ask(empty_database, REVISION)
    assert mlflow.MlflowClient(f"sqlite:///{old}").get_experiment_by_name("of before").experiment_id == "7"
    copy = f"mlflow.db.before-upgrade-{revision}"
    assert files_beside(old) == ["mlflow.db", copy]
    assert ask(old.with_name(copy), REVISION) == [(revision,)]
    told = f"upgraded {old}, which an older MLflow had made; a copy of the old file is {old.with_name(copy)}"
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.INFO] == [told]


def test_of_two_processes_at_once_one_upgrades(old, empty_database):
    newest = {revision for (revision,) in ask(empty_database, REVISION)}
    with ThreadPoolExecutor(2) as both:
        assert list(both.map(upgrade.upgrade, [old, old], [newest, newest])) == [None, None]
    assert len(files_beside(old)) == 2
    assert ask(old, REVISION) == ask(empty_database, REVISION)


def test_upgrade_that_fails_or_is_killed_leaves_the_database_as_it_was(old, empty_database, monkeypatch):
    before = old.read_bytes()

    def fail(_engine):
        raise ValueError("no such column")

    def end(_engine):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(upgrade, "_upgrade_db", fail)
        with pytest.raises(TrackingError, match=r"MLflow cannot upgrade .* \(ValueError: no such column\); it stays"):
            find_existing_store(f"sqlite:///{old}")
        patch.setattr(upgrade, "_upgrade_db", end)
        with pytest.raises(KeyboardInterrupt):
            find_existing_store(f"sqlite:///{old}")
    assert old.read_bytes() == before
    find_existing_store(f"sqlite:///{old}")
    assert ask(old, REVISION) == ask(empty_database, REVISION)


def test_database_that_is_no_file_is_left_to_its_owner_with_the_command(old):
    with pytest.raises(TrackingError, match=f"was made by an older MLflow .*`mlflow db upgrade sqlite:///{old}`"):
        check_store(f"sqlite:///{old}", None, None, None)
    assert files_beside(old) == ["mlflow.db"]


def test_database_of_a_newer_mlflow_is_told_with_the_way_out(old):
    ask(old, "UPDATE alembic_version SET version_num = 'ffffffffffff'")
    told = r"was made by a newer MLflow than the installed .* \(revision ffffffffffff\); run `pip install --upgrade"
    with pytest.raises(TrackingError, match=told):
        find_existing_store(f"sqlite:///{old}")


# Where the files of new runs cannot be written.


@pytest.fixture
def here(empty_database, tmp_path, monkeypatch):
    """The working folder, with a database of its own."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_database, "mlflow.db")
    return tmp_path


@pytest.mark.parametrize("is_known", [True, False])
def test_run_is_refused_before_training_where_its_files_cannot_be_written(is_known, here, run_train, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    if is_known:
        mlflow.MlflowClient(f"sqlite:///{here}/mlflow.db").create_experiment("known", str(here / "elsewhere/files"))
    place = "elsewhere" if is_known else "mlruns"
    (here / place).touch()
    told = f"tracking.uri=sqlite:///mlflow.db: {here}/{place}.*, the folder for files of experiment known, cannot be "
    with pytest.raises(SystemExit, match=rf"{told}written \(Not a directory\); make it a writable folder"):
        run_train(*TINY, "tracking.experiment_name=known", "hydra.run.dir=run")
    assert not (here / "run/record.jsonl").exists()


def test_folder_of_files_that_this_user_may_not_write_is_told_as_such(here, closed, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    mlflow.MlflowClient(f"sqlite:///{here}/mlflow.db").create_experiment("known", closed.as_uri())
    config = TrackingConfig(None, "known", None, None, log_model=False)
    with pytest.raises(TrackingOutageError, match=f"{closed}, the .* cannot be written .Permission denied.; make"):
        find_store(config)


# A server of another MLflow.


@pytest.mark.parametrize(
    ("version", "told"), [("3.10.1", ["MLflow 3.10.1", "MLflow 3.15"]), ("3.15.0rc1", []), ("4.0", []), ("", [])]
)
def test_server_whose_pages_cannot_rank_runs_is_told_in_one_line(version, told):
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if version else 401)
            self.end_headers()
            self.wfile.write(version.encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server, ThreadPoolExecutor() as threads:
        threads.submit(server.handle_request)
        lines = describe_store(f"http://127.0.0.1:{server.server_port}")
    assert re.findall(r"MLflow [\d.]+\d", " ".join(lines)) == told
    assert len(lines) == bool(told)


# Moved, or copied.


@pytest.fixture(scope="session")
def made_project(empty_database, tmp_path_factory):
    """A project's folder with a database, and a run in it with a file and a registered model."""
    folder = tmp_path_factory.mktemp("projects") / "made"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copy(empty_database, "mlflow.db")
        write_run(Path("outputs/first"))
        client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
        client.create_experiment("addressed", artifact_location=(folder / "ad dressed").as_uri())
        client.create_run(client.get_experiment_by_name("addressed").experiment_id)
        client.create_registered_model("champions")
        client.create_model_version("champions", str(folder / "mlruns/1/models"))
    return folder


def write_run(folder):
    """Record a run with a file, and bring it to the database of the working folder; give its id."""
    record, uri = Record(folder), f"sqlite:///{Path.cwd()}/mlflow.db"  # MLflow keeps what it opened as mlflow.db
    record.begin("moved", "run", uri, {})
    (folder / "kept.txt").write_text(str(folder))
    record.log_files([folder / "kept.txt"])
    record.end("FINISHED")
    return project(folder, uri)


@pytest.fixture
def project_in(made_project, tmp_path, monkeypatch):
    """Give the project in a folder of this test, as if it had been made there, which is the working one."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(made_project, tmp_path / "a")
    monkeypatch.chdir(tmp_path / "a")
    doctor(["--fix"])
    for copy in Path().glob("mlflow.db.before-*"):
        copy.unlink()
    return tmp_path


def places():
    """All places that the database of the working folder names."""
    columns = ["artifact_location FROM experiments", "artifact_uri FROM runs", "storage_location FROM model_versions"]
    return {place for column in columns for (place,) in ask("mlflow.db", f"SELECT {column}")}


def texts():
    """The contents of the file of each run, as MLflow gives them."""
    client = mlflow.MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("moved").experiment_id])
    return {mlflow.artifacts.load_text(f"{run.info.artifact_uri}/kept.txt") for run in runs}


def test_moved_project_is_told_and_one_command_brings_what_mlflow_stored_along(project_in, monkeypatch, capsys):
    before, now = project_in / "a", project_in / "b"
    before.rename(now)
    monkeypatch.chdir(now)
    command = "python -m cnn_sweeps.doctor --fix"
    told = f"^tracking.uri=sqlite:///mlflow.db: has paths of files below {before}, .*`{command}` changes these"
    with pytest.raises(MovedError, match=told):
        find_existing_store(None)
    with pytest.raises(SystemExit) as end:
        doctor([])
    assert end.value.code == 2
    assert f"for --fix: mlflow.db has paths of files below {before}, from where" in capsys.readouterr().out
    doctor(["--fix"])
    assert find_existing_store(None) == "sqlite:///mlflow.db"
    moved = [place for place in places() if place.removeprefix("file://").startswith(f"{now}/")]
    assert f"file://{now}/ad%20dressed" in moved
    assert len(moved) == 5  # three experiments, a run, a model; the other run's is in the second form
    assert not any(str(before) in place for place in places())
    assert texts() == {"outputs/first"}
    assert str(before) in str(ask("mlflow.db.before-move", "SELECT artifact_uri FROM runs"))
    doctor([])
    assert capsys.readouterr().out.endswith("sqlite:///mlflow.db: nothing is wrong\n")
    deliver(["outputs"])
    assert capsys.readouterr().out == "nothing waits to be delivered\n"


def test_copy_of_a_project_writes_nothing_into_the_files_of_the_original(project_in, monkeypatch, run_train):
    original, copy = project_in / "a", project_in / "copy"
    shutil.copytree(original, copy)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # of `run_train`
    monkeypatch.chdir(copy)
    files = sorted(original.rglob("*"))
    with pytest.raises(SystemExit, match=f"below {original}, from where it was moved or copied"):
        run_train(*TINY)
    doctor(["--fix"])
    write_run(Path("outputs/second"))
    assert texts() == {"outputs/first", "outputs/second"}
    assert sorted(original.rglob("*")) == files
    assert len(list(Path("mlruns/1").glob("*/artifacts/kept.txt"))) == 2


def test_database_that_came_without_the_files_is_told_too(project_in, monkeypatch):
    alone = project_in / "alone"
    alone.mkdir()
    (project_in / "a/mlflow.db").rename(alone / "mlflow.db")
    shutil.rmtree(project_in / "a")
    monkeypatch.chdir(alone)
    assert refusal(deliver, "nowhere") == "nowhere: there is no such folder; give the folder of the runs, e.g. outputs"
    with pytest.raises(MovedError, match=f"below {project_in}/a, .* to {alone}$"):
        find_existing_store(None)


def test_project_that_is_reached_by_a_link_was_not_moved(project_in, monkeypatch):
    (project_in / "link").symlink_to("a")
    assert find_existing_store(f"sqlite:///{project_in}/link/mlflow.db")
    monkeypatch.setenv("PWD", str(project_in / "link"))
    os.chdir(project_in / "link")
    assert find_existing_store(None)


def test_project_of_the_root_folder_as_in_a_container_is_brought_along_alone(project_in):
    run_id = next(Path("mlruns/1").glob("*/artifacts")).parent.name
    ask("mlflow.db", "UPDATE experiments SET artifact_location = '/mlruns/1' WHERE experiment_id = 1")
    ask("mlflow.db", f"UPDATE runs SET artifact_uri = '/mlruns/1/{run_id}/artifacts' WHERE run_uuid = '{run_id}'")
    ask("mlflow.db", "UPDATE model_versions SET storage_location = '/elsewhere/models'")
    before = places()
    doctor(["--fix"])
    added = {f"{project_in}/a/mlruns/1", f"{project_in}/a/mlruns/1/{run_id}/artifacts"}
    assert places() == {place for place in before if not place.startswith("/mlruns")} | added


def test_database_of_elsewhere_was_not_moved_whatever_runs_the_working_folder_has(project_in, monkeypatch):
    other = project_in / "other"
    (other / "mlruns/1/0123456789abcdef0123456789abcdef/artifacts").mkdir(parents=True)
    monkeypatch.chdir(other)
    assert find_existing_store(f"sqlite:///{project_in}/a/mlflow.db")
