"""Real processes, ended by real signals: what they say, what they leave, and how they go on."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest
from conftest import TINY, TINY_CNN
from forks import killed_in_epoch
from tiny_sweeps import command_in, raised_in_epoch, write_dark_and_light_photos

from cnn_sweeps.tracking.record.record import find_records
from cnn_sweeps.training import loop

# Some short epochs, so that a signal always comes in the middle.
LONG_TRAINING = [
    *TINY_CNN,
    "regularization=full",
    "training.batch_size=16",
    "training.epochs=16",
    "training.early_stopping.enabled=false",
    "evaluation.pictures=none",
]


def runs(folder):
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    return mlflow.search_runs(search_all_experiments=True, output_format="list")


def final_weights(run):
    folder = mlflow.artifacts.download_artifacts(f"models:/{run.outputs.model_outputs[0].model_id}")
    return keras.saving.load_model(Path(folder, "artifacts/model.keras")).get_weights()


def test_process_that_is_told_to_end_while_it_cleans_up_ends_all_the_same_and_without_a_traceback():
    code = """if True:
        import os, signal, time
        from cnn_sweeps.system.ends import exit_on_signals
        class Cleaned:
            def __del__(self):
                os.kill(os.getpid(), signal.SIGTERM)
        exit_on_signals()
        Cleaned()
        time.sleep(60)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (143, "")


def test_killed_run_resumes_in_the_same_record_and_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path, empty_database
):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    write_dark_and_light_photos(tmp_path / "photos")
    photos = ["data=folder", "data.root=photos", "data.image_size=16", "data.channels=1", "data.cache_dir=cache"]
    command = [*photos, *LONG_TRAINING]
    killed_in_epoch(5, tmp_path, tmp_path, *command)
    (killed,) = runs(tmp_path)
    assert killed.info.status == "RUNNING"

    with command_in(tmp_path, tmp_path) as run_train, raised_in_epoch(12, signal.SIGTERM):
        with pytest.raises(SystemExit) as end:
            run_train(*command, "resume=true")
        assert end.value.code == 143
    assert any("resuming after epoch" in log.read_text() for log in tmp_path.rglob("train.log"))
    (terminated,) = runs(tmp_path)
    assert (terminated.info.run_id, terminated.info.status) == (killed.info.run_id, "KILLED")

    with command_in(tmp_path, tmp_path) as run_train:
        run_train(*command, "resume=true")
    (resumed,) = runs(tmp_path)
    assert (resumed.info.run_id, resumed.info.status) == (killed.info.run_id, "FINISHED")
    history = mlflow.MlflowClient().get_metric_history(resumed.info.run_id, "val_log_loss")
    assert [metric.step for metric in history] == list(range(1, 17))

    with command_in(tmp_path, tmp_path) as run_train:
        run_train(*command, "resume=true")  # nothing is left to resume: a new run
    uninterrupted = next(run for run in runs(tmp_path) if run.info.run_id != resumed.info.run_id)
    pairs = zip(final_weights(resumed), final_weights(uninterrupted), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    for metric in ("test_log_loss", "final_val_log_loss", "best_epoch"):
        assert resumed.data.metrics[metric] == uninterrupted.data.metrics[metric]


def test_run_that_is_ended_in_its_first_epoch_goes_on_in_the_same_record(run_train, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "train", lambda *_: sys.exit(143))
    for folder, resume in (("first", "false"), ("second", "true")):
        with pytest.raises(SystemExit, match="143"):
            run_train(*TINY, f"hydra.run.dir={folder}", f"resume={resume}")
    assert find_records(tmp_path) == [tmp_path / "first"]


def test_ctrl_c_ends_the_run_killed_and_says_how_to_go_on(run_train, store, tmp_path):
    with raised_in_epoch(1, signal.SIGINT), pytest.raises(SystemExit) as end:
        run_train(*TINY, "tracking.experiment_name=interrupted", "hydra.run.dir=here")
    assert end.value.code == 130
    *_, to_go_on, command = (tmp_path / "here/train.log").read_text().splitlines()
    assert to_go_on.endswith("To go on:")
    assert command.endswith("tracking.experiment_name=interrupted resume=true")
    (run,) = mlflow.search_runs(experiment_names=["interrupted"], output_format="list")
    assert run.info.status == "KILLED"
