"""`python -m cnn_sweeps.predict explain=FOLDER`: a picture an image, of the class that it got, and what is refused."""

import errno
import io
import json
import os
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

from cnn_sweeps.evaluation.grad_cam import grad_cam
from cnn_sweeps.evaluation.pictures import draw_explained
from cnn_sweeps.models import classification_head
from cnn_sweeps.predict import predict

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def model(kept_run, store, tmp_path, monkeypatch):
    """The folder of the kept model, which may be changed, in the working folder."""
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{store}/mlflow.db")
    return copy_model(kept_run, "model")


def change_threshold(folder, threshold):
    about = yaml.safe_load((folder / "MLmodel").read_text())
    about["metadata"]["cnn_sweeps"]["decision_threshold"] = threshold
    (folder / "MLmodel").write_text(yaml.safe_dump(about))


def pixels_of(figure):
    file = io.BytesIO()
    figure.savefig(file)
    return np.asarray(Image.open(file))


def test_each_picture_is_of_the_class_that_the_table_says(model, photos, kept_run):
    files = photos[1][:4]
    change_threshold(model, float(np.median(outputs_for(kept_run, files))))  # so that both classes are given
    predict([*map(str, files), "model=model", "explain=explained", "--json", "table.json"])
    table = json.loads(Path("table.json").read_text())
    network = keras.models.load_model(model / "artifacts/model.keras")
    images = np.stack([np.asarray(Image.open(file)) for file in files])[..., np.newaxis]
    classes = np.array([list(row["probabilities"]).index(row["class"]) for row in table])
    assert set(classes) == {0, 1}
    heat, of_others = (grad_cam(network, images, each) for each in (classes, 1 - classes))
    assert np.abs(heat - of_others).max(axis=(1, 2)).min() > 0.1
    pictures = sorted(Path("explained").iterdir())
    assert [picture.name for picture in pictures] == [f"{i}_{file.stem}.png" for i, file in enumerate(files, 1)]
    for picture, image, heat_of_image, row in zip(pictures, images, heat, table, strict=True):
        expected = draw_explained(image, heat_of_image, Path(row["file"]).name, row["class"], row["probability"])
        np.testing.assert_array_equal(np.asarray(Image.open(picture)), pixels_of(expected))


def test_pictures_are_named_safely_and_in_the_order_of_the_table(model, photos, capsys):
    names = ["a/same.png", "b/same.png", "b/$x$ \n;|.tar.png", "b/-猫.png", "c/broken.png", f"d/{'é' * 120}.png"]
    names += [f"e/{i}.png" for i in range(4)]
    for name in names:
        Path("album", name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos[1][0], Path("album", name))
    Path("album/c/broken.png").write_bytes(b"no image")
    Path("explained").mkdir()  # an empty folder is as good as none
    ordered = [str(Path("album", name)) for name in names]
    message = refusal(predict, *ordered, "model=model", "explain=explained")
    assert message == "1 of 10 files is no usable image and was left out, as named"
    assert sorted(picture.name for picture in Path("explained").iterdir()) == [
        *("01_same.png", "02_same.png", "03__x_____.tar.png", "04_-猫.png", f"05_{'é' * 40}.png"),
        *(f"{6 + i:02}_{i}.png" for i in range(4)),
    ]
    shown = capsys.readouterr()
    assert "Glyph" not in shown.err
    assert shown.out.splitlines()[-1].startswith("9 images: ")


def test_images_are_explained_a_batch_at_a_time(model, photos, monkeypatch):
    monkeypatch.setattr("cnn_sweeps.data.batches._MOST_IMAGES_A_BATCH", 5)
    sizes = []

    def counted(network, images, predicted):
        sizes.append(len(images))
        return grad_cam(network, images, predicted)

    monkeypatch.setattr("cnn_sweeps.use.explanation.grad_cam", counted)
    predict([str(photos[0]), "model=model", "explain=explained"])
    assert sizes == [5, 5, 2]
    assert len(list(Path("explained").iterdir())) == 12


def test_network_without_grad_cam_is_refused_before_anything_is_predicted(model, photos, capsys):
    inputs = keras.Input((16, 16, 1))
    keras.Model(inputs, classification_head(keras.layers.Flatten()(inputs), 2)).save(model / "artifacts/model.keras")
    message = refusal(predict, photos[0], "model=model", "explain=explained")
    assert message == (
        "explain=explained: Grad-CAM needs a network that is a chain from a last feature map to a dense layer, and "
        "this model's is not; predict without explain, or use another model"
    )
    assert not capsys.readouterr().out
    assert not Path("explained").exists()


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("full", "explain=full: is not empty; give an empty folder, or a new one"),
        ("full/file", "explain=full/file: already exists; give a new path, or remove it"),
        ("dangling", "explain=dangling: already exists; give a new path, or remove it"),
        ("no/where", "explain=no/where: the folder no does not exist or cannot be written to; give another path"),
    ],
)
def test_folder_that_cannot_be_filled_is_told(folder, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full/file").touch()
    Path("dangling").symlink_to("nowhere")
    assert refusal(predict, __file__, "model=champion", f"explain={folder}") == message


def test_folder_that_is_not_empty_is_told_before_anything_slow_is_imported(tmp_path):
    done = started_command("cnn_sweeps.predict", tmp_path, __file__, "model=champion", f"explain={tmp_path.parent}")
    assert done.returncode == 1
    assert done.stderr == f"error: explain={tmp_path.parent}: is not empty; give an empty folder, or a new one\n"
    assert not done.imported & SLOW


def test_disk_that_takes_no_picture_is_told_and_leaves_none_in_part(model, photos, monkeypatch):
    def fail(figure, file):
        file.write_bytes(b"a part")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    message = refusal(predict, photos[1][0], "model=model", "explain=explained")
    assert message == "explained/1_00.png: cannot be written (No space left on device); give another path"
    assert not list(Path("explained").iterdir())
