"""A kept model, served by MLflow as the README says, answers real requests."""

import base64
import io
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest
from kept_models import tiny_images
from PIL import Image
from waiting import LONGEST_S, wait_until

from cnn_sweeps.predict import predict

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def bomb():
    """A PNG of 12 KB that would take 100 MB."""
    stream = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def address(store, kept_run, tmp_path_factory):
    """Where `mlflow models serve` answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where it finds the server's command
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/tiny@tiniest"]
    with (folder / "terminal.txt").open("w") as terminal:
        process = subprocess.Popen(
            [*command, "--env-manager", "local", "-p", str(port)],
            cwd=folder,
            env=os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db", "PATH": path},
            stdout=terminal,
            stderr=subprocess.STDOUT,
        )
    try:
        ping = f"http://127.0.0.1:{port}/ping"
        wait_until(lambda: process.poll() is not None or answers(ping), "the server")
        assert process.poll() is None, (folder / "terminal.txt").read_text()
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        process.terminate()  # which MLflow passes on to the server
        process.wait()


def answers(address):
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            return answer.status == 200
    except OSError:
        return False


def ask(address, inputs, **beside):
    """Send what the README's curl sends; give the status and the answer."""
    content = json.dumps({"inputs": inputs, **beside}).encode()
    request = urllib.request.Request(address, content, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=LONGEST_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def encoded(image, form):
    stream = io.BytesIO()
    Image.fromarray(image[:, :, 0]).save(stream, form)
    return stream.getvalue()


@pytest.mark.parametrize(("form", "count"), [("PNG", 5), ("JPEG", 1)])
def test_image_files_get_the_probabilities_that_predict_gives(form, count, address, kept_run, store, tmp_path):
    contents = [encoded(image, form) for image in tiny_images()[:count]]
    for i, content in enumerate(contents):
        (tmp_path / f"{i}.image").write_bytes(content)
    status, answer = ask(address, [base64.b64encode(content).decode() for content in contents])
    arguments = [f"model=runs:/{kept_run.info.run_id}/model", f"tracking.uri=sqlite:///{store}/mlflow.db"]
    predict([*(str(tmp_path / f"{i}.image") for i in range(count)), *arguments, "--json", str(tmp_path / "table")])
    table = json.loads((tmp_path / "table").read_text())
    predicted = [list(row["probabilities"].values())[1:] for row in table]
    assert status == 200
    np.testing.assert_allclose(answer["predictions"], predicted, atol=1e-6)
    encoded_again = [base64.b64encode(content).decode() for content in contents]
    classes = ask(address, encoded_again, params={"classes": True})
    assert classes == (200, {"predictions": [row["class"] for row in table]})


def test_pixels_get_the_probabilities_that_mlflow_gives_in_python(address, kept_run):
    pixels = tiny_images()[:70].astype(np.float32)  # more than the server computes at once
    status, answer = ask(address, pixels.tolist())
    model = mlflow.pyfunc.load_model(f"models:/{kept_run.outputs.model_outputs[0].model_id}")
    assert status == 200
    expected = model.predict(pixels)
    assert expected.shape == (len(pixels), 1)
    np.testing.assert_allclose(answer["predictions"], expected, atol=1e-6)


def test_image_file_wrapped_into_lines_is_the_same(address):
    content = encoded(tiny_images()[0], "PNG")
    wrapped, plain = base64.encodebytes(content).decode(), base64.b64encode(content).decode()
    assert "\n" in wrapped
    assert ask(address, [wrapped]) == ask(address, [plain])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["*"], "image 1 of 1 is not Base64"),
        ([base64.b64encode(b"no image").decode()], "image 1 of 1 is no image of a known format"),
        ([""], "image 1 of 1 is empty"),
        ([base64.b64encode(bomb()).decode()], "image 1 of 1 is too large (10,000 x 10,000 pixels; at most"),
        ([], "an input of type <class 'list'> was found"),  # by MLflow
        (
            np.zeros((1, 8, 8, 1)).tolist(),
            "the images have shape (1, 8, 8, 1); allowed: image files in Base64, or pixels from 0 to 255 of shape "
            "(N, 16, 16, 1)",
        ),
        (np.full((1, 16, 16, 1), 256).tolist(), "the pixels go from 256 to 256; allowed"),
        (np.full((1, 16, 16, 1), 0.5).tolist(), "the pixels go up to 0.5, as if they were divided by 255; allowed"),
        ([[[0.5], [0.5, 0.5]]], "the images are not arrays of pixels of one shape"),
    ],
)
def test_what_is_neither_is_refused_with_the_reason(inputs, message, address):
    status, answer = ask(address, inputs)
    assert status == 400
    assert message in answer["message"]


def test_kept_network_loads_with_keras_alone(kept_run, monkeypatch):
    folder = mlflow.artifacts.download_artifacts(f"models:/{kept_run.outputs.model_outputs[0].model_id}")
    for name in [*sys.modules]:
        if name.partition(".")[0] in ("cnn_sweeps", "mlflow"):
            monkeypatch.setitem(sys.modules, name, None)  # an import of it fails
    model = keras.saving.load_model(Path(folder, "artifacts/model.keras"), safe_mode=True)
    assert model.output_shape == (None, 1)
    assert {type(layer).__module__.partition(".")[0] for layer in model.layers} == {"keras"}
    assert not [file for file in Path(folder).rglob("*") if file.suffix in (".pkl", ".pickle", ".cloudpickle")]
