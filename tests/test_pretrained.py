"""Runs and sweeps on a pretrained backbone: the same bit for bit however they come about, and used like any other."""

import functools
import json
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import mlflow
import numpy as np
import pytest
from conftest import compose
from forks import killed_in_epoch
from PIL import Image
from tiny_backbones import BACKBONE, tiny_backbone
from tiny_sweeps import IN_THIS_PROCESS, STUDY, child_runs, command_in, parent_run, raised_in_epoch, run_of, study_in

from cnn_sweeps import reproduce
from cnn_sweeps.errors import ModelError
from cnn_sweeps.experiment.beginning import prepare_beginning
from cnn_sweeps.export import export
from cnn_sweeps.predict import predict
from cnn_sweeps.training import features

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

NAME = "pretrained"
RUN = [
    *("data=folder", "data.root=photos", "data.image_size=32", "data.cache_dir=cache", *BACKBONE),
    *("training.epochs=3", "training.batch_size=16", "optimizer.learning_rate=0.01", "optimizer.fine_tune_factor=0.1"),
    *("regularization=none", "model.dropout=0.1", "augmentation.enabled=true", "augmentation.views=2"),
    *("evaluation.pictures=none", f"tracking.experiment_name={NAME}"),
]
FINE_TUNED = ["model.fine_tune=3", "training.fine_tune_epochs=3"]


def write_photos(folder):
    random = np.random.default_rng(0)
    for i in range(60):
        file = folder / ("dark", "light")[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((random.integers(0, 120, (32, 32, 3)) + 130 * (i % 2)).astype(np.uint8)).save(file)


@pytest.fixture(scope="module")
def made(tmp_path_factory, store, tiny_weights):
    """A folder of photos, how to train in it, and a run that was fine-tuned."""
    folder = tmp_path_factory.mktemp("made")
    write_photos(folder / "photos")
    shutil.copy(tiny_weights, folder / "backbone.weights.h5")
    with command_in(folder, store) as run_train:

        def train(*settings):
            run_train(*RUN, "model.weights=backbone.weights.h5", *settings)
            return newest_run()

        yield SimpleNamespace(folder=folder, train=train, run=train(*FINE_TUNED))


def newest_run():
    runs = mlflow.search_runs(experiment_names=[NAME], output_format="list")
    return next(run for run in runs if "mlflow.parentRunId" not in run.data.tags)


def weights_of(run):
    """The weights of a run's kept model, a list of arrays a layer."""
    return _weights_of_kept(run.outputs.model_outputs[0].model_id)


@functools.cache
def _weights_of_kept(model_id):
    folder = mlflow.artifacts.download_artifacts(f"models:/{model_id}")
    return weights_in(keras.saving.load_model(Path(folder, "artifacts/model.keras")))


@functools.cache
def weights_before():
    """Those that the backbone begins with."""
    return weights_in(tiny_backbone())


def weights_in(model):
    return {layer.name: layer.get_weights() for layer in model.layers if layer.weights}


def history(run, name):
    return [each.value for each in mlflow.MlflowClient().get_metric_history(run.info.run_id, name)]


def assert_same(run, other):
    varying = ("epoch_s", "images_per_s", "system/")
    names = [name for name in other.data.metrics if not name.startswith(varying)]
    assert {name: history(run, name) for name in names} == {name: history(other, name) for name in names}
    mine, others = weights_of(run), weights_of(other)
    assert mine.keys() == others.keys()
    for name, weights in mine.items():
        assert len(weights) == len(others[name])
        assert all(map(np.array_equal, weights, others[name])), name


def changed_layers(run):
    """Name those layers of the backbone that have other weights than it began with."""
    after = weights_of(run)
    return [name for name, each in weights_before().items() if not all(map(np.array_equal, each, after[name]))]


def test_fine_tuning_changes_the_last_layers_alone_at_its_own_learning_rate(made):
    assert changed_layers(made.run) == ["conv_pw_13"]
    rates = history(made.run, "learning_rate")
    assert len(rates) == 6
    np.testing.assert_allclose(rates[3:], [rate * 0.1 for rate in rates[:3]], rtol=1e-5)
    losses = history(made.run, "val_log_loss")
    assert made.run.data.metrics["best_epoch"] == 1 + np.argmin(losses)
    assert made.run.data.metrics["final_val_log_loss"] == min(losses)
    assert made.run.data.metrics["test_accuracy"] > 0.5


def test_run_that_is_ended_in_each_stage_and_goes_on_in_another_process_is_the_same(made, store):
    with raised_in_epoch(2, signal.SIGTERM), pytest.raises(SystemExit):
        made.train(*FINE_TUNED)
    ended = newest_run()
    command = [*RUN, "model.weights=backbone.weights.h5", *FINE_TUNED, "resume=true"]
    killed_in_epoch(5, made.folder, store, *command, "hydra.run.dir=killed")
    assert "resuming after epoch 2" in (made.folder / "killed/train.log").read_text()
    resumed = made.train(*FINE_TUNED, "resume=true")
    assert resumed.info.run_id == ended.info.run_id
    assert_same(resumed, made.run)


def test_fine_tuning_that_brings_nothing_leaves_the_weights_of_before(made):
    spoilt = made.train(*FINE_TUNED, "optimizer.fine_tune_factor=100")
    losses = history(spoilt, "val_log_loss")
    assert len(losses) == 6
    assert spoilt.data.metrics["best_epoch"] == 1 + np.argmin(losses) <= 3
    assert spoilt.data.metrics["final_val_log_loss"] == pytest.approx(min(losses), abs=1e-6)
    assert changed_layers(spoilt) == []


def where(made, store):
    return [f"model=runs:/{made.run.info.run_id}/model", f"tracking.uri=sqlite:///{store}/mlflow.db"]


def test_kept_model_predicts_what_it_serves(made, store, tmp_path):
    predict(["photos", *where(made, store), "--json", str(tmp_path / "table.json")])
    table = json.loads((tmp_path / "table.json").read_text())
    pixels = np.stack([np.asarray(Image.open(row["file"])) for row in table]).astype(np.float32)
    served = mlflow.pyfunc.load_model(f"models:/{made.run.outputs.model_outputs[0].model_id}").predict(pixels)
    assert len(table) == 60
    np.testing.assert_allclose([row["probabilities"]["light"] for row in table], served[:, 0], atol=1e-6)


def test_kept_model_is_exported_and_agrees_with_keras(made, store, tmp_path):
    pytest.importorskip("tf2onnx")
    export(["photos", *where(made, store), "format=onnx", f"output={tmp_path}/exported"])
    assert (tmp_path / "exported").exists()


def test_run_is_reproduced_bit_for_bit_and_no_feature_is_computed_again(made, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(features.FrozenBackbone, "compute", lambda *_: pytest.fail("computed again"))
    features._load.cache_clear()  # but for the files
    command = ["reproduce", made.run.info.run_id, "data.cache_dir=cache", "hydra.run.dir=again"]
    monkeypatch.setattr(sys, "argv", command)
    reproduce.main()
    assert "bit for bit" in (made.folder / "again/reproduce.log").read_text()
    assert_same(newest_run(), made.run)


@pytest.fixture
def kept(made):
    """The ways to name the model of the fine-tuned run: an alias, an address, a folder."""
    model_id = made.run.outputs.model_outputs[0].model_id
    version = mlflow.register_model(f"models:/{model_id}", NAME).version
    mlflow.MlflowClient().set_registered_model_alias(NAME, "beginning", version)
    folder = mlflow.artifacts.download_artifacts(f"models:/{model_id}", dst_path=str(made.folder / "kept"))
    run_address = f"runs:/{made.run.info.run_id}/model"
    return {"beginning": f"models:/{NAME}/{version}", run_address: run_address, folder: folder}


def test_run_begins_with_a_kept_model_and_names_its_version(made, kept):
    for name, address in kept.items():
        config = prepare_beginning(compose(*RUN, f"model.weights={name}"))
        assert config.settings["model.weights"] == address
        with np.load(config.model["weights"]) as arrays:
            np.testing.assert_array_equal(arrays["conv_pw_13/0"], weights_of(made.run)["conv_pw_13"][0])
    run = made.train("model.weights=beginning")
    assert run.data.params["model.weights"] == kept["beginning"]
    assert changed_layers(run) == ["conv_pw_13"]  # as in the kept one
    np.testing.assert_array_equal(*(weights_of(each)["conv_pw_13"][0] for each in (run, made.run)))


def test_kept_model_that_is_none_or_has_another_backbone_is_refused_by_its_name(made, kept):
    for name, told in (
        ("nowhere", "model.weights=nowhere: there is no such alias; registered are "),
        (str(made.folder / "photos"), f"model.weights={made.folder}/photos: there is no MLmodel in it"),
        ("beginning", f"model.weights={kept['beginning']}: these are not weights of MobileNet ("),
    ):
        with pytest.raises(ModelError) as error:
            prepare_beginning(compose(*RUN, f"model.weights={name}", "model.alpha=0.5"))
        assert str(error.value).startswith(told)
        assert "\n" not in str(error.value)


def test_bad_weights_are_told_in_one_line_before_any_image_is_read(made, tmp_path, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    (tmp_path / "photos/dark").mkdir(parents=True)
    with pytest.raises(SystemExit, match=r"^error: model\.weights=backbone\.weights\.h5: these are not weights of"):
        made.train(f"data.root={tmp_path}/photos", "model.alpha=0.5")


def test_missing_folder_is_told_before_bad_weights(made, tmp_path, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    with pytest.raises(SystemExit, match=r"^error: data\.root=\S+/fotos: does not exist; name a folder"):
        made.train(f"data.root={tmp_path}/fotos", "model.alpha=0.5")


def test_sweep_tests_registers_and_retrains_a_fine_tuned_trial(made):
    sweep = ["--multirun", IN_THIS_PROCESS, f"hydra.sweeper.study_name={STUDY}", "retrain_best=true"]
    made.train(*sweep, *FINE_TUNED, "model.l2=1e-5,1e-3", "hydra.sweeper.n_trials=1")
    study = study_in(made.folder)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"]
    best = run_of(study.best_trial)
    assert "test_log_loss" in best.data.metrics
    (retrained,) = (run for run in child_runs(parent_run(study)) if "retrained.trial" in run.data.tags)
    assert "test_log_loss" in retrained.data.metrics
    best_epoch = int(best.data.metrics["best_epoch"])
    assert best_epoch > 3
    assert len(history(retrained, "train_loss")) == best_epoch
    for run in (best, retrained):
        assert changed_layers(run) == ["conv_pw_13"]


def test_interrupted_run_goes_on_with_the_weights_that_it_began_with_alone(made, monkeypatch):
    file, settings = made.folder / "backbone.weights.h5", ["seed=7", "training.epochs=2"]
    content = file.read_bytes()
    with raised_in_epoch(1, signal.SIGTERM), pytest.raises(SystemExit):
        made.train(*settings)
    other = tiny_backbone()
    other.get_layer("conv1").set_weights([-weights_before()["conv1"][0]])
    other.save_weights(file)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # which the command before has set
    told = r"^error: model\.weights=backbone\.weights\.h5: have changed since the run was interrupted; restore them"
    with pytest.raises(SystemExit, match=told):
        made.train(*settings, "resume=true")
    file.write_bytes(content)
    assert len(history(made.train(*settings, "resume=true"), "val_log_loss")) == 2
