"""A configuration that was stored is data: it calls what is offered or allowed by name, and looks nothing up."""

import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import TINY, compose
from omegaconf import OmegaConf

from cnn_sweeps.errors import ConfigError, DataError
from cnn_sweeps.experiment import trial_folder
from cnn_sweeps.experiment.reproduction import Reproduction
from cnn_sweeps.experiment.trial_folder import TrialFolder, load_kept
from cnn_sweeps.settings.arguments import CommandLine
from cnn_sweeps.settings.command_line import CONF_DIR
from cnn_sweeps.settings.stored_config import MAX_CHARACTERS, Trusted, parse_stored, trusted_of, trusted_values
from cnn_sweeps.settings.targets import OFFERED, named_targets, targets_in_folder

HERE = OmegaConf.create(
    {"tracking": {"uri": "sqlite:///here.db"}, "training": {"checkpoint_dir": "c", "cache_dir": "k"}, "data": {}}
)
FOREIGN = [
    *("pandas.read_pickle", "os.system", "builtins.eval", "keras.utils.get_file", "keras.optimizers.deserialize"),
    *("keras.models.load_model", "cnn_sweeps.data.folder.os.system", "cnn_sweeps.models.keras.utils.get_file"),
    *("cnn_sweeps.settings.targets.call_target", "cnn_sweeps.models", "keras.optimizers.Adam.__init__", "load_digits"),
]


@pytest.fixture(scope="module")
def stored():
    """The configuration that a run records."""
    return compose(*TINY).resolved


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Modules of the user's own."""
    (tmp_path / "mine_to_allow.py").write_text("import os\nfrom os import system\ndef load(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))


def record_of(tree, overrides="[]"):
    text = tree if isinstance(tree, str) else OmegaConf.to_yaml(OmegaConf.create(tree))
    return SimpleNamespace(
        run_id="0" * 32,
        name="run of a colleague",
        experiment_name="theirs",
        tags={"version.cnn-sweeps": "0.1.0", "command": "train"},
        config=text,
        overrides=overrides,
        measured={"": SimpleNamespace(val_log_loss={1: 0.5}, final={})},
        was_pruned=False,
    )


def refusal(tree, allowed=(), overrides="[]"):
    with pytest.raises(ConfigError) as error:
        Reproduction(record_of(tree, overrides), HERE, allowed)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000
    return str(error.value)


def test_what_was_recorded_is_restored(stored):
    config = Reproduction(record_of(stored), HERE).config
    assert config.data == stored["data"]
    assert config.tracking.uri == "sqlite:///here.db"
    assert config.tracking.experiment_name == "theirs"


def test_all_that_our_own_groups_call_is_offered():
    ours = set(targets_in_folder(Path(CONF_DIR) / "data")) | set(targets_in_folder(Path(CONF_DIR) / "model"))
    ours |= set(targets_in_folder(Path(CONF_DIR) / "optimizer"))
    assert len(ours) == 11
    assert ours <= set(OFFERED)


@pytest.mark.parametrize("target", FOREIGN)
@pytest.mark.parametrize("group", ["data", "model", "optimizer"])
def test_record_calls_nothing_else(group, target, stored):
    told = refusal(stored | {group: {"_target_": target, "filepath_or_buffer": "evil.pkl"}})
    assert f"would call {target}, which is not ours" in told
    assert f"add allow_target={target}" in told


@pytest.mark.parametrize(
    "nested",
    [
        {"transform": {"_target_": "os.system", "command": "true"}},
        {"steps": [1, [{"deep": {"_target_": "os.system"}}]]},
        {"_target_": {"_target_": "os.system"}},
    ],
)
def test_nested_parts_of_a_record_call_nothing_else(nested, stored):
    assert "os.system" in refusal(stored | {"data": stored["data"] | nested})


def test_function_is_allowed_by_its_whole_name_and_no_other_with_it(stored, modules):
    tree = stored | {"data": {"_target_": "mine_to_allow.load"}}
    assert Reproduction(record_of(tree), HERE, ["mine_to_allow.load"]).config.data == tree["data"]
    assert "would call mine_to_allow.load" in refusal(tree, ["mine_to_allow.loa", "mine", "pandas.read_pickle"])
    nested = {"data": {"_target_": "mine_to_allow.load", "also": {"_target_": "os.system"}}}
    assert "would call os.system" in refusal(stored | nested, ["mine_to_allow.load"])


def test_module_is_allowed_with_the_functions_that_are_its_own(stored, modules):
    tree = stored | {"data": {"_target_": "mine_to_allow.load"}}
    assert Reproduction(record_of(tree), HERE, ["mine_to_allow"]).config.data == tree["data"]
    for target in ("mine_to_allow.system", "mine_to_allow.os.system", "mine_to_allow.nothing", "mine_to_allow.__doc__"):
        told = refusal(stored | {"data": {"_target_": target}}, ["mine_to_allow"])
        assert f"would call {target}" in told


def test_allowed_functions_are_given_one_by_one():
    line = CommandLine("", [], [], repeatable=["allow_target"])
    assert line.read(["allow_target=a.b", "allow_target=c"])[2] == {"allow_target": "a.b,c"}


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:HOME}",
        "${oc.decode:${oc.env:HOME}}",
        "a ${oc.env:HOME,x} b",
        "${seed}",
        "${oc.create:{a:1}}",
        "${",
        "\\${a}",
    ],
)
def test_nothing_is_looked_up_for_a_record(text, stored, monkeypatch):
    monkeypatch.setenv("HOME", "not for others")
    for changed in (
        {"data": stored["data"] | {"num_images": text}},
        {"data": stored["data"] | {"list": [{"a": text}]}},
        {"data": stored["data"] | {text: 1}},
        {"objective": text},
    ):
        told = refusal(yaml.dump(stored | changed))
        assert "is not looked up" in told
        assert "not for others" not in told


def test_name_of_a_run_that_named_a_variable_is_left_out(stored, monkeypatch):
    monkeypatch.setenv("MYPW", "not for others")
    tree = stored | {"tracking": stored["tracking"] | {"run_name": "r-${oc.env:MYPW}"}}
    config = Reproduction(record_of(yaml.dump(tree)), HERE).config
    assert config.tracking.run_name is None
    assert "not for others" not in str(config)


def bomb():
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefghi", "bcdefghij", strict=True)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (bomb(), "has an alias or a tag in line 2"),
        ("a: &a {b: 1}\nc: {<<: *a}", "has an alias or a tag in line 2"),
        ("a: !!python/object/apply:os.system [true]", "has an alias or a tag in line 1"),
        ("[" * 50_000, "is nested more than 20 deep in line 1"),
        ("\n".join(" " * i + "a:" for i in range(300)), "is nested more than 20 deep"),
        ("a: " + "x" * MAX_CHARACTERS, "a stored configuration has at most 100,000"),
        ("a: " + "9" * 50_000, "cannot be read"),
        ("a: [1", "cannot be read"),
        ("a: 2020-99-99", "cannot be read"),
        ("a: \x00", "cannot be read"),
        ("- a", "is no configuration"),
        ("", "is no configuration"),
        ("data: 1", "is no configuration"),
    ],
)
def test_what_is_too_large_or_no_plain_yaml_is_refused_in_one_line(text, reason, stored):
    assert reason in refusal(text)
    if "is no configuration" not in reason:
        assert reason in refusal(stored, overrides=text)


@pytest.mark.parametrize("group", ["split", "tracking", "schedule", "optimizer", "resolved", 1])
def test_values_of_another_kind_are_refused_in_one_line(group, stored):
    for value in (None, 1, "text", [], {"a": 1}, {1: 1}):
        told = refusal(stored | {group: value})
        assert re.search("no configuration of a run|do not fit this code", told)


def test_overrides_that_are_no_texts_are_refused(stored):
    assert "is no list of overrides" in refusal(stored, overrides="[{a: 1}]")
    assert "is no list of overrides" in refusal(stored, overrides="a")


def keep_config(folder, tree):
    (folder / "config.yaml").write_text(yaml.dump(tree))


def test_configuration_in_a_trials_folder_names_only_what_the_sweeps_own_does(stored, tmp_path, monkeypatch):
    """It was written by whoever ran the trial, perhaps elsewhere; DataError means that it was accepted."""
    monkeypatch.setenv("MY_EXPERIMENT", "of mine")
    own = stored | {"tracking": stored["tracking"] | {"experiment_name": "${oc.env:MY_EXPERIMENT}"}}
    trusted = trusted_of(SimpleNamespace(resolved=own))
    keep_config(tmp_path, own)
    with pytest.raises(DataError, match="have changed since trial 3 was trained"):
        load_kept(TrialFolder(str(tmp_path), 3, "none", trusted))
    for tree, told in (
        (own | {"model": {"_target_": "os.system", "command": "true"}}, "would call os.system"),
        (own | {"objective": "${oc.env:HOME}"}, r"refers to \$\{oc.env:HOME\}"),
    ):
        keep_config(tmp_path, tree)
        with pytest.raises(ConfigError, match=told):
            load_kept(TrialFolder(str(tmp_path), 3, "none", trusted))
    with pytest.raises(ConfigError, match=r"refers to \$\{oc.env:MY_EXPERIMENT\}"):
        keep_config(tmp_path, own)
        load_kept(TrialFolder(str(tmp_path), 3, "none", Trusted()))


def test_configuration_in_a_trials_folder_says_nothing_of_where_to_record_or_to_keep_images(
    stored, tmp_path, monkeypatch
):
    """A password would go to that store, and a folder there would be filled and cleaned."""
    loaded = []
    monkeypatch.setattr(trial_folder, "load_images_once", lambda config: loaded.append(config) or sys.exit())
    elsewhere = {"_target_": "cnn_sweeps.data.load_folder", "root": "/home", "cache_dir": "/thesis", "image_size": 28}
    elsewhere |= {"channels": 1, "on_bad_image": "skip"}
    changed = {"tracking": stored["tracking"] | {"uri": "http://elsewhere"}, "data": elsewhere}
    changed["training"] = stored["training"] | {"cache_dir": "/thesis"}
    keep_config(tmp_path, stored | changed)
    with pytest.raises(SystemExit):
        load_kept(TrialFolder(str(tmp_path), 3, "none", trusted_of(SimpleNamespace(resolved=stored))))
    assert loaded[0].tracking.uri == stored["tracking"]["uri"]
    assert loaded[0].training.cache_dir == os.path.expanduser(stored["training"]["cache_dir"])  # noqa: PTH111
    assert loaded[0].data == stored["data"] == loaded[0].resolved["data"]


@pytest.mark.parametrize(
    "text", ["", "7", "[[], 1, null]", '[["x"], 1, 0.5]', '[[{"val_log_loss": "x"}], 1, null]', "[" * 10**5]
)
def test_history_in_a_trials_folder_that_makes_no_sense_is_told_in_one_line(text, tmp_path):
    for name in ("config.yaml", "final.weights.h5"):
        (tmp_path / name).touch()
    (tmp_path / "history.json").write_text(text)
    (tmp_path / "next").mkdir()
    with pytest.raises(DataError, match=r"history.json: makes no sense, or is of an earlier version"):
        trial_folder.take_over(tmp_path, tmp_path / "next")


def test_module_that_is_allowed_gives_none_of_its_private_functions():
    private = {"a": {"_target_": "json.decoder._decode_uXXXX"}}
    with pytest.raises(ConfigError, match=r"would call json\.decoder\._decode_uXXXX"):
        trusted_values(private, Trusted(["json.decoder"]), "it", "{}")


def test_targets_are_found_wherever_they_are():
    tree = {"a": [{"_target_": "x.y"}], "b": {"_target_": "z", "c": {"_target_": 1}}}
    assert list(named_targets(tree)) == ["x.y", "z", "1"]
    assert parse_stored("a: 1e-3\nb: 0.5\nc: [true, null]", "it") == {"a": "1e-3", "b": 0.5, "c": [True, None]}
