"""What is kept in MLflow, used directly: champions, children, runs that were left."""

import contextlib
import json
import shutil
import subprocess
import sys
from unittest.mock import Mock

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from records import change_owner, dead_owner

from cnn_sweeps.errors import TrackingError, TrackingOutageError
from cnn_sweeps.settings.schema import TrackingConfig
from cnn_sweeps.system.owners import owner_tags
from cnn_sweeps.tracking.database.address import find_store, is_hidden_by_old_store
from cnn_sweeps.tracking.dead_runs import close_dead_runs, tell_what_waits
from cnn_sweeps.tracking.live_run import LiveRun
from cnn_sweeps.tracking.models import address_of, register_champion
from cnn_sweeps.tracking.projection import project
from cnn_sweeps.tracking.record.entry import PARENT_TAG, RECORD_FILE, read_record
from cnn_sweeps.tracking.record.record import Record
from cnn_sweeps.tracking.store import connected, store_errors
from cnn_sweeps.tracking.views import ALL_RUNS_TAG

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def config(experiment, **changes):
    values = {"uri": None, "run_name": None, "registered_model": None, "log_model": False}
    return TrackingConfig(**values | {"experiment_name": experiment} | changes)


def experiment_id(name):
    return mlflow.get_experiment_by_name(name).experiment_id


def runs_in(experiment):
    found = mlflow.search_runs(experiment_names=[experiment], output_format="list")
    return {run.info.run_name: run for run in found}


def begun(uri, experiment, folder, tags=None):
    record = Record(folder)
    record.begin(experiment, "name", uri, tags or {})
    return record


def test_store_that_only_the_command_line_names_is_named_by_the_command_that_delivers_later(
    uri, experiment, tmp_path, caplog, monkeypatch
):
    begun(uri, experiment, tmp_path)
    mlflow.set_tracking_uri(None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # and be as it was afterwards
    project(tmp_path, uri)
    tell_what_waits(tmp_path, uri, TrackingError("it is away; start it"))
    assert f"python -m cnn_sweeps.deliver {tmp_path} tracking.uri={uri}" in caplog.text


# The champion.

COMPARABLE = {"comparable.metric": "val_log_loss", "comparable.data": "abc"}


class AnyModel(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input: list[str]) -> list[str]:
        return model_input


@pytest.fixture(scope="module")
def model_uri(store):
    """A small logged model; which one it is does not matter to the registry."""
    mlflow.set_tracking_uri(f"sqlite:///{store}/mlflow.db")
    with contextlib.chdir(store):  # where artifacts go
        mlflow.set_experiment("champions")
    with mlflow.start_run():
        return mlflow.pyfunc.log_model(name="model", python_model=AnyModel(), pip_requirements=[]).model_uri


@pytest.fixture
def register(uri, model_uri, request):
    """Register values in a model of the test's own; give the champion's version after each."""

    def register_values(*entries, minimize):
        champions = []
        for value, tags in entries:
            register_champion(request.node.name, model_uri, COMPARABLE | tags, value, "told", minimize=minimize)
            version = mlflow.MlflowClient().get_model_version_by_alias(request.node.name, "champion")
            champions.append((int(version.version), float(version.tags["objective.value"])))
        return champions

    return register_values


@pytest.mark.parametrize(("minimize", "values"), [(True, [0.5, 0.7, 0.4]), (False, [0.5, 0.4, 0.7])])
def test_first_model_is_champion_until_a_better_one_comes(register, minimize, values):
    first, worse, better = values
    champions = register((first, {}), (worse, {}), (better, {}), minimize=minimize)
    assert champions == [(1, first), (1, first), (3, better)]


def test_equal_model_does_not_take_the_champions_place(register):
    assert register((0.5, {}), (0.5, {}), minimize=True) == [(1, 0.5), (1, 0.5)]


@pytest.mark.parametrize("difference", [{"comparable.data": "def"}, {"comparable.metric": "val_accuracy"}])
def test_champion_stays_where_a_value_is_of_other_data_or_another_metric_however_good_it_is(register, difference):
    assert register((0.5, {}), (0.1, difference), minimize=True) == [(1, 0.5), (1, 0.5)]


@pytest.mark.parametrize(
    ("now", "champion"),
    [
        ({"sweep.run_id": "a", "chosen.by": "confirm=3"}, 2),
        ({"sweep.run_id": "a"}, 1),  # of other settings, say, with which it goes on
        ({"sweep.run_id": "b", "chosen.by": "confirm=3"}, 1),
        ({"sweep.run_id": "a", "chosen.by": "confirm=3", "comparable.data": "def"}, 1),
    ],
)
def test_what_a_sweep_has_chosen_by_more_than_its_value_takes_the_place_of_its_own_champion(register, now, champion):
    assert register((0.5, {"sweep.run_id": "a"}), (0.7, now), minimize=True)[1][0] == champion


def test_other_tags_do_not_make_models_incomparable_and_are_kept(register, client, request):
    assert register((0.5, {"study": "a"}), (0.7, {"study": "b"}), minimize=True) == [(1, 0.5), (1, 0.5)]
    tags = client.get_model_version(request.node.name, "2").tags
    assert tags == COMPARABLE | {"study": "b", "objective.value": "0.7"}


def test_page_of_a_version_says_what_was_measured_and_how_images_get_their_classes(register, client, request, uri):
    register((0.5, {}), minimize=True)
    about = client.get_model_version(request.node.name, "1").description
    assert about.startswith("told\n")
    model, store = f"model=models:/{request.node.name}/1", f"tracking.uri={uri}"
    assert f"python -m cnn_sweeps.predict PHOTOS \\\n  {model} \\\n  {store}\n" in about


def test_model_that_was_registered_by_a_process_that_was_killed_is_registered_once(register, client, request):
    """Before it gave the alias, or before it noted that in the study."""
    assert register((0.5, {}), (0.5, {}), (0.7, {}), (0.7, {}), minimize=True) == [(1, 0.5)] * 4
    assert len(client.search_model_versions(f"name = '{request.node.name}'")) == 2
    client.delete_registered_model_alias(request.node.name, "champion")
    assert register((0.5, {}), minimize=True) == [(1, 0.5)]


def test_what_was_registered_is_told(uri, model_uri):
    def register(tags, value):
        version, told = register_champion("told", model_uri, COMPARABLE | tags, value, "told", minimize=True)
        return address_of(version), told

    assert register({}, 0.5) == ("models:/told/1", ", alias champion")
    assert register({}, 0.7) == ("models:/told/2", "; version 1 stays champion with 0.5")
    advice = "; to replace it, move the alias in MLflow, or set tracking.registered_model to another name"
    for changed, reason in (
        ({"comparable.data": "def"}, "other images, classes or split (abc, now def)"),
        ({"comparable.metric": "val_accuracy"}, "another metric (val_log_loss, now val_accuracy)"),
    ):
        stays = "; version 1 stays champion: its objective was measured with "
        assert register(changed, 0.1)[1] == f"{stays}{reason}{advice}"


def test_champion_that_is_no_version_of_a_sweep_stays(uri, client, model_uri, request):
    """A person may have given the alias to a model of another origin."""
    client.create_registered_model(request.node.name)
    client.create_model_version(request.node.name, model_uri)
    client.set_registered_model_alias(request.node.name, "champion", "1")
    _, told = register_champion(request.node.name, model_uri, COMPARABLE, 0.5, "told", minimize=True)
    assert "version 1 stays champion: no sweep registered it" in told
    assert int(client.get_model_version_by_alias(request.node.name, "champion").version) == 1


def test_champion_stays_where_the_store_is_away_when_it_is_asked_for_it(
    register, client, model_uri, request, monkeypatch
):
    name, asked = request.node.name, mlflow.MlflowClient.get_model_version_by_alias
    register((0.5, {}), minimize=True)
    error = MlflowException("the database is locked", TEMPORARILY_UNAVAILABLE)
    monkeypatch.setattr(mlflow.MlflowClient, "get_model_version_by_alias", Mock(side_effect=error))
    with pytest.raises(TrackingOutageError):
        register_champion(name, model_uri, COMPARABLE, 0.7, "told", minimize=True)
    assert asked(client, name, "champion").version == 1
    assert len(client.search_model_versions(f"name='{name}'")) == 1


# The view of all runs.


def view_of_all(experiment):
    return mlflow.get_experiment_by_name(experiment).tags[ALL_RUNS_TAG]


def test_view_of_all_runs_is_replaced_if_an_earlier_version_has_made_it_and_never_if_a_person_has_saved_it(
    uri, experiment, client
):
    with connected(uri, experiment) as known:
        now = view_of_all(experiment)
    with connected(uri, experiment):
        assert view_of_all(experiment) == now
    of_before = {"name": "all runs", "createdAt": 1, "state": json.dumps({"searchFilter": ""})}
    client.set_experiment_tag(known, ALL_RUNS_TAG, json.dumps(of_before))
    with connected(uri, experiment):
        assert json.loads(view_of_all(experiment))["state"] == json.loads(now)["state"]
    of_a_person = json.dumps(of_before | {"updatedAt": 2}, separators=(",", ":"))  # as the page writes it
    for saved in (of_a_person, '{"searchFilter":""}'):
        client.set_experiment_tag(known, ALL_RUNS_TAG, saved)
        with connected(uri, experiment):
            assert view_of_all(experiment) == saved


# Runs that were left.


def test_only_running_runs_of_this_machines_dead_processes_are_closed(uri, experiment, client):
    owners = {
        "dead": dead_owner(),
        "number used again": owner_tags() | {"owner.started": "1000.0"},
        "living": owner_tags(),
        "on another host": dead_owner() | {"owner.host": "another-host", "owner.boot": "another"},
        "in another container of this host name": dead_owner() | {"owner.pid_namespace": "1"},
        "on another machine of this host name": dead_owner() | {"owner.boot": "another"},
        "nobody's": {},
    }
    for name, tags in owners.items():
        client.create_run(experiment_id(experiment), run_name=name, tags=tags)
    finished = client.create_run(experiment_id(experiment), run_name="finished", tags=dead_owner())
    client.set_terminated(finished.info.run_id)
    mlflow.create_experiment(f"{experiment} 2")
    other = client.create_run(experiment_id(f"{experiment} 2"), run_name="other", tags=dead_owner())

    close_dead_runs(uri, experiment_id(experiment))
    assert {name: run.info.status for name, run in runs_in(experiment).items()} == {
        **dict.fromkeys(("dead", "number used again"), "KILLED"),
        **dict.fromkeys(owners.keys() - {"dead", "number used again"}, "RUNNING"),
        "finished": "FINISHED",
    }
    assert client.get_run(other.info.run_id).info.status == "RUNNING"


def test_run_of_a_dead_process_whose_record_is_here_ends_there_as_of_its_last_entry(uri, experiment, client, tmp_path):
    record = begun(uri, experiment, tmp_path)
    record.log_metrics({"a": 1.0}, 1)
    change_owner(record.folder, dead_owner())
    run_id = project(tmp_path, uri)
    for folder in (tmp_path, tmp_path / "elsewhere"):  # that a tag names
        client.set_tag(run_id, "output.folder", str(folder))
        close_dead_runs(uri, experiment_id(experiment))
        assert client.get_run(run_id).info.status == "KILLED"
        assert (
            read_record(tmp_path).status,
            client.get_run(run_id).info.end_time >= read_record(tmp_path).last_time,
        ) == (
            "KILLED",
            True,
        )
        client.update_run(run_id, status="RUNNING")


def test_record_that_a_tag_names_and_is_of_another_run_is_left_alone(uri, experiment, client, tmp_path):
    record = begun(uri, experiment, tmp_path)
    change_owner(record.folder, dead_owner())
    before = (tmp_path / RECORD_FILE).read_bytes()
    tags = dead_owner() | {"output.folder": str(tmp_path), "record.id": "0" * 32}
    run_id = client.create_run(experiment_id(experiment), tags=tags).info.run_id
    close_dead_runs(uri, experiment_id(experiment))
    assert client.get_run(run_id).info.status == "KILLED"
    assert (tmp_path / RECORD_FILE).read_bytes() == before


BEGIN = """\
import os, signal, sys, time
from pathlib import Path

import mlflow.store.tracking.sqlalchemy_store
from cnn_sweeps.tracking.store import connected


def begin():
    pid = os.fork()
    if pid == 0:
        try:
            with connected("sqlite:///new.db", "first") as experiment_id:
                Path(f"{os.getpid()}.id").write_text(experiment_id)
            os._exit(0)
        finally:
            os._exit(1)
    return pid


killed, unfinished = begin(), Path("new.db.unfinished")
while not unfinished.exists() or unfinished.stat().st_size <= 10_000:
    time.sleep(0.001)
os.kill(killed, signal.SIGKILL)
assert os.waitpid(killed, 0)[1] == signal.SIGKILL
assert not Path("new.db").exists()
both = [begin(), begin()]
assert [os.waitpid(pid, 0)[1] for pid in both] == [0, 0]
"""


def test_processes_that_begin_at_once_after_one_was_killed_while_it_made_the_database_share_a_whole_one(tmp_path):
    subprocess.run([sys.executable, "-c", BEGIN], cwd=tmp_path, check=True)
    assert {file.name for file in tmp_path.glob("new.db*")} == {"new.db", "new.db.lock"}
    ids = [file.read_text() for file in tmp_path.glob("*.id")]
    assert ids[0] == ids[1]
    experiments = mlflow.MlflowClient(f"sqlite:///{tmp_path}/new.db").search_experiments()
    assert {each.name for each in experiments} == {"Default", "first"}


# Runs that this process makes.


def test_error_in_a_run_is_shown_on_its_page_and_fails_it_alone(uri, experiment, tmp_path):
    with at_work(uri, experiment, tmp_path / "outer"):
        with (
            pytest.raises(ValueError, match="no good"),
            at_work(uri, experiment, tmp_path / "outer/part", is_part=True),
        ):
            raise ValueError("no good")
        assert runs_in(experiment)["outer"].info.status == "RUNNING"
    runs = runs_in(experiment)
    assert (runs["part"].info.status, runs["part"].data.tags["error"]) == ("FAILED", "ValueError: no good")
    assert runs["part"].data.tags[PARENT_TAG] == runs["outer"].info.run_id
    assert runs["outer"].info.status == "FINISHED"
    assert "error" not in runs["outer"].data.tags


@pytest.mark.parametrize(
    ("end", "status"), [(KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED"), (OSError, "FAILED")]
)
def test_run_that_is_cut_off_says_how_and_keeps_its_log(end, status, uri, experiment, client, tmp_path):
    with pytest.raises(end), at_work(uri, experiment, tmp_path / "run"):
        raise end
    run = runs_in(experiment)["run"]
    assert run.info.status == status
    assert [file.path for file in client.list_artifacts(run.info.run_id, "logs/run")] == ["logs/run/train.log"]


def test_only_a_run_on_its_own_closes_what_a_dead_process_left(uri, experiment, client, tmp_path):
    """Which a sweep does, for all its trials, and once."""
    client.create_run(experiment_id(experiment), run_name="left", tags=dead_owner())
    with at_work(uri, experiment, tmp_path / "trial"):
        pass
    assert runs_in(experiment)["left"].info.status == "RUNNING"
    with at_work(uri, experiment, tmp_path / "whole", closes_others=True):
        pass
    assert runs_in(experiment)["left"].info.status == "KILLED"


@contextlib.contextmanager
def at_work(uri, experiment, folder, *, is_part=False, closes_others=False):
    folder.mkdir(parents=True)
    (folder / "train.log").write_text("epoch 1")
    run = LiveRun(folder, uri)
    with run.ending(folder / "train.log"):
        run.record.begin(experiment, folder.name, uri, {}, is_part=is_part)
        run.start(may_be_away=False, closes_others=closes_others)
        yield run


# The store.


@pytest.mark.parametrize("address", ["http://localhost:50o0", "http://my host:5000"])
def test_mistyped_address_is_told_in_one_line(address):
    with pytest.raises(TrackingError, match="the tracking server does not answer"):
        find_store(config("x", uri=address))


def test_store_is_looked_for_in_configuration_then_environment_then_here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert find_store(config("x")) == "sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert find_store(config("x")) == "sqlite:///other.db"
    assert find_store(config("x", uri="sqlite:///named.db")) == "sqlite:///named.db"
    assert list(tmp_path.iterdir()) == []


def test_home_folder_stands_for_a_tilde_in_the_address_of_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_store(config("x", uri="sqlite:///~/m.db")) == f"sqlite:///{tmp_path}/m.db"


def test_experiment_that_was_deleted_is_told_with_the_command_that_brings_it_back(uri, experiment, client):
    experiment_id = client.get_experiment_by_name(experiment).experiment_id
    client.delete_experiment(experiment_id)
    restore = f"MLFLOW_TRACKING_URI={uri} mlflow experiments restore --experiment-id {experiment_id}"
    told = f"^tracking.experiment_name={experiment}: was deleted .*`{restore}`$"
    with pytest.raises(TrackingError, match=told), connected(uri, experiment), store_errors():
        pass


def test_folder_of_artifacts_that_cannot_be_written_is_named_with_the_reason(uri, tmp_path):
    (tmp_path / "mlruns").touch()
    with (
        pytest.raises(
            TrackingOutageError, match=rf"{tmp_path}/mlruns/1, in its folder of artifacts, cannot be written"
        ),
        store_errors(),
    ):
        (tmp_path / "mlruns/1").mkdir()


def test_old_store_of_files_that_mlflow_ui_would_open_is_told_when_the_database_is_made(
    empty_database, monkeypatch, tmp_path, caplog
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cnn_sweeps.tracking.store._make_database", lambda file: shutil.copy(empty_database, file))
    (tmp_path / "mlruns/0").mkdir(parents=True)
    (tmp_path / "mlruns/.gitignore").touch()  # as in a checkout
    assert not is_hidden_by_old_store("sqlite:///mlflow.db")
    (tmp_path / "mlruns/0/meta.yaml").touch()
    for _ in range(2):
        with connected("sqlite:///mlflow.db", "x"):
            pass
    assert caplog.text.count("`mlflow ui --backend-store-uri sqlite:///mlflow.db` shows the runs") == 1
    assert not is_hidden_by_old_store("sqlite:///other.db")
