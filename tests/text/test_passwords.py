"""What is secret in an address is written nowhere."""

import os

import hydra
import pytest
from conftest import compose
from omegaconf import OmegaConf

from cnn_sweeps.errors import StudyError
from cnn_sweeps.settings.command_line import CONF_DIR, VERSION_BASE
from cnn_sweeps.settings.environment import move_passwords
from cnn_sweeps.text.passwords import hide_passwords

SECRET = "tell-nobody"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg://me:tell-nobody@host:5432/db", "postgresql+psycopg://me:***@host:5432/db"),
        ("in postgresql://me:tell/no@body@host/db: refused", "in postgresql://me:***@host/db: refused"),
        ("redis://:tell-nobody@host/0", "redis://:***@host/0"),
        ("a='postgresql://me:tell'no\"body@host/db'", "a='postgresql://me:***@host/db'"),
        ("a='http://host:5000',b='me@here'", None),
        ("'tracking.uri=https://tell-nobody@host/x' seed=1", "'tracking.uri=https://***@host/x' seed=1"),
        ("postgresql://host/db?sslpassword=tell-nobody&a=b", "postgresql://host/db?sslpassword=***&a=b"),
        ("http://host/?Access_Token=tell-nobody", "http://host/?Access_Token=***"),
        ("postgresql://me:${oc.env:DB_PASSWORD}@host/db", None),
        ("http://${oc.env:ME}:${oc.env:DB_PASSWORD}@host", None),
        ("postgresql://me@host/db", None),
        ("http://127.0.0.1:5000/#/experiments/1", None),
        ("sqlite:////home/me@here/mlflow.db", None),
        ("models:/name@champion", None),
    ],
)
def test_secrets_of_addresses_are_hidden_and_nothing_else(text, shown):
    assert hide_passwords(text) == (shown or text)
    assert hide_passwords(hide_passwords(text)) == hide_passwords(text)


def test_no_message_to_the_user_holds_a_password():
    assert str(StudyError("postgresql://me:tell-nobody@host: no")) == "postgresql://me:***@host: no"


def test_what_environment_variables_hold_is_used_and_only_their_names_are_recorded(monkeypatch):
    monkeypatch.setenv("MY_PASSWORD", SECRET)
    monkeypatch.setenv("MY_EPOCHS", "3")
    uri = "http://me:${oc.env:MY_PASSWORD}@host"
    config = compose(f"tracking.uri={uri}", "training.epochs='${oc.decode:${oc.env:MY_EPOCHS}}'")
    assert config.tracking.uri == f"http://me:{SECRET}@host"
    assert config.settings["tracking.uri"] == uri
    assert config.settings["training.epochs"] == config.training.epochs == 3


def test_launcher_that_sends_variables_sends_those_that_hold_the_passwords(monkeypatch):
    """To the workers of a cluster, which were started without them."""
    monkeypatch.setenv("HYDRA_SWEEPER_STORAGE_PASSWORD", "")  # and be as it was afterwards
    words = ["hydra/launcher=dask", f"hydra.sweeper.storage=postgresql://me:{SECRET}@host/studies"]
    with hydra.initialize_config_dir(CONF_DIR, **VERSION_BASE):
        composed = hydra.compose("config", words, return_hydra_config=True)
    move_passwords(composed)
    assert composed.hydra.launcher.environment == ["MLFLOW_TRACKING_URI", "HYDRA_SWEEPER_STORAGE_PASSWORD"]
    assert os.environ["HYDRA_SWEEPER_STORAGE_PASSWORD"] == SECRET


def test_only_what_holds_a_secret_becomes_an_override():
    with hydra.initialize_config_dir(CONF_DIR, **VERSION_BASE):
        composed = hydra.compose("config", ["seed=1"], return_hydra_config=True)
    OmegaConf.update(composed, "training.epochs", float("nan"))  # which is not equal to itself
    move_passwords(composed)
    assert composed.hydra.overrides.task == ["seed=1"]


def written_in(folder):
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert any(file.name == "hydra.yaml" for file in files)
    return "\n".join(file.read_text() for file in files)


@pytest.fixture
def of_a_file(tmp_path_factory):
    """The option `tracking=mine`, with a password."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "tracking").mkdir()
    text = f"defaults: [mlflow]\nuri: http://me:{SECRET}@127.0.0.1:1\n"
    (folder / "tracking" / "mine.yaml").write_text(text)
    return ["--config-dir", str(folder), "tracking=mine"]


@pytest.mark.parametrize("words", [[f"tracking.uri=http://me:{SECRET}@127.0.0.1:1"], None])
def test_hydra_writes_no_password_into_the_runs_folder(words, of_a_file, run_train, tmp_path, monkeypatch):
    for name in ("TRACKING_URI_PASSWORD", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")  # and be as it was afterwards
    with pytest.raises(SystemExit, match=r"tracking\.uri=http://127\.0\.0\.1:1: the tracking server does not answer"):
        run_train(*(words or of_a_file))
    assert SECRET not in written_in(tmp_path)
    assert "http://me:${oc.env:TRACKING_URI_PASSWORD}@127.0.0.1:1" in written_in(tmp_path)
