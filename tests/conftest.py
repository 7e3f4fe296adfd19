"""What all tests share: quiet libraries, one MLflow store, and ways to compose and to run."""

import copy
import functools
import gc
import os
import shutil
import tempfile
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path

os.environ.update(
    TF_CPP_MIN_LOG_LEVEL="3",
    XLA_FLAGS="--xla_backend_optimization_level=0",  # nothing runs so long that it would pay
    MLFLOW_LOGGING_LEVEL="WARNING",
    MLFLOW_DISABLE_TELEMETRY="true",
    DO_NOT_TRACK="true",
    DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT="600s",  # on a busy machine
)

import hydra
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cnn_sweeps.settings.command_line import CONF_DIR, VERSION_BASE
from cnn_sweeps.settings.config import check_config
from cnn_sweeps.settings.schema import RunConfig
from cnn_sweeps.system.locks import file_lock

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
TINY_CNN = ["model.filters=[4,8]", "model.dense_units=[8,4]"]  # where it matters that there are several blocks
TINY = [*TINY_DATA, "model.filters=[4]", "model.dense_units=[4]", "evaluation.pictures=none"]  # graph, pictures: slow


# Tracing a network makes hundreds of thousands of objects, and few of them are garbage.
gc.set_threshold(50_000, 50, 100)


def pytest_collection_finish() -> None:
    """Leave what the imports made, which lasts, out of all collections."""
    gc.collect()
    gc.freeze()


@functools.cache
def compose(*overrides: str) -> RunConfig:
    """Compose and check a configuration as the command line would; nobody changes it.

    Hydra composes each choice of options once, which takes it a tenth of a second, and values change a copy.
    """
    read = [_read(each) for each in overrides]
    values = [each for each in read if each.type == OverrideType.CHANGE and each.key_or_group not in _GROUPS]
    config = copy.deepcopy(_composed(*(str(each.input_line) for each in read if each not in values)))
    try:
        for each in values:
            OmegaConf.update(config, each.key_or_group, each.value())
    except OmegaConfBaseException:  # there is no such key
        config = _composed(*overrides)
    return check_config(config)


_GROUPS = {folder.name for folder in Path(CONF_DIR).iterdir() if folder.is_dir()}
_read = functools.cache(OverridesParser.create().parse_override)


@functools.cache
def _composed(*overrides: str) -> DictConfig:
    with hydra.initialize_config_dir(CONF_DIR, **VERSION_BASE):
        return hydra.compose("config", list(overrides))


@pytest.fixture(scope="session", autouse=True)
def _parsed_once():
    """Have Hydra parse its own configuration files and those in `conf/` once: that is a fifth of each composition."""
    load, lasting = OmegaConf.load, (CONF_DIR, str(Path(hydra.__file__).parent))
    parsed = functools.cache(load)

    def load_once(file):
        name = str(getattr(file, "name", ""))
        return copy.deepcopy(parsed(name)) if name.startswith(lasting) else load(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", load_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def _forks():
    """End the process that workers of sweeps were forks of, and wait for it, so that its time is counted."""
    yield
    forkserver._forkserver._stop()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs, to be copied; making one takes seconds, so that the processes share it."""
    import mlflow

    def make(file: Path) -> None:
        mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()

    return _made_once(tmp_path_factory, "empty.db", make)


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights of `tiny_backbones.tiny_backbone`, as Keras saves them; the processes share it."""
    from tiny_backbones import tiny_backbone

    return _made_once(tmp_path_factory, "tiny.weights.h5", lambda file: tiny_backbone().save_weights(file))


def _made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Give a file that the first of all processes makes."""
    folder = _folder_of_all_processes(tmp_path_factory)
    with file_lock(folder / f"{name}.lock", wait=True):
        if not (file := folder / name).exists():
            make(file)
    return file


def _folder_of_all_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """The folder of a MLflow database that all runs of the session share."""
    folder = tmp_path_factory.mktemp("mlflow")
    shutil.copy(empty_database, folder / "mlflow.db")
    return folder


@pytest.fixture
def uri(store: Path) -> str:
    """The address of the database that all runs of the session share, as MLflow's own."""
    import mlflow

    uri = f"sqlite:///{store}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    return uri


@pytest.fixture
def client(uri: str):
    """What asks that database."""
    import mlflow

    return mlflow.MlflowClient()


@pytest.fixture
def experiment(client, request: pytest.FixtureRequest) -> str:
    """The name of an experiment of the test's own."""
    client.create_experiment(request.node.name)
    return request.node.name


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
    from tiny_sweeps import train_command

    return train_command(monkeypatch, tmp_path, store)


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody may write to this folder, not even root; temporary files go to another one."""
    folder, access = tmp_path / "closed", os.access
    folder.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: (path != folder or mode == os.F_OK) and access(path, mode))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return folder


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
