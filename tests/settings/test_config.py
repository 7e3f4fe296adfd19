"""The schema refuses what it should, with the key, the value and what is allowed; every shipped option composes."""

from pathlib import Path

import hydra
import pytest
import yaml
from conftest import compose
from omegaconf import OmegaConf

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.settings.command_line import CONF_DIR, VERSION_BASE
from cnn_sweeps.settings.config import smallest_cnn_image
from cnn_sweeps.settings.environment import HomeInFolders
from cnn_sweeps.settings.target_arguments import TARGET_ARGUMENTS
from cnn_sweeps.settings.targets import targets_in_text
from cnn_sweeps.sweep.study.address import parse_address

GROUPS = ("data", "model", "optimizer", "regularization", "training", "tracking", "experiment")
OPTIONS = sorted(
    f"{file.parent.name}={file.stem}" for file in Path(CONF_DIR).glob("*/*.yaml") if file.parent.name in GROUPS
)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_passes_its_own_schema(option):
    compose(option, *(["data.root=images"] if option in ("data=folder", "experiment=dogs_vs_cats") else []))


@pytest.mark.parametrize(
    "file", sorted(Path(CONF_DIR).glob("*/*.yaml")), ids=lambda file: f"{file.parent.name}/{file.stem}"
)
def test_every_option_file_starts_with_what_it_is_and_a_command(file):
    header = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert any("python -m cnn_sweeps.train" in line for line in header)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs=0", "training.epochs=0: should be greater than or equal to 1"),
        ("training.epochs=2.5", "training.epochs=2.5: should be a valid integer"),
        ("training.epochs=many", "training.epochs=many: should be a valid integer"),
        ("training.batch_size=true", "training.batch_size=True: should be a valid integer"),
        ("model.dropout=1", "model.dropout=1: should be less than 1"),
        ("model.l2=-1e-4", "model.l2=-0.0001: should be greater than or equal to 0"),
        ("model.l2=nan", "model.l2=nan"),
        ("model.filters=[]", "model.filters=[]"),
        ("model.filters=[8,x]", "model.filters.1=x: should be a valid integer"),
        ("model.padding=full", "model.padding=full: should be 'same' or 'valid'"),
        ("optimizer.learning_rate=0", "optimizer.learning_rate=0: should be greater than 0"),
        ("optimizer.learning_rate=inf", "optimizer.learning_rate=inf: should be a finite number"),
        ("optimizer.decay_rate=1.1", "optimizer.decay_rate=1.1: should be less than or equal to 1"),
        ("optimizer.decay_steps=0", "optimizer.decay_steps=0: should be greater than or equal to 1"),
        ("optimizer.schedule=linear", "optimizer.schedule=linear: should be 'exponential', 'constant' or 'cosine'"),
        ("split.val_fraction=0", "split.val_fraction=0: should be greater than 0"),
        ("seed=-1", "seed=-1: should be greater than or equal to 0"),
        ("training.monitor=val_loss", "training.monitor=val_loss: should be 'val_log_loss' or 'val_accuracy'"),
        ("training.class_weight=equal", "training.class_weight=equal: should be 'balanced'"),
        ("augmentation.zoom_fraction=1", "augmentation.zoom_fraction=1: should be less than 1"),
        ("data.classes=[4]", "data.classes=[4]: List should have at least 2 items"),
        ("data.classes=[4,11]", "data.classes.1=11: should be less than or equal to 9"),
        ("+model.depth=3", "model.depth: no such setting here; remove it"),
        ("+training.epoch=3", "training.epoch: no such setting here; remove it"),
        ("~model.dropout", "model.dropout: no value given; add model.dropout=VALUE to the command"),
        ("data=folder", "data.root: no value given; add data.root=VALUE to the command"),
        ("data=folder data.root=x data.image_size=[16]", "data.image_size=[16]: should be a number of pixels or"),
        ("~optimizer.learning_rate", "optimizer.learning_rate: no value given; add optimizer.learning_rate=VALUE"),
        ("model.l2=${nothing}", "Interpolation key 'nothing' not found"),
        ("model._target_=no_such.thing", "there is no module no_such on the Python path"),
        ("training.strategy=all", "training.strategy=all: should be 'single' or 'mirrored'"),
        ("training.xla=true training.strategy=mirrored", "training.xla=true: XLA compiles for one device"),
        (
            "training.precision=mixed_float16 training.strategy=mirrored",
            "training.precision=mixed_float16: scales its loss for one device",
        ),
        ("objective=val_f1", "objective=val_f1: should be one or a list of val_log_loss, val_accuracy"),
        ("objective=[val_log_loss,test_log_loss]", "a sweep must not look at test images"),
        ("confirm=1", "confirm=1: should be 0 or a number of trials, at least 2"),
        ("prefer=smallest", "prefer=smallest: should be 'strongest_regularization'"),
        ("repeats=0", "repeats=0: should be greater than or equal to 1"),
        ("folds=0", "folds=0: should be greater than or equal to 1"),
        ("tracking.registered_model=a/b", "tracking.registered_model=a/b"),
        ("model._target_=null", "model._target_=None: should be the dotted path of a function"),
    ],
)
def test_bad_value_is_named_with_what_is_allowed(override, message):
    with pytest.raises(ConfigError) as error:
        compose(*override.split())
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_all_bad_values_are_named_at_once():
    with pytest.raises(ConfigError) as error:
        compose("training.epochs=0", "model.l2=2", "optimizer.decay_rate=0")
    assert all(key in str(error.value) for key in ("training.epochs=0", "model.l2=2", "optimizer.decay_rate=0"))


@pytest.mark.parametrize(
    "setting",
    [
        "data.image_size=1e6",
        "data.image_size=1000000",
        "data.image_size=[32,1000000]",
        "data.num_images=1000000000000",
        "model.filters=[1e9]",
        "model.filters=[8,1000000000]",
        "model.dense_units=[1000000000]",
        "training.batch_size=1000000000000",
        "training.epochs=1000000000000",
        "training.early_stopping.patience=1000000000000",
        "optimizer.decay_steps=1000000000000",
        "repeats=1000000",
        "folds=1000000",
    ],
)
def test_absurd_sizes_are_refused_by_name(setting):
    with pytest.raises(ConfigError, match=setting.split("=")[0].replace(".", r"\.")) as error:
        compose("data=synthetic", setting)
    assert "\n" not in str(error.value)


def test_absurd_numbers_of_layers_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"model\.blocks_per_stage=1000000: should be less than or equal to 100"):
        compose("model=residual", "model.blocks_per_stage=1000000")
    with pytest.raises(ConfigError, match=r"model\.filters=.*should have at most 64 items"):
        compose("model=residual", f"model.filters={[8] * 1000}")


def test_fractions_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(ConfigError, match="sum must be below 1"):
        compose("split.val_fraction=0.5", "split.test_fraction=0.5")


@pytest.mark.parametrize(("padding", "smallest"), [("same", 8), ("valid", 22)])
def test_image_too_small_for_the_network_is_refused_from_the_config_alone(padding, smallest):
    settings = ["data=folder", "data.root=images", f"model.padding={padding}"]
    assert smallest_cnn_image(3, padding) == smallest
    compose(*settings, f"data.image_size={smallest}")
    with pytest.raises(ConfigError, match=rf"images of {smallest - 1}x{smallest - 1} .* at least {smallest} pixels"):
        compose(*settings, f"data.image_size={smallest - 1}")
    with pytest.raises(ConfigError, match=rf"images of 64x{smallest - 1} pixels"):
        compose(*settings, f"data.image_size=[64,{smallest - 1}]")


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("none", {"model.dropout": 0.0, "model.l2": 0.0, "early_stopping": False, "augmentation.enabled": False}),
        ("dropout", {"model.dropout": 0.5, "model.l2": 0.0, "early_stopping": False, "augmentation.enabled": False}),
        ("l2", {"model.dropout": 0.0, "model.l2": 1e-3, "early_stopping": False, "augmentation.enabled": False}),
        ("full", {"model.dropout": 0.5, "model.l2": 1e-3, "early_stopping": True, "augmentation.enabled": True}),
    ],
)
@pytest.mark.parametrize("model", ["cnn", "residual"])
def test_regularization_preset_writes_into_the_keys_it_belongs_to(preset, expected, model):
    settings = compose(f"regularization={preset}", f"model={model}").settings
    settings["early_stopping"] = settings["training.early_stopping.enabled"]
    assert {key: settings[key] for key in expected} == expected


def test_what_the_user_sets_wins_over_a_preset_and_an_experiment():
    assert compose("model.l2=1e-4", "regularization=full").model["l2"] == 1e-4
    config = compose("experiment=dogs_vs_cats", "data.root=images", "model.l2=1e-4", "training.epochs=3")
    assert (config.model["l2"], config.training.epochs) == (1e-4, 3)


def test_what_lies_in_the_working_folder_is_the_same_by_whatever_path_and_wherever_that_is_moved():
    def root_of(text):
        return compose("data=folder", f"data.root={text}").settings_of_result["data.root"]

    assert {root_of(text) for text in ("photos", "./photos/", f"{Path.cwd()}/photos")} == {"photos"}
    assert root_of("/elsewhere/photos") == "/elsewhere/photos"


def test_another_regularization_preset_wins_over_that_of_an_experiment():
    settings = compose("experiment=dogs_vs_cats", "data.root=images", "regularization=none").settings
    assert (settings["model.dropout"], settings["model.l2"], settings["augmentation.enabled"]) == (0.0, 0.0, False)


def test_dogs_vs_cats_has_the_seed_notebooks_settings():
    settings = compose("experiment=dogs_vs_cats", "data.root=images").settings
    expected = {
        "data.image_size": 128,
        "data.channels": 3,
        "model.filters": [32, 64, 128],
        "model.dense_units": [128, 64],
        "model.dropout": 0.5,
        "model.l2": 1e-3,
        "data.root": "images",
        "model.padding": "valid",
        "optimizer.learning_rate": 1e-3,
        "optimizer.decay_rate": 0.9,
        "optimizer.decay_steps": 10000,
        "training.epochs": 10,
        "training.batch_size": 16,
        "training.early_stopping.patience": 5,
        "augmentation.enabled": True,
        "augmentation.horizontal_flip": True,
        "augmentation.rotation_degrees": 20,
    }
    assert {key: settings[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("group", "targets"),
    [
        ("data", [f"cnn_sweeps.data.load_{name}" for name in ("cifar10", "digits", "folder", "synthetic")]),
        ("model", [f"cnn_sweeps.models.build_{name}" for name in ("cnn", "pretrained", "residual")]),
        ("optimizer", [f"keras.optimizers.{name}" for name in ("Adam", "AdamW", "RMSprop", "SGD")]),
    ],
)
def test_functions_have_the_names_that_recorded_runs_studies_and_checkpoints_call_them_by(group, targets):
    texts = [file.read_text() for file in sorted(Path(CONF_DIR, group).glob("*.yaml"))]
    assert [target for text in texts for target in targets_in_text(text)] == targets
    assert set(targets) <= TARGET_ARGUMENTS.keys()


def test_settings_hold_every_leaf_under_the_key_that_a_user_types():
    composed = yaml.safe_load((Path(CONF_DIR) / "training/default.yaml").read_text())
    settings = compose().settings
    assert {f"training.{key}" for key in composed if key != "early_stopping"} <= set(settings)
    assert settings["optimizer.learning_rate"] == 3e-3
    assert settings["training.early_stopping.patience"] == 8


def test_settings_of_the_result_leave_out_what_does_not_change_it():
    changed = ["resume=true", "tracking.run_name=x", "training.checkpoint_dir=y"]
    assert compose(*changed).settings_of_result == compose().settings_of_result
    assert compose("seed=1").settings_of_result != compose().settings_of_result


def test_objective_depends_on_the_threshold_metric_where_it_is_accuracy_and_weights_never_do():
    key = "evaluation.threshold_metric"
    of_loss, of_accuracy = compose(), compose("objective=[val_log_loss,val_accuracy]", f"{key}=f1")
    assert key not in of_loss.settings_of_result
    assert of_accuracy.settings_of_result[key] == "f1"
    assert of_accuracy.settings_of_weights == of_loss.settings_of_weights


def test_tilde_is_the_home_folder_in_every_setting_that_takes_a_path(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    training = compose("training.checkpoint_dir='~/a'", "training.cache_dir='~/b'").training
    assert (training.checkpoint_dir, training.cache_dir) == (f"{tmp_path}/a", f"{tmp_path}/b")
    assert parse_address("~/study.journal").place == f"{tmp_path}/study.journal"
    assert parse_address("sqlite:///~/study.db").place == f"sqlite:///{tmp_path}/study.db"
    words = ["hydra.sweep.dir='~/${hydra.sweeper.study_name}'", "hydra.run.dir='~/run'", "hydra.sweeper.study_name=s"]
    with hydra.initialize_config_dir(CONF_DIR, **VERSION_BASE):
        config = hydra.compose("config", words, return_hydra_config=True)
        HomeInFolders().on_multirun_start(config)
        again = OmegaConf.to_container(config.hydra.overrides.hydra, resolve=False)
        job = hydra.compose("config", again, return_hydra_config=True)
    for each in (config, job):
        assert (each.hydra.sweep.dir, each.hydra.run.dir) == (f"{tmp_path}/s", f"{tmp_path}/run")
