"""What is secret is written nowhere: passwords of addresses, and what environment variables hold."""

import os
from pathlib import Path

import hydra
import mlflow
import pytest
from conftest import TINY, compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from cnn_sweeps.settings.command_line import CONF_DIR, VERSION_BASE
from cnn_sweeps.settings.config import name_variables
from cnn_sweeps.settings.environment import move_passwords
from cnn_sweeps.text.commands import command_to_repeat
from cnn_sweeps.text.passwords import hide_passwords, hide_passwords_of_word
from cnn_sweeps.tracking.projection import project
from cnn_sweeps.tracking.record.process import run_tags
from cnn_sweeps.tracking.record.record import Record

SECRET = "tell-nobody"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://host/db?options=-cpassword%3Dtell-nobody", "http://host/db?options=***"),
        ("https://host/blob?sv=1&sig=tell-nobody&se=2", "https://host/blob?sv=1&sig=***&se=2"),
        ("https://host/?key=tell-nobody", "https://host/?key=***"),
        ("https://host/?%6Bey=tell-nobody", "https://host/?%6Bey=***"),
        ("https://host/#access_token=tell-nobody&state=1", "https://host/#access_token=***&state=1"),
        ("https://host/?monkey=banana&signal=x&optional=1", None),
        ("http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning", None),
        ("postgresql://me:tell nobody ever@host/db", "postgresql://me:***@host/db"),
        ("refused: postgresql://me:tell nobody@host/db is away", "refused: postgresql://me:***@host/db is away"),
        ("http://host:5000 does not answer; ask me@host", None),
        ("a=tcp://host:8786: a worker there, at tcp://host:1, is away; e.g. postgresql://ME@HOST/studies", None),
        ("http://me:tell://nobody@host", "http://me:***@host"),
        (
            "a=['http://me:tell-nobody@one', 'http://me:tell-nobody@two']",
            "a=['http://me:***@one', 'http://me:***@two']",
        ),
        ("http://me:tell-nobody@one\nhttp://me:tell-nobody@two", "http://me:***@one\nhttp://me:***@two"),
    ],
)
def test_secrets_of_texts_are_hidden_and_nothing_else(text, shown):
    assert hide_passwords(text) == (shown or text)
    assert hide_passwords(hide_passwords(text)) == hide_passwords(text)


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("tracking.uri=http://me:tell nobody@host/x", "tracking.uri=http://me:***@host/x"),
        ("tracking.uri='http://me:tell \"no\" body@host/x'", "tracking.uri='http://me:***@host/x'"),
        ("++a.b='http://host/?token=tell nobody&c=d'", "++a.b='http://host/?token=***&c=d'"),
        ("--uri=http://me:tell, nobody@host", "--uri=http://me:***@host"),
        ("a=[http://me:tell-nobody@one, 'http://me:tell-nobody@two']", "a=[http://me:***@one, 'http://me:***@two']"),
        ("data.root='my photos'", None),
        ("--multirun", None),
    ],
)
def test_secrets_of_what_was_typed_may_hold_spaces_and_quotes(word, shown):
    assert hide_passwords_of_word(word) == (shown or word)
    assert "nobody" not in command_to_repeat("train", [word])


UNITS = ["://u:", "://u:@", "://u: p ", "?token", "?tokentoken=", "'", "://u:'", "@", "://u:p@h,", "?a&", "https://"]


@pytest.mark.parametrize("unit", [*UNITS, "http://t@", "://${", "${a", "://u:x'=@", " ://u: x", " @://u:1 ", "a"])
def test_hiding_takes_time_in_proportion_to_the_text(unit):
    """In time that grows with its square, these texts of a megabyte would take hours, and the test's limit ends it."""
    for tail in ("", "'=@") if "@" in unit else ("", "@", " @", "'=@"):
        hide_passwords(unit * (2**20 // len(unit)) + tail)


def composed(*words, folder=None):
    path = str(folder) if folder else CONF_DIR
    with hydra.initialize_config_dir(path, **VERSION_BASE):
        extra = [f"hydra.searchpath=[file://{CONF_DIR}]"] if folder else []
        return hydra.compose("config", [*words, *extra], return_hydra_config=True)


@pytest.fixture
def environment(monkeypatch):
    """The environment's variables, as they were again afterwards."""
    before = dict(os.environ)
    yield os.environ
    for name in os.environ.keys() - before.keys():
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    "password", ["tell nobody", "tell 'no' body", 'tell "no" body', "tell/no@b,o:dy", "tell\\nobody", "ü "]
)
def test_password_that_is_typed_is_moved_whatever_it_holds(password, environment):
    escaped = password.replace("\\'", "\\\\'").replace("'", "\\'")
    config = composed(f"tracking.uri='http://me:{escaped}@host/x'", "hydra.launcher.n_jobs=1")
    move_passwords(config)
    assert config.tracking.uri == f"http://me:{password}@host/x"
    assert environment["TRACKING_URI_PASSWORD"] == password
    written = OmegaConf.to_yaml(config)
    assert "http://me:${oc.env:TRACKING_URI_PASSWORD}@host/x" in written
    assert password not in written
    words = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    again = composed(*words)
    assert again.tracking.uri == f"http://me:{password}@host/x"


def test_passwords_in_lists_are_moved_and_every_job_gets_their_names(tmp_path, environment):
    places = f"['http://me:{SECRET}@one', {{url: 'http://me:{SECRET}2@two', n: 1, none: null}}]"
    (tmp_path / "config.yaml").write_text(f"defaults: [base, _self_]\nplaces: {places}\n")
    (tmp_path / "base.yaml").write_text("a: 1\n")
    config = composed(folder=tmp_path)
    move_passwords(config)
    assert SECRET not in OmegaConf.to_yaml(config)
    expected = [f"http://me:{SECRET}@one", {"url": f"http://me:{SECRET}2@two", "n": 1, "none": None}]
    assert OmegaConf.to_container(config.places, resolve=True) == expected
    (word,) = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    assert OverridesParser.create().parse_override(word).value()[1]["n"] == 1
    assert OmegaConf.to_container(composed(word, folder=tmp_path).places, resolve=True) == expected


def test_password_of_which_a_part_is_named_is_moved_in_parts(environment, monkeypatch):
    monkeypatch.setenv("MY_PART", "x")
    config = composed(f"tracking.uri='http://me:{SECRET}${{oc.env:MY_PART}}{SECRET}@host'")
    move_passwords(config)
    assert SECRET not in OmegaConf.to_yaml(config)
    assert config.tracking.uri == f"http://me:{SECRET}x{SECRET}@host"


def test_variable_is_named_in_the_record_by_whatever_way_it_came_there(monkeypatch):
    monkeypatch.setenv("MYPW", SECRET)
    raw = {
        "direct": "r-${oc.env:MYPW}",
        "spaced": "${ oc.env : MYPW }",
        "with_default": "${oc.env:MYPW,none}",
        "decoded": "${oc.decode:${oc.env:MYPW}}",
        "by_reference": "${direct}",
        "of_a_part": "${nested}",
        "nested": {"list": ["${oc.env:MYPW}", 1]},
        "plain": 3,
    }
    resolved = OmegaConf.to_container(OmegaConf.create(raw), resolve=True)
    assert resolved["by_reference"] == f"r-{SECRET}"
    recorded = name_variables(raw, resolved)
    assert SECRET not in str(recorded)
    assert recorded["by_reference"] == "r-${oc.env:MYPW}"
    assert recorded["of_a_part"] == {"list": ["${oc.env:MYPW}", 1]}
    assert recorded["plain"] == 3


def test_number_from_a_variable_is_recorded_as_the_number(monkeypatch):
    monkeypatch.setenv("MY_EPOCHS", "3")
    config = compose("training.epochs='${oc.decode:${oc.env:MY_EPOCHS}}'")
    assert config.settings["training.epochs"] == 3


def test_address_of_the_repository_around_the_program_is_recorded_without_its_token(store, tmp_path, monkeypatch):
    """Some versions of MLflow record it as it is."""
    git = {"mlflow.source.git.commit": "1", "mlflow.source.git.repoURL": f"https://{SECRET}@github.com/me/mine"}
    monkeypatch.setattr("mlflow.tracking.context.git_context.GitRunContext._git_info", git)
    record, uri = Record(tmp_path), f"sqlite:///{store}/mlflow.db"
    record.begin("secrets", "any", uri, run_tags({}))
    run_id = project(tmp_path, uri)
    assert mlflow.get_run(run_id).data.tags["mlflow.source.git.repoURL"] == "https://***@github.com/me/mine"
    assert SECRET not in (tmp_path / "record.jsonl").read_text() + (tmp_path / "projected.json").read_text()


def test_run_records_what_was_typed_as_it_was_typed(run_train, store, tmp_path, monkeypatch):
    """But for the run's name, which is what the user wants it to be."""
    monkeypatch.setenv("MYPW", SECRET)
    word = "tracking.run_name=r-${oc.env:MYPW}"
    run_train(*TINY, "training.epochs=1", "tracking.experiment_name=typed", "tracking.log_model=false", word)
    (run,) = mlflow.search_runs(experiment_names=["typed"], output_format="list")
    assert run.info.run_name == f"r-{SECRET}"
    tags = {key: value for key, value in run.data.tags.items() if key != "mlflow.runName"}
    assert SECRET not in str(tags) + str(run.data.params)
    assert word in tags["mlflow.command"]
    assert word in tags["mlflow.note.content"]
    names = [file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id) if not file.is_dir]
    for name in ("overrides.yaml", "config.yaml"):
        assert name in names
        text = mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/{name}")
        assert "r-${oc.env:MYPW}" in text
        assert SECRET not in text
    for file in Path(tmp_path).rglob("*.yaml"):
        assert SECRET not in file.read_text(), file
