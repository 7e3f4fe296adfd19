"""No code that a model's file names is run, whichever way it names it."""

import io
import json
import tomllib
import zipfile
from pathlib import Path

import h5py
import pytest
from packaging.requirements import Requirement

from cnn_sweeps.errors import ModelError
from cnn_sweeps.use.kept_model import _load_network, load_kept_model
from cnn_sweeps.use.place import find_place


def layer(class_name, **config):
    base = {"name": "second", "trainable": True, "dtype": "float32"}
    return {"module": "keras.layers", "class_name": class_name, "config": base | config, "registered_name": None}


def function(module, name):
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


def calling(module, name, **arguments):
    return layer("Lambda", function=function(module, name), arguments=arguments)


DOWNLOAD = function("keras.datasets.imdb", "load_data")  # and unpickle, and overwrite what lies there


def write_model(file, second, network=None):
    """Write what Keras would have written of a network of two layers, or of something else."""
    layers = [layer("InputLayer", batch_shape=[None, 4]), second]
    layers[0]["config"] |= {"name": "first"}
    config = {"name": "s", "trainable": True, "dtype": "float32", "layers": layers}
    network = network or {"module": "keras", "class_name": "Sequential", "config": config, "registered_name": None}
    weights = io.BytesIO()
    with h5py.File(weights, "w") as content:
        content.create_group("layers")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("config.json", json.dumps(network | {"build_config": {"input_shape": [None, 4]}}))
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.10.0", "date_saved": "2025-01-01@00:00:00"}))
        archive.writestr("model.weights.h5", weights.getvalue())


def test_file_that_is_written_like_these_loads_if_it_names_no_code(tmp_path):
    write_model(tmp_path / "model.keras", layer("ReLU"))
    assert _load_network(tmp_path / "model.keras", "kept").output_shape == (None, 4)


@pytest.mark.parametrize(
    "second",
    [
        calling("os", "system"),
        calling("builtins", "print"),
        calling("keras.utils", "get_file"),
        calling("keras.models", "load_model"),
        calling("keras.config", "enable_unsafe_deserialization"),
        calling("keras.src.saving.saving_api", "load_model"),
        calling("keras.src.utils.file_utils", "get_file"),
        layer("Lambda", function={"class_name": "__lambda__", "config": {"code": "4w==", "defaults": None}}),
        calling("keras.ops", "cond", true_fn=DOWNLOAD, false_fn=DOWNLOAD),
        calling("keras.config", "set_backend"),
        calling("keras.ops", "abs"),
        calling("keras.ops", "abs") | {"module": "keras", "class_name": "layers.Lambda"},
        layer("Activation", activation=DOWNLOAD),
        layer("TFSMLayer", filepath="/nowhere", call_endpoint="serve"),
        layer("StringLookup", vocabulary="/etc/hostname"),
    ],
    ids=lambda second: json.dumps(second["config"])[-60:],
)
def test_layer_that_calls_a_named_function_or_reads_another_file_is_refused_in_one_line(second, tmp_path):
    write_model(tmp_path / "model.keras", second)
    with pytest.raises(ModelError, match="has code or layers that are not Keras's own") as refused:
        _load_network(tmp_path / "model.keras", "kept")
    assert len(str(refused.value).splitlines()) == 1


def test_function_is_not_called_by_which_keras_fetches_and_unpickles_a_file(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr("keras.src.datasets.imdb.get_file", lambda *given, **_: called.append(given))
    write_model(tmp_path / "model.keras", calling("keras.ops", "cond", true_fn=DOWNLOAD, false_fn=DOWNLOAD))
    with pytest.raises(ModelError):
        _load_network(tmp_path / "model.keras", "kept")
    assert not called


RECORD = (
    "metadata: {cnn_sweeps: "
    "{class_names: [a, b], image_shape: [1, 1, 4], decision_threshold: null, pixels: 0 to 255}}\n"
)


def refusal(folder, about, network=None):
    """Give the line in which the model in a folder is refused."""
    (folder / "artifacts").mkdir()
    (folder / "MLmodel").write_text(about)
    write_model(folder / "artifacts/model.keras", layer("ReLU"), network)
    with pytest.raises(ModelError) as refused:
        load_kept_model(find_place(str(folder), None))
    assert len(str(refused.value).splitlines()) == 1
    return str(refused.value)


@pytest.mark.parametrize(
    "more",
    [
        "a: &a [x]\nb: [*a]",
        "a: !!python/object/apply:os.system [true]",
        "a: " + "x" * 2**20,
        "a: " + "[" * 5000,
    ],
    ids=["alias", "tag", "size", "depth"],
)
def test_description_that_is_no_plain_yaml_of_ordinary_size_is_refused(more, tmp_path):
    assert "does not have the classes" in refusal(tmp_path, RECORD + more)


def test_network_of_other_shapes_or_of_none_is_told_in_one_line(tmp_path):
    assert "has input (None, 4) and output (None, 4), but its" in refusal(tmp_path, RECORD)
    (tmp_path / "second").mkdir()
    assert "has input None and output None" in refusal(tmp_path / "second", RECORD, layer("ReLU"))


def test_description_of_absurd_size_is_not_read(tmp_path):
    write_model(tmp_path / "model.keras", layer("ReLU", more="x" * 2**20))
    with pytest.raises(ModelError, match="its description has more than"):
        _load_network(tmp_path / "model.keras", "kept")


def test_versions_of_keras_that_call_named_functions_cannot_be_installed():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {each.name: each.specifier for each in map(Requirement, project["dependencies"])}
    assert not [old for old in ("3.10.0", "3.12.0", "3.13.1") if old in needed["keras"]]
