"""What all tests share: quiet libraries, one MLflow store, and ways to compose and to run."""

import os
import sys
from pathlib import Path

os.environ.update(
    TF_CPP_MIN_LOG_LEVEL="3", MLFLOW_LOGGING_LEVEL="WARNING", MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true"
)

import hydra
import pytest

from cnn_sweeps.command_line import CONF_DIR, VERSION_BASE, run_application
from cnn_sweeps.config import check_config
from cnn_sweeps.schema import RunConfig
from cnn_sweeps.train import train

# The smallest run that goes through everything.
TINY_DATA = [
    "data=synthetic",
    "data.num_images=60",
    "data.image_size=16",
    "data.channels=1",
    "data.difficulty=0.2",
    "training.epochs=2",
    "training.batch_size=16",
]
TINY_CNN = ["model.filters=[4,8]", "model.dense_units=[8,4]"]
TINY = TINY_DATA + TINY_CNN


def compose(*overrides: str) -> RunConfig:
    """Compose and check a configuration as the command line would."""
    with hydra.initialize_config_dir(CONF_DIR, **VERSION_BASE):
        return check_config(hydra.compose("config", list(overrides)))


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a MLflow database that all runs of the session share; making one takes seconds."""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(scope="session")
def kept_run(store: Path):
    """A run of the smallest training, of two classes; its model is version 1 of `tiny`, with the alias `tiniest`."""
    import mlflow
    from tiny_sweeps import command_in

    folder = store / "kept"
    folder.mkdir()
    with command_in(folder, store) as run_train_here:
        run_train_here(*TINY, "tracking.experiment_name=kept")
    (run,) = mlflow.search_runs(experiment_names=["kept"], output_format="list")
    mlflow.register_model(f"models:/{run.outputs.model_outputs[0].model_id}", "tiny")
    mlflow.MlflowClient().set_registered_model_alias("tiny", "tiniest", "1")
    return run


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A folder of twelve images, and its image files."""
    from kept_models import write_photos

    folder = tmp_path_factory.mktemp("photos")
    return folder, write_photos(folder)


@pytest.fixture
def run_train(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run the command `python -m cnn_sweeps.train ARGUMENTS` in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        run_application(train)

    return run


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server."""
    from servers import started_postgres

    with started_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def tracking_server(tmp_path_factory: pytest.TempPathFactory):
    """MLflow's tracking server on SQLite."""
    from servers import started_tracking_server

    with started_tracking_server(tmp_path_factory.mktemp("tracking server")) as server:
        yield server
