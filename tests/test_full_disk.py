"""A real disk that is full: told in one line that names the place; no file is spoilt, and with space all goes on."""

import contextlib
import io
import logging
import os
import shutil
import subprocess

import keras
import mlflow
import numpy as np
import optuna
import pytest
from conftest import TINY
from PIL import Image

from cnn_sweeps.data.cache import load_decoded
from cnn_sweeps.data.rows import load_rows
from cnn_sweeps.errors import DataError, DiskError, StudyOutageError
from cnn_sweeps.experiment.recording import EpochRecorder
from cnn_sweeps.sweep.study.address import parse_address
from cnn_sweeps.sweep.study.storage import open_patient_storage
from cnn_sweeps.system import patience
from cnn_sweeps.system.files import LogFile, disk_errors, replace_whole
from cnn_sweeps.tracking.live_run import LiveRun
from cnn_sweeps.tracking.record.entry import read_record
from cnn_sweeps.tracking.record.position import num_waiting
from cnn_sweeps.training.checkpoint import RunLeft, claim_checkpoint
from cnn_sweeps.training.progress import TrainingProgress

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


def test_rows_that_do_not_fit_are_told_and_are_gone_on_with_once_there_is_space(disk):
    asked, positions = [], np.arange(300)

    def compute(some):
        asked.extend(some.tolist())
        return np.ones((len(some), 100), np.float32)

    for but_for in (20_000, 130_000):  # of the 120,000 bytes of the parts, and of as many of the whole
        disk.fill(but_for=but_for)
        with pytest.raises(DiskError, match=rf"^{disk.folder}\S+\.f32: cannot be written \(No space left on device"):
            load_rows(disk.folder, [], positions, (300, 100), compute)
        assert not list(disk.folder.glob("features/*.f32"))
        disk.make_space()
    assert load_rows(disk.folder, [], positions, (300, 100), compute).sum() == 30_000
    assert sorted(asked) == sorted([*range(128), *range(300)])  # the first part did not fit
    assert len(list((disk.folder / "features").iterdir())) == 1


def begun(folder, uri):
    run = LiveRun(folder, uri)
    run.record.begin("full", "run", uri, {})
    return run


def test_training_goes_on_without_its_checkpoint_and_resumes_from_the_last_one_that_fitted(
    disk, store, tmp_path, caplog
):
    model, run = keras.Sequential([keras.Input((300,)), keras.layers.Dense(100)]), RunLeft("1", "outputs/1", "1")
    model.compile(keras.optimizers.SGD(), "mse")
    model.optimizer.build(model.trainable_variables)
    progress, live = TrainingProgress(), begun(tmp_path / "run", f"sqlite:///{store}/mlflow.db")
    with pytest.raises(KeyboardInterrupt), claim_checkpoint(disk.folder, {}, "data", resume=False) as checkpoint:
        checkpoint.save(model, progress, run)
        disk.fill(but_for=50_000)  # of the 120,000 bytes that it takes
        keeper = EpochRecorder(live, lambda model: checkpoint.save(model, progress, run), max_share_of_time=None)
        for epoch in (1, 2):
            progress.history.append({"a": 1.0})
            keeper.add({}, epoch, model)
        raise KeyboardInterrupt
    assert str(disk.folder) in caplog.text
    assert not list(disk.folder.glob("*.unfinished"))
    disk.make_space()
    with claim_checkpoint(disk.folder, {}, "data", resume=True) as checkpoint:
        assert checkpoint.restore(model).epochs_done == 0
        checkpoint.save(model, progress, run)
        assert checkpoint.restore(model).epochs_done == 2


def test_epochs_that_a_full_disk_cannot_take_are_recorded_once_there_is_space(disk, store, caplog):
    live = begun(disk.folder / "run", f"sqlite:///{store}/mlflow.db")
    keeper = EpochRecorder(live, lambda _model: None, max_share_of_time=None)
    keeper.add({"a": 1.0}, 1, None)
    disk.fill()
    for epoch in range(2, 200):  # what is left of the last page has room for some lines
        keeper.add({"a": 1.0}, epoch, None)
    whole = (disk.folder / "run/record.jsonl").read_bytes()
    assert whole.endswith(b"\n")
    assert len(read_record(disk.folder / "run").metrics["a"]) < 199
    assert caplog.text.count("training goes on, but can only be resumed") == 1
    disk.make_space()
    keeper.add({"a": 1.0}, 200, None)
    assert list(read_record(disk.folder / "run").metrics["a"]) == list(range(1, 201))
    assert (disk.folder / "run/record.jsonl").read_bytes().startswith(whole)


def test_study_on_a_full_disk_is_told_stays_whole_and_goes_on_once_there_is_space(disk, monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE_S", 0.3)
    path = str(disk.folder / "study.journal")
    study = optuna.create_study(study_name="study", storage=open_patient_storage(parse_address(path)))
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
    open_patient_storage(
        parse_address(str(disk.folder / "another.journal"))
    )  # so that this process reads the file anew
    again = optuna.load_study(study_name="study", storage=open_patient_storage(parse_address(path)))
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


def test_database_of_runs_on_a_full_disk_gets_later_what_it_could_not_take(
    disk, tmp_path, empty_database, monkeypatch, caplog
):
    monkeypatch.setattr(patience.Backoff, "_SHORTEST_PAUSE_S", 0.0)
    monkeypatch.setattr(patience.Backoff, "_LARGEST_SHARE", 1e9)
    shutil.copy(empty_database, disk.folder / "mlflow.db")
    uri = f"sqlite:///{disk.folder}/mlflow.db"
    run = begun(tmp_path / "here", uri)
    with run.ending(tmp_path / "here/train.log"):
        run.record.log_metrics({"value": 1.0}, 1)
        run.start(may_be_away=False)
        disk.fill()
        num_steps, num_refused = 1, 0
        while num_refused < 3:  # some fit into pages that are there
            num_steps += 1
            run.record.log_metrics({f"value {i}": float(i) for i in range(20)} | {"value": float(num_steps)}, num_steps)
            run.catch_up()
            num_refused += num_waiting(tmp_path / "here", uri) > 0
        disk.make_space()
        num_steps += 1
        run.record.log_metrics({"value": float(num_steps)}, num_steps)
        run.catch_up()
        assert num_waiting(tmp_path / "here", uri) == 0
    (kept,) = mlflow.search_runs(experiment_names=["full"], output_format="list")
    history = mlflow.MlflowClient().get_metric_history(kept.info.run_id, "value")
    steps = range(1, num_steps + 1)
    assert [(metric.step, metric.value) for metric in history] == [(step, float(step)) for step in steps]
    assert kept.info.status == "FINISHED"
    assert "Traceback" not in caplog.text


def test_disk_error_names_the_file_and_keeps_what_was_there(disk):
    target = disk.folder / "file"
    replace_whole(target, b"whole")
    disk.fill()
    with pytest.raises(DiskError, match=f"^{target}: cannot be written"), disk_errors(target):
        replace_whole(target, bytes(10_000))
    assert target.read_bytes() == b"whole"


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
