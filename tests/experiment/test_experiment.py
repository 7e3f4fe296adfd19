"""One run as a user starts it, and what it leaves in MLflow and on disk."""

import json
import re
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import TINY, TINY_DATA
from PIL import Image

from cnn_sweeps.text.numbers import probability_text
from cnn_sweeps.tracking.record.entry import read_record

PROJECT = Path(__file__).parents[2]
METRICS = {
    *("accuracy", "balanced_accuracy", "precision", "recall", "f1", "roc_auc", "pr_auc"),
    *("log_loss", "brier_score", "expected_calibration_error"),
}
AT_THRESHOLD = ("accuracy", "balanced_accuracy", "precision", "recall", "f1")
PICTURES = {
    *("learning_curves", "confusion_matrix", "roc_curve", "pr_curve", "reliability", "scores"),
    "filters",
}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def last_run(store):
    """The newest MLflow run of the session."""

    def find():
        mlflow.set_tracking_uri(f"sqlite:///{store}/mlflow.db")
        return mlflow.search_runs(search_all_experiments=True, max_results=1, output_format="list")[0]

    return find


def load_model_of(run):
    return mlflow.pyfunc.load_model(f"models:/{run.outputs.model_outputs[0].model_id}")


def artifact(run, name) -> Path:
    return Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=name))


def test_run_leaves_a_complete_record_in_the_store_and_in_its_folder(run_train, last_run, tmp_path):
    drawn = [*TINY, "evaluation.pictures=best", "hydra.run.dir=here"]
    run_train(*drawn, "regularization=full", "model.l2=0.01", "training.class_weight=balanced")
    run = last_run()
    client = mlflow.MlflowClient()
    assert run.info.status == "FINISHED"
    assert run.info.run_name.startswith("filters=[4] dense_units=[4] l2=0.01 epochs=2 ")

    assert run.data.params["model.l2"] == "0.01"
    assert run.data.params["training.early_stopping.patience"] == "8"
    assert run.data.params["optimizer.learning_rate"] == "0.003"
    composed = yaml.safe_load(artifact(run, "config.yaml").read_text())
    assert composed["model"]["l2"] == 0.01
    assert yaml.safe_load(artifact(run, "overrides.yaml").read_text())[-2] == "model.l2=0.01"
    written = {file.name for file in (tmp_path / "here/results").iterdir()}
    texts = {"config.yaml", "overrides.yaml", "data.json", "test_report.txt", "test_metrics.csv"}
    texts |= {"test_confusions.csv", "val_images.csv", "test_images.csv", "report.html"}
    assert written == texts | {f"{name}.png" for name in PICTURES}

    for name in ("train_loss", "val_log_loss", "learning_rate", "epoch_s", "images_per_s", "generalization_gap"):
        assert [metric.step for metric in client.get_metric_history(run.info.run_id, name)] == [1, 2]
    for name in ("test_accuracy", "final_val_log_loss", "best_epoch"):  # which MLflow draws as bars
        assert [metric.step for metric in client.get_metric_history(run.info.run_id, name)] == [0]
    assert {"test_accuracy", "test_log_loss", "test_roc_auc", "final_generalization_gap", "best_epoch"} <= set(
        run.data.metrics
    )
    best = run.data.metrics["best_epoch"]
    history = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "val_log_loss")}
    assert run.data.metrics["final_val_log_loss"] == history[best] == run.data.metrics["best_val_log_loss"]

    expected = {"version.tensorflow", "version.cnn-sweeps", "mlflow.owner.host", "mlflow.command", "platform"}
    assert expected | ({"git.commit", "git.dirty"} if (PROJECT / ".git").exists() else set()) <= set(run.data.tags)
    assert run.inputs.dataset_inputs[0].dataset.digest == run.data.tags["data.fingerprint"]
    note = run.data.tags["mlflow.note.content"]
    test, link, validation, *_ = note.splitlines()
    assert re.match(r"\*\*Test images\*\*: log loss 0\.\d+ \(.* to .*\), accuracy ", test)
    assert link.startswith("[All runs, best first](")
    assert validation.startswith("**Validation images**: ")
    assert " \\\n  data=synthetic \\\n  data.num_images=60 \\\n" in note
    counts = json.loads(artifact(run, "data.json").read_text())["images"]
    assert sum(counts["train"].values()) == 36

    for name in PICTURES:
        assert Image.open(artifact(run, f"{name}.png")).width > 300
    assert "stripes 90 degrees" in artifact(run, "test_report.txt").read_text()
    page = artifact(run, "report.html").read_text()
    for told in (
        "On 12 test images",
        "Grad-CAM",
        "stripes 90 degrees",
        "model.l2=0.01",
        f"runs:/{run.info.run_id}/synthetic-cnn",
    ):
        assert told in page
    assert page.count("data:image/png") == len(PICTURES)
    assert page.count("data:image/jpeg") >= 4
    (log,) = artifact(run, "logs").rglob("*.log")
    assert "epoch 2/2" in log.read_text()
    uri = mlflow.get_tracking_uri()
    model = f"model=runs:/{run.info.run_id}/synthetic-cnn"
    assert f"  python -m cnn_sweeps.predict PHOTOS {model} tracking.uri={uri}\n" in log.read_text()
    assert f"\npython -m cnn_sweeps.predict PHOTOS \\\n  {model} \\\n  tracking.uri={uri}\n" in note
    assert not any((tmp_path / "outputs/checkpoints").iterdir())


def test_every_final_metric_has_its_interval_on_validation_and_test_images(run_train, last_run):
    run_train(*TINY, "data.difficulty=0.9", "evaluation.threshold_metric=f1", "tracking.log_model=false")
    run = last_run()
    metrics = read_record(Path(run.data.tags["output.folder"])).newest  # which has more than MLflow shows
    assert not any("interval" in name for name in run.data.metrics)
    table = pd.read_csv(artifact(run, "test_metrics.csv")).set_index("metric")
    assert set(table.index) == METRICS | {f"{name}_at_half" for name in AT_THRESHOLD} | {
        *("accuracy_of_commonest_class", "decision_threshold")
    }
    for name in METRICS:
        for kind in ("final_val", "test"):
            low, high = (metrics[f"interval/{kind}_{name}_{bound}"] for bound in ("low", "high"))
            assert low <= high
            if name != "expected_calibration_error":  # which is larger on resampled images
                assert low <= metrics[f"{kind}_{name}"] <= high
        assert tuple(table.loc[name]) == pytest.approx(
            [metrics[key] for key in (f"test_{name}", f"interval/test_{name}_low", f"interval/test_{name}_high")]
        )
    assert 0 < metrics["decision_threshold"] < 1
    assert metrics["final_val_f1"] >= metrics["final_val_f1_at_half"]
    assert {f"{kind}_{name}_at_half" for name in AT_THRESHOLD for kind in ("final_val", "test")} <= metrics.keys()
    for kind in ("final_val", "test", "final_train"):
        assert metrics[f"{kind}_accuracy_of_commonest_class"] == 0.5
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "val_accuracy")
    assert {m.step: m.value for m in history}[metrics["best_epoch"]] == metrics["final_val_accuracy_at_half"]
    (log,) = artifact(run, "logs").rglob("*.log")
    assert re.search(r"test images: log loss [\d.]+ \([\d.]+ to [\d.]+\), accuracy", log.read_text())


@pytest.fixture(scope="module")
def rare_class(tmp_path_factory):
    """A folder with a split of its own, of two classes, hard to tell apart, one image in five of the second."""
    folder, random = tmp_path_factory.mktemp("rare"), np.random.default_rng(0)
    for split, number in (("train", 60), ("val", 40), ("test", 40)):
        for i in range(number):
            file = folder / split / ("light" if i % 5 == 0 else "dark") / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((random.integers(0, 200, (8, 8)) + 10 * (i % 5 == 0)).astype(np.uint8)).save(file)
    return folder


def test_what_is_printed_recorded_served_and_predicted_of_the_same_images_is_the_same(
    run_train, last_run, rare_class, tmp_path
):
    """At the threshold that is kept with the model."""
    from cnn_sweeps.predict import predict

    run_train(
        *("data=folder", f"data.root={rare_class}", "data.image_size=8", "data.channels=1", "data.cache_dir=cache"),
        *("model.filters=[8]", "model.dense_units=[16]", "optimizer.learning_rate=0.01", "training.epochs=4"),
        *("regularization=none", "hydra.run.dir=here", "evaluation.pictures=none"),
    )
    run = last_run()
    metrics = run.data.metrics
    predict([str(rare_class / "test"), f"model=runs:/{run.info.run_id}/model", "--json", "table.json"])
    table = json.loads(Path("table.json").read_text())
    truth = [Path(row["file"]).parent.name for row in table]
    predicted = [row["class"] for row in table]
    right = [is_class == true for is_class, true in zip(predicted, truth, strict=True)]
    assert metrics["test_accuracy"] == pytest.approx(np.mean(right))
    recall = [np.mean([r for r, true in zip(right, truth, strict=True) if true == name]) for name in ("dark", "light")]
    assert metrics["test_balanced_accuracy"] == pytest.approx(np.mean(recall))
    at_half = [row["probabilities"]["light"] >= 0.5 for row in table]
    assert metrics["test_accuracy_at_half"] == pytest.approx(
        np.mean([s == (t == "light") for s, t in zip(at_half, truth, strict=True)])
    )
    assert metrics["test_accuracy"] != metrics["test_accuracy_at_half"]
    assert metrics["test_accuracy_of_commonest_class"] == 0.8

    told = (tmp_path / "here/train.log").read_text()
    at_least = probability_text(metrics["decision_threshold"])
    assert f"light is predicted if its probability is at least {at_least}" in told
    (line,) = (line for line in told.splitlines() if "test images: log loss" in line)
    recorded = read_record(Path(run.data.tags["output.folder"])).newest
    low, high = (recorded[f"interval/test_accuracy_{bound}"] for bound in ("low", "high"))
    assert line.endswith(
        f"accuracy {metrics['test_accuracy']:.3f} ({low:.3f} to {high:.3f}), "
        f"{metrics['test_accuracy_at_half']:.3f} at a threshold of 0.5, 0.800 by naming the commonest class"
    )
    is_no_better = metrics["test_accuracy"] <= 0.8
    assert ("warning: the network is no better than naming the commonest class" in told) == is_no_better

    report = (tmp_path / "here/results/test_report.txt").read_text()
    assert re.search(rf"light +\S+ +{recall[1]:.3f}", report)
    model = load_model_of(run)
    pixels = np.stack([np.asarray(Image.open(row["file"]))[:, :, None] for row in table]).astype(np.float32)
    assert model.predict(pixels, params={"classes": True}).tolist() == predicted


OWN_NETWORKS = """
import keras
from keras import layers
from cnn_sweeps.models import classification_head

def constant(input_shape, num_classes, dropout, l2):
    pixels = keras.Input(input_shape)
    nothing = layers.Rescaling(0.0)(layers.Flatten()(pixels))
    return keras.Model(pixels, classification_head(nothing, num_classes))

def shared(input_shape, num_classes, dropout, l2):
    pixels = keras.Input(input_shape)
    once = layers.Conv2D(input_shape[2], 3, padding="same")
    features = layers.GlobalAveragePooling2D()(once(once(pixels)))
    return keras.Model(pixels, classification_head(features, num_classes))

class Scaled(layers.Layer):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, inputs):
        return self.function(inputs)

def without_config(input_shape, num_classes, dropout, l2):
    pixels = keras.Input(input_shape)
    features = Scaled(lambda x: x * 2)(layers.Flatten()(pixels))
    return keras.Model(pixels, classification_head(features, num_classes))
"""


@pytest.fixture
def own_networks(tmp_path, monkeypatch):
    """Give the settings that train one of OWN_NETWORKS."""
    (tmp_path / "own_networks.py").write_text(OWN_NETWORKS)
    (tmp_path / "conf/model").mkdir(parents=True)
    for name in ("constant", "shared", "without_config"):
        text = f"_target_: own_networks.{name}\ndropout: ???\nl2: ???\n"
        (tmp_path / f"conf/model/{name}.yaml").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)
    return lambda name: ["--config-dir", "conf", f"model={name}", *TINY_DATA, "training.epochs=1", "hydra.run.dir=here"]


def test_network_that_has_learned_nothing_is_told_between_results_and_commands(
    run_train, last_run, own_networks, tmp_path
):
    last = ["training.epochs=2", "training.monitor=val_accuracy", "training.restore_best_weights=false"]
    run_train(*own_networks("constant"), *last, "tracking.log_model=false", "evaluation.pictures=none")
    log = (tmp_path / "here/train.log").read_text()
    assert "best epoch 1 of 2; the weights of the last epoch are kept\n" in log
    assert "; epoch 2 of 2\n" in last_run().data.tags["mlflow.note.content"]
    *_, results, warning, hint, report, to_look, command, page = log.splitlines()
    assert "test images: log loss" in results
    assert "warning: the network is no better than naming the commonest class: on the test images" in warning
    assert "its accuracy is 0.500, and always naming the commonest class gives 0.500" in warning
    assert "balanced accuracy: 0.500" in warning
    assert "hint: " in hint
    assert report.endswith("The report, for a browser: here/results/report.html")
    assert to_look.endswith("To look at the run:")
    assert re.search(r"  mlflow ui --backend-store-uri sqlite:///\S+/mlflow.db$", command)
    assert page.endswith(
        f"  http://127.0.0.1:5000/#/experiments/{last_run().info.experiment_id}/runs/{last_run().info.run_id}"
        "?workflowType=machine_learning"
    )
    assert not list((tmp_path / "here/results").glob("*.png"))
    assert (tmp_path / "here/results/test_report.txt").exists()


def test_pictures_that_cannot_be_drawn_are_told_and_lose_nothing_else(run_train, last_run, monkeypatch, tmp_path):
    def fail(*_args, **_options):
        raise ValueError("no\n  such curve")

    monkeypatch.setattr("cnn_sweeps.evaluation.texts.per_class_report", fail)
    for name in ("figures.draw_roc_curve", "figures.draw_confusion_matrix", "pictures.draw_filters"):
        monkeypatch.setattr(f"cnn_sweeps.evaluation.{name}", fail)
    monkeypatch.setattr("cnn_sweeps.evaluation.thumbnails.grad_cam", fail)
    run_train(*TINY, "evaluation.pictures=best", "hydra.run.dir=here")
    run = last_run()
    assert run.info.status == "FINISHED"
    assert "test_accuracy" in run.data.metrics
    assert load_model_of(run).predict(np.zeros((1, 16, 16, 1), np.float32)).size
    failed = {"roc_curve", "confusion_matrix", "filters"}
    told = (tmp_path / "here/train.log").read_text()
    for name in failed:
        assert f"warning: {name}.png cannot be drawn (ValueError: no such curve)\n" in told
    assert "Traceback" not in told
    kept = {file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id)}
    drawn = {name.removesuffix(".png") for name in kept if name.endswith(".png")}
    assert drawn == PICTURES - failed
    assert "warning: the tables cannot be written (ValueError: no such curve)\n" in told
    assert "warning: Grad-CAM cannot be shown (ValueError: no such curve)\n" in told
    assert {"test_metrics.csv", "report.html"} <= kept


@pytest.mark.parametrize("name", ["shared", "without_config"])
def test_network_that_is_hard_to_draw_or_to_keep_is_measured_and_its_weights_are_there(
    name, run_train, last_run, own_networks, tmp_path
):
    run_train(*own_networks(name))
    run = last_run()
    assert run.info.status == "FINISHED"
    assert "test_accuracy" in run.data.metrics
    told = (tmp_path / "here/train.log").read_text()
    assert "Traceback" not in told
    kept = {file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id)}
    assert {"learning_curves.png", "confusion_matrix.png"} <= kept
    cannot_be_kept = name == "without_config"
    assert bool(run.outputs and run.outputs.model_outputs) != cannot_be_kept
    assert ("final.weights.h5" in kept) == cannot_be_kept
    assert ("warning: the network cannot be kept as a model that loads by itself (NotImplementedError: " in told) == (
        cannot_be_kept
    )


def test_logged_model_loads_without_this_package_and_predicts_what_was_measured(kept_run, store, monkeypatch):
    from conftest import compose

    from cnn_sweeps.data.split import split_dataset
    from cnn_sweeps.evaluation.metrics import summarize
    from cnn_sweeps.models.layers import class_probabilities
    from cnn_sweeps.settings.targets import call_target

    run = kept_run
    mlflow.set_tracking_uri(f"sqlite:///{store}/mlflow.db")
    for name in [name for name in sys.modules if name.startswith("cnn_sweeps.models")]:
        monkeypatch.delitem(sys.modules, name)
    model = load_model_of(run)
    assert not any(name.startswith("cnn_sweeps.models") for name in sys.modules)
    assert model.metadata.metadata["cnn_sweeps"] == {
        "class_names": ["stripes 0 degrees", "stripes 90 degrees"],
        "image_shape": [16, 16, 1],
        "decision_threshold": run.data.metrics["decision_threshold"],
        "pixels": "0 to 255",
    }
    assert model.input_example.shape == (1, 16, 16, 1)

    data = call_target("data", compose(*TINY).data)
    test = split_dataset(data, 0.2, 0.2, 0).test
    outputs = model.predict(data.images[test].astype(np.float32))
    measured = summarize(class_probabilities(outputs), data.labels[test])
    assert measured["log_loss"] == pytest.approx(run.data.metrics["test_log_loss"], rel=1e-5)


def test_bad_files_that_are_too_many_to_name_are_listed_in_a_file(run_train, tmp_path):
    for i in range(24):
        file = tmp_path / "photos" / ("dark", "light")[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    photos = ["data=folder", "data.root=photos", f"data.cache_dir={tmp_path}/cache"]
    told = r"24 of 24 files cannot be used: .* is empty; .*; here/bad_files\.txt lists all"
    with pytest.raises(SystemExit, match=told):
        run_train(*TINY[5:], *photos, "hydra.run.dir=here")
    lines = (tmp_path / "here/bad_files.txt").read_text().splitlines()
    assert len(lines) == 24
    assert lines[0] == "dark/0.png is empty"


def test_folder_with_bad_files_skipped_trains_lists_them_and_many_classes_have_metrics_and_pictures_but_no_threshold(
    run_train, last_run, tmp_path
):
    random = np.random.default_rng(0)
    for i in range(60):
        file = tmp_path / "photos" / ("dark", "light", "grey")[i % 3] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 90, (20, 30, 3)) + 80 * (i % 3)
        Image.fromarray(pixels.astype(np.uint8)).save(file)
    (tmp_path / "photos/dark/broken.jpg").write_bytes(b"no image")
    (tmp_path / "photos/dark/again.png").write_bytes((tmp_path / "photos/dark/0.png").read_bytes())
    run_train(
        *TINY[5:],
        "data=folder",
        "data.root=photos",
        "data.image_size=16",
        f"data.cache_dir={tmp_path}/cache",
        "data.on_bad_image=skip",
        *("evaluation.pictures=best", "report.images=false"),
    )
    run = last_run()
    assert run.info.run_name.startswith("epochs=2 ") or run.info.run_name.startswith("filters=[4] ")
    assert "dark/broken.jpg is no image" in artifact(run, "skipped_files.txt").read_text()
    (log,) = artifact(run, "logs").rglob("*.log")
    assert "1 image is a copy of another" in log.read_text()
    assert "1 file is no usable image and was skipped: dark/broken.jpg" in log.read_text()
    assert "light" in artifact(run, "test_report.txt").read_text()
    counts = json.loads(artifact(run, "data.json").read_text())["images"]["test"].values()
    assert len(counts) == 3
    assert {f"test_{name}" for name in METRICS} <= set(run.data.metrics)
    assert not any("threshold" in name or "at_half" in name for name in run.data.metrics)
    assert run.data.metrics["test_accuracy_of_commonest_class"] == pytest.approx(max(counts) / sum(counts))
    assert {f"{name}.png" for name in PICTURES} <= {
        file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id)
    }
    page = artifact(run, "report.html").read_text()
    assert page.count("data:image/png") == len(PICTURES)
    assert "data:image/jpeg" not in page
    assert "1 image is a copy of another" in page
    assert "dark/broken.jpg" in page


def test_run_that_cannot_go_on_ends_failed_with_one_line(run_train, last_run):
    with pytest.raises(SystemExit) as error:
        run_train(*TINY, "optimizer.learning_rate=1e30")
    assert str(error.value).startswith("error: train_loss became nan in epoch 1")
    run = last_run()
    assert run.info.status == "FAILED"
    assert run.data.tags["error"].startswith("TrainingError: train_loss became nan")
    assert yaml.safe_load(artifact(run, "config.yaml").read_text())["optimizer"]["learning_rate"] == 1e30
    assert len(list(artifact(run, "logs").rglob("*.log"))) == 1


@pytest.mark.parametrize("call", ["create_run", "log_batch"])
def test_signal_while_the_run_is_being_started_ends_it_killed(call, run_train, last_run, monkeypatch):
    real, calls = getattr(mlflow.MlflowClient, call), []

    def exit_once(*arguments, **options):
        answer = real(*arguments, **options)
        calls.append(call)
        return answer if len(calls) > 1 else sys.exit(143)

    monkeypatch.setattr(mlflow.MlflowClient, call, exit_once)
    with pytest.raises(SystemExit):
        run_train(*TINY)
    assert last_run().info.status == "KILLED"


def test_users_own_model_data_and_optimizer_plug_in_without_touching_this_code(
    run_train, last_run, tmp_path, monkeypatch
):
    (tmp_path / "my_code.py").write_text(
        "import keras, numpy as np\n"
        "from cnn_sweeps.data import ImageDataset\n"
        "from cnn_sweeps.models import classification_head, scaled\n"
        "def load_mine(num_images):\n"
        "    labels = np.arange(num_images) % 2\n"
        "    noise = np.random.default_rng(0).integers(0, 99, (num_images, 8, 8, 1))\n"
        "    images = noise + 99 * labels[:, None, None, None]\n"
        "    return ImageDataset(images=images.astype(np.uint8), labels=labels, class_names=['dark', 'light'],\n"
        "                        name='mine', source='here')\n"
        "def build_mine(input_shape, num_classes, width, dropout, l2):\n"
        "    inputs = keras.Input(input_shape)\n"
        "    penalty = keras.regularizers.L2(l2)\n"
        "    x = keras.layers.Dense(width, kernel_regularizer=penalty)(keras.layers.Flatten()(scaled(inputs)))\n"
        "    return keras.Model(inputs, classification_head(keras.layers.Dropout(dropout)(x), num_classes))\n"
        "def my_sgd(learning_rate, momentum):\n"
        "    return keras.optimizers.SGD(learning_rate, momentum)\n"
    )
    for group, text in {
        "data": "_target_: my_code.load_mine\nnum_images: 40\n",
        "model": "_target_: my_code.build_mine\nwidth: 3\ndropout: 0.1\nl2: 0.0\n",
        "optimizer": "_target_: my_code.my_sgd\nlearning_rate: 0.1\nschedule: constant\ndecay_rate: 1.0\n"
        "decay_steps: null\nmomentum: 0.5\n",
    }.items():
        (tmp_path / "mine" / group).mkdir(parents=True)
        (tmp_path / "mine" / group / "mine.yaml").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    mine = ["--config-dir", "mine", "data=mine", "model=mine", "optimizer=mine"]
    run_train(*mine, "model.width=5", "training.epochs=1", "evaluation.pictures=none")
    run = last_run()
    assert run.info.run_name == "width=5 epochs=1 model=mine optimizer=mine"
    assert run.data.params["model.width"] == "5"
    assert load_model_of(run).predict(np.zeros((1, 8, 8, 1), np.float32)).size == 1


def test_xla_trains_where_others_have_asked_for_kernels_that_it_does_not_have(run_train, last_run, capfd):
    quick = ["training.epochs=1", "tracking.log_model=false"]
    run_train(*TINY, *quick)
    run_train(*TINY, *quick, "model.filters=[4]", "model.dense_units=[4]", "training.xla=true")
    assert (last_run().info.status, last_run().data.params["training.xla"]) == ("FINISHED", "True")
    assert "doesn't support" not in "".join(capfd.readouterr())


def test_data_function_that_returns_something_else_is_told(run_train):
    with pytest.raises(SystemExit, match=r"data._target_=builtins.dict: gave a dict; it must return"):
        run_train("data=synthetic", "data._target_=builtins.dict")
