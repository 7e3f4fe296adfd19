"""A real disk that is full: told in one line that names the place; no file is spoilt, and with space all goes on."""

import contextlib
import io
import logging
import os
import subprocess

import keras
import mlflow
import numpy as np
import optuna
import pytest
from conftest import TINY
from PIL import Image

from cnn_sweeps.data.cache import load_decoded
from cnn_sweeps.errors import DataError, DiskError, StudyOutageError
from cnn_sweeps.experiment.epoch_record import EpochRecord
from cnn_sweeps.settings.schema import TrackingConfig
from cnn_sweeps.sweep.study.storage import open_patient_storage
from cnn_sweeps.system import patience
from cnn_sweeps.system.files import LogFile, disk_errors, replace_whole
from cnn_sweeps.tracking.outbox import Outbox
from cnn_sweeps.tracking.runs import log_metrics, tracked_run
from cnn_sweeps.training.checkpoint import TrainingProgress, claim_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Disk:
    def __init__(self, folder):
        self.folder, self._filler = folder, folder / "filler"

    def fill(self, *, but_for=0):
        with self._filler.open("wb") as file, pytest.raises(OSError, match="No space left"):
            while True:
                os.write(file.fileno(), bytes(1024))
        os.truncate(self._filler, self._filler.stat().st_size - but_for)

    def make_space(self):
        self._filler.unlink()


@pytest.fixture
def disk(tmp_path):
    """A disk of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root, where it may mount, can make a small disk")
    yield Disk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_cache_that_does_not_fit_is_told_leaves_nothing_and_is_filled_once_there_is_space(disk, tmp_path):
    random = np.random.default_rng(0)
    files = [tmp_path / f"{i}.png" for i in range(20)]
    for file in files:
        Image.fromarray(random.integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(file)
    disk.fill(but_for=100_000)  # of the 245,760 bytes that it takes
    with pytest.raises(DataError, match=rf"data\.cache_dir={disk.folder}.*No space left on device"):
        load_decoded(files, disk.folder, 64, 64, 3)
    assert [path.name for path in disk.folder.iterdir()] == ["filler"]
    disk.make_space()
    assert load_decoded(files, disk.folder, 64, 64, 3).images.shape == (20, 64, 64, 3)


def test_training_goes_on_without_its_checkpoint_and_resumes_from_the_last_one_that_fitted(disk, caplog, monkeypatch):
    model = keras.Sequential([keras.Input((300,)), keras.layers.Dense(100)])
    model.compile(keras.optimizers.SGD(), "mse")
    model.optimizer.build(model.trainable_variables)
    progress = TrainingProgress()
    with pytest.raises(KeyboardInterrupt), claim_checkpoint(disk.folder, {}, "data", resume=False) as checkpoint:
        checkpoint.save(model, progress, "run 1")
        disk.fill(but_for=50_000)  # of the 120,000 bytes that it takes
        with EpochRecord(lambda: checkpoint.save(model, progress, "run 1"), max_share_of_time=None) as record:
            for epoch in (1, 2):
                progress.history.append({"a": 1.0})
                record.add({}, epoch)
        raise KeyboardInterrupt
    assert caplog.text.count("No space left on device") == 1
    assert str(disk.folder) in caplog.text
    assert not list(disk.folder.glob("*.unfinished"))
    disk.make_space()
    with claim_checkpoint(disk.folder, {}, "data", resume=True) as checkpoint:
        assert checkpoint.restore(model).epochs_done == 0
        checkpoint.save(model, progress, "run 1")
        assert checkpoint.restore(model).epochs_done == 2


def test_study_on_a_full_disk_is_told_stays_whole_and_goes_on_once_there_is_space(disk, monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE_S", 0.3)
    path = str(disk.folder / "study.journal")
    study = optuna.create_study(study_name="study", storage=open_patient_storage(path))
    study.tell(study.ask(), 1.0)
    disk.fill()
    with pytest.raises(StudyOutageError) as error:
        for i in range(100):  # what is left of the last page has room for some lines
            study.set_user_attr(f"attribute {i}", "x" * 100)
    assert str(error.value).startswith(f"hydra.sweeper.storage={path}: cannot be used for now")
    assert "No space left on device" in str(error.value)
    assert "\n" not in str(error.value)
    disk.make_space()
    study.tell(study.ask(), 2.0)
    open_patient_storage(str(disk.folder / "another.journal"))  # so that this process reads the file anew
    again = optuna.load_study(study_name="study", storage=open_patient_storage(path))
    assert [trial.value for trial in again.trials] == [1.0, 2.0]


def test_run_on_a_full_disk_is_told_in_one_line_and_the_same_command_works_once_there_is_space(disk, run_train):
    drawn = "evaluation.pictures=best"
    command = [*TINY, drawn, f"hydra.run.dir={disk.folder}/here", "tracking.log_model=false"]
    disk.fill(but_for=20_000)  # for the settings, and not for the pictures
    with pytest.raises(SystemExit) as error:
        run_train(*command)
    assert str(error.value).startswith("error: ")
    assert str(disk.folder) in str(error.value)
    assert "No space left on device" in str(error.value)
    assert "\n" not in str(error.value)
    disk.make_space()
    run_train(*command)
    assert (disk.folder / "here/results/learning_curves.png").stat().st_size > 0


def test_database_of_runs_on_a_full_disk_gets_later_what_it_could_not_take(disk, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(patience.Backoff, "_SHORTEST_PAUSE_S", 0.0)
    monkeypatch.setattr(patience.Backoff, "_LARGEST_SHARE", 1e9)
    config = TrackingConfig(uri=None, experiment_name="full", run_name=None, registered_model=None, log_model=False)
    log_file = tmp_path / "here" / "train.log"
    with tracked_run(f"sqlite:///{disk.folder}/mlflow.db", config, "run", {"seed": 0}, log_file) as run_id:
        log_metrics({"value": 1.0}, step=1)
        disk.fill()
        for step in range(2, 60):  # some fit into pages that are there
            log_metrics({f"value {i}": float(i) for i in range(20)} | {"value": float(step)}, step=step)
        assert list((tmp_path / "here/outbox").glob("*/*.json"))
        disk.make_space()
        log_metrics({"value": 60.0}, step=60)
        assert not (tmp_path / "here/outbox").exists()
    history = mlflow.MlflowClient().get_metric_history(run_id, "value")
    assert [(metric.step, metric.value) for metric in history] == [(step, float(step)) for step in range(1, 61)]
    assert mlflow.get_run(run_id).info.status == "FINISHED"
    assert "Traceback" not in caplog.text


def test_disk_error_names_the_file_and_keeps_what_was_there(disk):
    target = disk.folder / "file"
    replace_whole(target, b"whole")
    disk.fill()
    with pytest.raises(DiskError, match=f"^{target}: cannot be written"), disk_errors(target, "the same command"):
        replace_whole(target, bytes(10_000))
    assert target.read_bytes() == b"whole"


def test_files_of_a_run_that_do_not_fit_take_no_space_from_what_does(disk, tmp_path):
    (tmp_path / "files").mkdir()
    for name in "abc":
        (tmp_path / "files" / name).write_bytes(bytes(7_000_000))
    mlflow.set_tracking_uri("http://127.0.0.1:1")
    outbox = Outbox(disk.folder, "0" * 32)
    with pytest.raises(DiskError, match="cannot be written") as error:
        outbox.keep("files", {"path": None}, tmp_path / "files")
    assert len(str(error.value)) < 300
    outbox.keep("metrics", {"metrics": [["a", 1.0, 1, epoch] for epoch in range(2000)]})
    assert outbox.num_waiting == 1


def test_log_on_a_full_disk_loses_lines_without_a_traceback_for_each(disk):
    handler = LogFile(disk.folder / "train.log")
    disk.fill()
    with contextlib.redirect_stderr(io.StringIO()) as said:
        for _ in range(100):
            handler.handle(logging.makeLogRecord({"msg": "x" * 1000}))
    assert said.getvalue() == ""
    disk.make_space()
    handler.handle(logging.makeLogRecord({"msg": "there is space"}))
    assert (disk.folder / "train.log").read_text().endswith("there is space\n")
