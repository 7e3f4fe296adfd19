"""`python -m cnn_sweeps.export`: other programs' formats, which give what Keras gives or are not there."""

import json
import re
from pathlib import Path

import mlflow
import numpy as np
import pytest
import tensorflow as tf
from commands import SLOW, refusal, started_command
from kept_models import outputs_for
from PIL import Image

from cnn_sweeps.export import FORMATS, export
from cnn_sweeps.text.numbers import probability_text
from cnn_sweeps.use import conversion

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture
def settings(store, kept_run, tmp_path, monkeypatch):
    """The settings that name the kept model; the working folder is empty."""
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{store}/mlflow.db")
    return ["model=tiniest", f"tracking.uri=sqlite:///{store}/mlflow.db"]


def run_saved_model(pixels):
    loaded = tf.saved_model.load("exported")
    return loaded.serve(pixels).numpy()


def run_tflite(pixels):
    interpreter = tf.lite.Interpreter("exported")
    outputs = []
    for image in pixels[:, np.newaxis]:  # one at a time, as on a phone
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0])
    return np.array(outputs)


def run_onnx(pixels):
    session = pytest.importorskip("onnxruntime").InferenceSession("exported")
    return session.run(None, {session.get_inputs()[0].name: pixels})[0]


def read_beside():
    return Path("exported.json").read_text()


def read_in_folder():
    return Path("exported/cnn_sweeps.json").read_text()


def read_in_metadata():
    session = pytest.importorskip("onnxruntime").InferenceSession("exported")
    return session.get_modelmeta().custom_metadata_map["cnn_sweeps"]


@pytest.mark.parametrize(
    ("form", "run", "read_facts"),
    [
        ("saved_model", run_saved_model, read_in_folder),
        ("tflite", run_tflite, read_beside),
        ("onnx", run_onnx, read_in_metadata),
    ],
)
def test_export_gives_what_the_kept_model_gives_and_says_how_to_use_it(
    form, run, read_facts, settings, photos, kept_run, capsys
):
    if form == "onnx":
        pytest.importorskip("tf2onnx")
    folder, files = photos
    export([str(folder), *settings, f"format={form}", "output=exported"])
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])[..., np.newaxis].astype(np.float32)
    np.testing.assert_allclose(run(pixels), outputs_for(kept_run, files), atol=1e-5)
    told = r"exported: agrees with Keras on 16 random and 12 given images; the largest .* is (\d\.\de[-+]\d\d)\n(.*)\n"
    difference, decision = re.search(told, capsys.readouterr().out).groups()
    assert float(difference) < 1e-5
    threshold = kept_run.data.metrics["decision_threshold"]
    chosen = f"choose stripes 90 degrees if its probability is at least {probability_text(threshold)}"
    assert decision == f"{chosen}, as cnn_sweeps.predict does"
    assert json.loads(read_facts()) == {
        "class_names": ["stripes 0 degrees", "stripes 90 degrees"],
        "image_shape": [16, 16, 1],
        "decision_threshold": threshold,
        "pixels": "0 to 255",
    }
    made = {"exported", "exported.json"} if form == "tflite" else {"exported"}
    assert {file.name for file in Path().iterdir()} == made


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "onnx"])
def test_export_that_does_not_agree_is_not_kept(form, settings, monkeypatch):
    monkeypatch.setattr(conversion, "_LARGEST_DIFFERENCE", -1.0)
    message = refusal(export, *settings, f"format={form}", "output=exported")
    assert re.match(f"format={form}: its probabilities differ from Keras's by up to .*; nothing was written", message)
    assert not list(Path().iterdir())


@pytest.mark.parametrize("name", ["exported", "exported.json"])
def test_nothing_is_overwritten(name, settings):
    Path(name).write_text("older")
    message = refusal(export, *settings, "format=tflite", "output=exported")
    assert message == f"output={name}: already exists; give a new path, or remove it"
    assert {file.name: file.read_text() for file in Path().iterdir()} == {name: "older"}


def test_bad_image_is_named_and_the_export_stays(settings, photos, capsys):
    Path("broken.png").write_bytes(b"no image")
    message = refusal(export, "broken.png", photos[1][0], *settings, "format=saved_model", "output=exported")
    assert message == "1 of 2 files is no usable image and was left out, as named"
    shown = capsys.readouterr()
    assert "broken.png is no image of a known format" in shown.err
    assert "16 random and 1 given images" in shown.out
    assert Path("exported/saved_model.pb").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=a"], "format=, output= is missing"),
        (["model=a", "format=h5", "output=x"], "format=h5: no such format; allowed: saved_model, tflite, onnx"),
        (["model=a", "format=tflite", "output=no/where"], "output=no/where: the folder no does not exist"),
        (["nowhere", "model=a", "format=tflite", "output=x"], "nowhere: there is no such file or folder"),
    ],
)
def test_wrong_argument_is_told(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refusal(export, *arguments)


def test_extra_that_onnx_needs_is_named(monkeypatch):
    monkeypatch.setattr("cnn_sweeps.export.find_spec", lambda name: None)
    message = refusal(export, "model=a", "format=onnx", "output=x")
    assert message == "format=onnx: needs tf2onnx and onnxruntime; pip install 'cnn-sweeps[onnx]'"


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["model=a", "format=tflite", "output=x"], 1)])
def test_help_and_refusals_import_nothing_slow(arguments, code, tmp_path):
    done = started_command("cnn_sweeps.export", tmp_path, *arguments)
    assert done.returncode == code
    assert not done.imported & SLOW
    assert "python -m cnn_sweeps.export" in done.stdout if code == 0 else "there is no such database" in done.stderr
