"""`python -m cnn_sweeps.predict`: which model, which images, what comes of them, and what is refused."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest
import yaml
from commands import SLOW, refusal, started_command
from kept_models import copy_model, outputs_for
from PIL import Image

from cnn_sweeps.models import classification_head
from cnn_sweeps.predict import predict
from cnn_sweeps.text.numbers import probability_text
from cnn_sweeps.tracking.models import ModelFacts, find_model, log_model
from cnn_sweeps.tracking.projection import project
from cnn_sweeps.tracking.record.record import Record

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CLASSES = ["stripes 0 degrees", "stripes 90 degrees"]


@pytest.fixture
def uri(store, kept_run, tmp_path, monkeypatch):
    """The setting that names the store of the kept models; the working folder holds none."""
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{store}/mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # which MLflow sets, too
    return f"tracking.uri=sqlite:///{store}/mlflow.db"


@pytest.fixture(scope="module")
def model_of_three(store, kept_run, tmp_path_factory):
    """The address of a kept model of three classes."""
    inputs = keras.Input((8, 8, 3))
    network = keras.Model(inputs, classification_head(keras.layers.Flatten()(inputs), 3))
    record, uri = Record(tmp_path_factory.mktemp("three")), f"sqlite:///{store}/mlflow.db"
    record.begin("kept", "three", uri, {})
    about = ModelFacts(("ant", "bee", "cow"), (8, 8, 3), None, "0 to 255")
    log_model(record, "three", network, about, np.zeros((1, 8, 8, 3), np.uint8))
    record.end("FINISHED")
    run_id = project(record.folder, uri)
    assert run_id is not None
    return find_model(run_id)


def read_json(file):
    return json.loads(Path(file).read_text())


def test_images_are_prepared_as_in_training_and_get_the_class_of_the_kept_threshold(photos, uri, kept_run):
    folder, files = photos
    predict([str(folder), f"model=runs:/{kept_run.info.run_id}/model", uri, "--json", "table.json"])
    table = read_json("table.json")
    second = outputs_for(kept_run, files)[:, 0]
    assert [row["file"] for row in table] == [str(file) for file in files]
    np.testing.assert_allclose([row["probabilities"][CLASSES[1]] for row in table], second, atol=1e-6)
    threshold = kept_run.data.metrics["decision_threshold"]
    assert [row["class"] for row in table] == [CLASSES[int(probability >= threshold)] for probability in second]
    assert all(row["probability"] == row["probabilities"][row["class"]] for row in table)


@pytest.mark.parametrize("named", ["tiniest", "models:/tiny@tiniest", "models:/tiny/1", "run", "model", "folder"])
def test_model_is_found_by_alias_version_run_or_folder(named, photos, uri, kept_run, tmp_path):
    run_id, model_id = kept_run.info.run_id, kept_run.outputs.model_outputs[0].model_id
    by_run = {"run": f"runs:/{run_id}/model", "model": f"models:/{model_id}", "folder": "copy"}
    if named == "folder":
        copy_model(kept_run, tmp_path / "copy")
        uri = "tracking.uri=sqlite:///nowhere.db"  # which is not needed
    predict([str(photos[0]), f"model={by_run.get(named, named)}", uri, "--json", "table.json"])
    second = outputs_for(kept_run, photos[1])[:, 0]
    found = [row["probabilities"][CLASSES[1]] for row in read_json("table.json")]
    np.testing.assert_allclose(found, second, atol=1e-6)


def test_store_is_only_read(photos, uri, kept_run):
    folder = Path(mlflow.get_experiment(kept_run.info.experiment_id).artifact_location.removeprefix("file://"))
    before = sorted(folder.rglob("*"))
    predict([str(photos[1][0]), "model=models:/tiny/1", uri])
    assert before
    assert sorted(folder.rglob("*")) == before


def test_table_on_the_terminal_ends_with_counts(photos, uri, capsys):
    folder, files = photos
    predict([str(folder), "model=tiniest", uri])
    header, *rows, summary = capsys.readouterr().out.splitlines()
    assert header.split() == ["file", "class", "probability"]
    assert [re.split("  +", row)[0] for row in rows] == [str(file) for file in files]
    chosen = [re.split("  +", row)[1] for row in rows]
    counts = [f"{name} ({chosen.count(name)})" for name in CLASSES if name in chosen]
    assert summary.startswith("12 images: ")
    assert set(summary.removeprefix("12 images: ").partition("; ")[0].split(", ")) == set(counts)
    assert "stripes 90 degrees if its probability is at least " in summary


def test_csv_has_the_probabilities_of_many_classes(photos, uri, model_of_three, capsys):
    folder = mlflow.artifacts.download_artifacts(model_of_three)
    predict([str(photos[0]), f"model={folder}", "--csv", "table.csv"])
    with Path("table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "class", "probability", *(f"probability.{name}" for name in ("ant", "bee", "cow"))]
    for row in rows:
        probabilities = {name: float(row[f"probability.{name}"]) for name in ("ant", "bee", "cow")}
        assert sum(probabilities.values()) == pytest.approx(1)
        assert row["class"] == max(probabilities, key=probabilities.get)
        assert float(row["probability"]) == max(probabilities.values())
    assert capsys.readouterr().out.startswith("12 images: ")


def test_second_class_is_chosen_from_the_recorded_threshold_on(photos, uri, kept_run, tmp_path, capsys):
    about = copy_model(kept_run, tmp_path / "copy") / "MLmodel"
    content = yaml.safe_load(about.read_text())
    lowest = float(outputs_for(kept_run, photos[1]).min())
    content["metadata"]["cnn_sweeps"]["decision_threshold"] = lowest / 2
    about.write_text(yaml.safe_dump(content))
    predict([str(photos[0]), "model=copy", "--json", "table.json"])
    assert {row["class"] for row in read_json("table.json")} == {CLASSES[1]}
    at_least = probability_text(lowest / 2)
    summary = f"12 images: {CLASSES[1]} (12); {CLASSES[1]} if its probability is at least {at_least}\n"
    assert capsys.readouterr().out == summary


def test_bad_files_are_named_and_left_out_and_the_others_predicted(photos, uri, capsys):
    album = Path(shutil.copytree(photos[0], "album"))
    (album / "album 0/broken.jpg").write_bytes(b"no image")
    (album / "empty.png").write_bytes(b"")
    message = refusal(predict, album, "model=tiniest", uri, "--csv", "table.csv")
    assert message == "2 of 14 files are no usable images and were left out, as named"
    told = capsys.readouterr().err.splitlines()
    assert told == [
        f"left out: {album}/album 0/broken.jpg is no image of a known format",
        f"left out: {album}/empty.png is empty",
    ]
    assert len(Path("table.csv").read_text().splitlines()) == 13
    assert not list(Path().glob(".*unfinished"))


def test_links_out_of_a_folder_and_pictures_too_large_are_named_and_left_out(photos, uri, capsys):
    album, outside = Path(shutil.copytree(photos[0], "album")), photos[1][0]
    (album / "inside.png").symlink_to("album 0/00.png")
    (album / "outside.png").symlink_to(outside)
    Image.new("1", (100_000, 1)).save(album / "wide.png")
    message = refusal(predict, album, "model=tiniest", uri, "--csv", "table.csv")
    assert message == "2 of 15 files are no usable images and were left out, as named"
    assert capsys.readouterr().err.splitlines() == [
        f"left out: {album}/outside.png is a link out of the folder, to {outside}",
        f"left out: {album}/wide.png is too large (100,000 x 1 pixels; at most 65,535 a side)",
    ]
    predict([str(album / "outside.png"), "model=tiniest", uri])  # a link that is named is meant


def test_folder_of_nothing_but_links_out_of_it_is_told_in_one_line(photos, uri, capsys):
    Path("links").mkdir()
    Path("links/file.png").symlink_to(photos[1][0])
    Path("links/folder").symlink_to(photos[0])
    message = refusal(predict, "links", "model=tiniest", uri)
    assert message == "2 of 2 files are no usable images and were left out, as named"
    told = capsys.readouterr().err.splitlines()
    assert told == [
        f"left out: links/file.png is a link out of the folder, to {photos[1][0]}",
        f"left out: links/folder is a link out of the folder, to {photos[0]}",
    ]


def test_named_pipe_is_named_and_not_waited_for(photos, uri, capsys):
    os.mkfifo("pipe.png")
    message = refusal(predict, "pipe.png", photos[1][0], "model=tiniest", uri, "--csv", "table.csv")
    assert message == "1 of 2 files is no usable image and was left out, as named"
    assert capsys.readouterr().err == "left out: pipe.png is a named pipe, not a file\n"
    assert len(Path("table.csv").read_text().splitlines()) == 2


def test_images_and_folders_are_taken_once_each_in_their_order(photos, uri):
    folder, files = photos
    arguments = [str(files[5]), "model=tiniest", str(folder), uri, "--json", "table.json", str(files[5])]
    predict(arguments)
    assert [row["file"] for row in read_json("table.json")] == [
        str(file) for file in [files[5], *(file for file in files if file != files[5])]
    ]


def test_table_that_is_there_is_replaced_only_by_a_whole_one(photos, uri, monkeypatch):
    Path("table.csv").write_text("older")
    monkeypatch.setattr("cnn_sweeps.use.output._rounded", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predict([str(photos[0]), "model=tiniest", uri, "--csv", "table.csv"])
    assert [file.name for file in Path().iterdir()] == ["table.csv"]
    assert Path("table.csv").read_text() == "older"


# Models that there are not, or that cannot be used.


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("nobody", r"model=nobody: there is no such alias; registered are .*tiny \(@tiniest\).*; give an alias"),
        ("0" * 32, "model=0+: there is no such alias; registered are .*, runs:/ID/NAME"),
        ("models:/tiny@nobody", r"model=models:/tiny@nobody: there is no such model; registered are .*tiny \(@tiniest"),
        ("models:/none@tiniest", "model=models:/none@tiniest: there is no such model; registered are "),
        ("models:/tiny/7", "model=models:/tiny/7: there is no such model; registered are "),
        ("models:/tiny", "model=models:/tiny: there is no such model; registered are "),
        ("models:/none/1", "model=models:/none/1: there is no such model; registered are "),
        ("models:/", "model=models:/: there is no such model; registered are "),
        ("runs:/" + "0" * 32 + "/model", "model=runs:/0+/model: there is no such model; registered are "),
        ("tiny/1", "model=tiny/1: there is no such folder; give an alias"),
        ("no/such/folder", "model=no/such/folder: there is no such folder; give an alias"),
        ("./", "model=./: there is no MLmodel in it; give an alias"),
    ],
)
def test_model_that_there_is_not_is_told(named, message, photos, uri):
    assert re.match(message, refusal(predict, photos[0], f"model={named}", uri))


def test_alias_that_two_models_have_needs_a_name(photos, uri, kept_run):
    client = mlflow.MlflowClient()
    for name in ("first of two", "second of two"):
        mlflow.register_model(f"models:/{kept_run.outputs.model_outputs[0].model_id}", name)
        client.set_registered_model_alias(name, "both", "1")
    assert refusal(predict, photos[0], "model=both", uri) == (
        "model=both: first of two, second of two have this alias; give model=models:/first of two@both"
    )


@pytest.mark.parametrize("named", ["model", "version"])
def test_model_whose_maker_keeps_it_on_another_server_gets_no_password(named, photos, uri, kept_run, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a secret")
    place, client = "http://127.0.0.1:9/api/2.0/mlflow-artifacts/artifacts", mlflow.MlflowClient()
    experiment = client.create_experiment(f"elsewhere {named}", artifact_location=place)
    address = f"models:/{client.create_logged_model(experiment, 'model').model_id}"
    if named == "version":
        client.create_registered_model("elsewhere")
        client.create_model_version("elsewhere", address)
        address = "models:/elsewhere/1"
    message = refusal(predict, photos[1][0], f"model={address}", uri)
    assert "the files are on another server" in message


def test_run_without_a_model_is_told(photos, uri, kept_run):
    run_id = mlflow.MlflowClient().create_run(kept_run.info.experiment_id).info.run_id
    assert "this run kept no such model" in refusal(predict, photos[0], f"model=runs:/{run_id}/model", uri)


def test_registry_without_a_model_is_told(photos, uri, tmp_path):
    shutil.copy(uri.removeprefix("tracking.uri=sqlite:///"), "emptied.db")
    mlflow.set_tracking_uri("sqlite:///emptied.db")
    for model in mlflow.MlflowClient().search_registered_models():
        mlflow.MlflowClient().delete_registered_model(model.name)
    message = refusal(predict, photos[0], "model=champion", "tracking.uri=sqlite:///emptied.db")
    assert message.startswith("model=champion: there is no such alias; no model is registered; a sweep registers its ")


def test_no_store_is_told_and_none_is_made(photos, uri):
    assert "sqlite:///mlflow.db: there is no such database here" in refusal(predict, photos[0], "model=champion")
    assert not list(Path().iterdir())


def forget_record(folder):
    about = yaml.safe_load((folder / "MLmodel").read_text())
    del about["metadata"]
    (folder / "MLmodel").write_text(yaml.safe_dump(about))


def record_as_before_networks_scaled(folder):
    about = yaml.safe_load((folder / "MLmodel").read_text())
    del about["metadata"]["cnn_sweeps"]["pixels"]
    (folder / "MLmodel").write_text(yaml.safe_dump(about))


def record_another_shape(folder):
    about = yaml.safe_load((folder / "MLmodel").read_text())
    about["metadata"]["cnn_sweeps"]["image_shape"] = [32, 32, 3]
    (folder / "MLmodel").write_text(yaml.safe_dump(about))


def damage_network(folder):
    content = bytearray((folder / "artifacts/model.keras").read_bytes())
    content[len(content) // 3 : 2 * len(content) // 3] = bytes(len(content) // 3)
    (folder / "artifacts/model.keras").write_bytes(content)


def cut_network(folder):
    content = (folder / "artifacts/model.keras").read_bytes()
    (folder / "artifacts/model.keras").write_bytes(content[: len(content) // 2])


def remove_network(folder):
    (folder / "artifacts/model.keras").unlink()


def hide_code_in_network(folder):
    inputs = keras.Input((16, 16, 1))
    scaled = keras.layers.Lambda(lambda x: x * 1.0)(inputs)
    network = keras.Model(inputs, classification_head(keras.layers.Flatten()(scaled), 2))
    network.save(folder / "artifacts/model.keras")


def point_to_pickle(folder):
    """MLflow itself would load this one, and run what it holds."""
    about = yaml.safe_load((folder / "MLmodel").read_text())
    about["flavors"]["python_function"] |= {"loader_module": "mlflow.pyfunc.model", "python_model": "python_model.pkl"}
    (folder / "MLmodel").write_text(yaml.safe_dump(about))
    (folder / "python_model.pkl").write_bytes(b"cbuiltins\nexec\n(S'raise SystemExit(7)'\ntR.")
    (folder / "served_model.py").write_text("raise SystemExit(8)")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (forget_record, "its MLmodel does not have the classes"),
        (
            record_as_before_networks_scaled,
            "was made by an earlier version of cnn-sweeps, whose networks take pixels from 0 to 1",
        ),
        (record_another_shape, r"its network has input \(None, 16, 16, 1\) and output \(None, 1\), but its"),
        (damage_network, "artifacts/model.keras is damaged, or has code"),
        (cut_network, "artifacts/model.keras is damaged, or has code"),
        (remove_network, "it has no artifacts/model.keras"),
        (hide_code_in_network, r"artifacts/model.keras is damaged, or has code .*Lambda"),
    ],
)
def test_model_that_was_changed_is_refused(change, message, photos, uri, kept_run):
    change(copy_model(kept_run, "changed"))
    assert re.match(f"model=changed: {message}", refusal(predict, photos[0], "model=changed"))


def test_code_and_pickles_in_a_models_folder_are_not_run(photos, uri, kept_run):
    point_to_pickle(copy_model(kept_run, "changed"))
    predict([str(photos[1][0]), "model=changed"])


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=champion"], "no image is given"),
        (["photos"], "model= is missing"),
        (["photos", "modle=champion"], "modle: no such setting; allowed: model, explain, tracking.uri"),
        (
            ["a=b.png", "model=champion"],
            "a: no such setting; allowed: model, explain, tracking.uri; the file is ./a=b.png",
        ),
        (["photos", "model="], "model=: it has no value"),
        (["photos", "model=a", "model=b"], "model=b: given twice"),
        (["photos", "model=a", "--cvs", "x"], "unrecognized arguments: --cvs"),
        (["photos", "model=a", "--csv"], "argument --csv: expected one argument"),
        (["photos", "model=a", "--csv", "no/where/x.csv"], "--csv=no/where/x.csv: the folder no/where does not exist"),
        (["photos", "model=a", "--json", "photos"], "--json=photos: already exists"),
        (["nowhere", "model=a"], "nowhere: there is no such file or folder"),
        (["photos", "model=a"], "photos: there is no image in this folder"),
    ],
)
def test_wrong_argument_is_told(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for file in ("photos/.hidden.png", "a=b.png"):
        Path(file).write_bytes(b"")
    assert message in refusal(predict, *arguments)


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--help"], 0), (["nowhere", "model=a"], 1), ([__file__, "model=a"], 1)]
)
def test_help_and_refusals_import_nothing_slow(arguments, code, tmp_path):
    done = started_command("cnn_sweeps.predict", tmp_path, *arguments)
    assert done.returncode == code
    assert not done.imported & SLOW
    assert "python -m cnn_sweeps.predict" in done.stdout if code == 0 else re.fullmatch("error: .*\n", done.stderr)


def test_record_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="class_names"):
        ModelFacts(class_names=("only one",), image_shape=(8, 8, 3), decision_threshold=None, pixels="0 to 255")
    with pytest.raises(ValueError, match="decision_threshold"):
        ModelFacts(class_names=("no", "yes"), image_shape=(8, 8, 3), decision_threshold=1.5, pixels="0 to 255")
