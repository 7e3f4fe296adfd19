"""What everybody does works with whichever Hydra is installed, and without a warning of what its next version refuses.

    pytest -n0 tests/hydra_versions.py

The rest of the suite shows the same things with the newest Hydra, so that pytest does not collect this file by itself;
`.ci/run` runs it with the newest release and with the newest pre-release, deprecation warnings being errors.
"""

import os
import subprocess
import sys

import pytest
from conftest import TINY
from sweep_app import states, sweep, write_app

_LIMIT_S = 1200  # only a hanging process reaches it
pytestmark = pytest.mark.timeout(_LIMIT_S)

RUN = [*TINY, "training.epochs=1", "tracking.log_model=false"]
SWEEP = ["--multirun", *RUN, "model.dropout=0.1,0.2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hydra")


def train(folder, *arguments):
    """Give what the command prints, as a process whose Hydra fails where it would warn."""
    environment = os.environ | {
        "HYDRA_DEPRECATION_WARNINGS_AS_ERRORS": "1",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
    }
    done = subprocess.run(
        [sys.executable, "-m", "cnn_sweeps.train", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr
    return done.stdout


def test_help_and_configuration(folder):
    assert "  model: cnn, pretrained, residual\n" in train(folder, "--help")
    assert "  filters:\n  - 4\n" in train(folder, *RUN, "--cfg", "job")


MINE = """\
import cnn_sweeps.data
from hydra.experimental.callback import Callback


def load():
    return cnn_sweeps.data.load_synthetic(60, 2, 16, 1, 0.2, 0)


class Mine(Callback):
    def on_run_start(self, config, **more):
        print("called back")
"""


def test_run_with_functions_of_the_users_own(folder, monkeypatch):
    (folder / "my_functions.py").write_text(MINE)
    (folder / "mine/data").mkdir(parents=True)
    (folder / "mine/data/mine.yaml").write_text("_target_: my_functions.load\n")
    (folder / "mine/experiment").mkdir()
    callback = "# @package _global_\nhydra: {callbacks: {mine: {_target_: my_functions.Mine}}}\n"
    (folder / "mine/experiment/mine.yaml").write_text(callback)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    words = [word for word in RUN if not word.startswith("data")]
    shown = train(folder, "--config-dir", "mine", *words, "data=mine", "experiment=mine")
    assert "called back" in shown
    assert "validation images: log loss" in shown


def test_sweep(folder):
    shown = train(folder, *SWEEP, "hydra.sweeper.study_name=workers")
    assert "2 complete" in shown
    for file in (folder / "outputs/sweeps/workers").rglob("*.log"):
        assert "Warning" not in file.read_text(), file


@pytest.mark.parametrize("launcher", ["basic", "joblib", "dask"])
def test_sweep_of_a_small_application_with_other_launchers(launcher, tmp_path, monkeypatch):
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    monkeypatch.setenv("HYDRA_DEPRECATION_WARNINGS_AS_ERRORS", "1")
    write_app(tmp_path)
    shown = sweep(tmp_path, "x=1,2", f"hydra/launcher={launcher}")
    assert states(tmp_path) == {"COMPLETE": 2}
    assert "Warning" not in shown
