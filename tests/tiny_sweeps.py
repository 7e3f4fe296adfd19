"""Sweeps of the smallest trainings, and how to read what they leave in the study and in MLflow."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
import numpy as np
import optuna
import psutil
import pytest
from conftest import TINY
from optuna.storages.journal import JournalFileBackend
from PIL import Image

from cnn_sweeps.settings.command_line import run_application
from cnn_sweeps.train import train

STUDY = "tiny"
SWEEP = ["--multirun", *TINY, f"hydra.sweeper.study_name={STUDY}", "hydra.sweeper.n_jobs=1"]
SWEEP_OF_FILTERS = [word for word in SWEEP if not word.startswith("model.filters=")]
IN_THIS_PROCESS = "hydra/launcher=basic"


def write_dark_and_light_photos(folder):
    """Write sixty photos of two classes that a network can tell apart but not at once."""
    random = np.random.default_rng(0)
    for i in range(60):
        file = folder / ("dark", "light")[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((random.integers(0, 150, (16, 16)) + 90 * (i % 2)).astype(np.uint8)).save(file)


def sweep_folder(folder):
    return Path(folder, "outputs/sweeps", STUDY)


def study_in(folder):
    file = sweep_folder(folder) / "study.journal"
    return optuna.load_study(study_name=STUDY, storage=optuna.storages.JournalStorage(JournalFileBackend(str(file))))


def sweep_log(folder):
    return (sweep_folder(folder) / "sweep.log").read_text()


def parent_run(study):
    """The sweep's own run."""
    return mlflow.MlflowClient().get_run(study.user_attrs["mlflow.run_id"])


def child_runs(run):
    """The runs below a run, oldest first."""
    return mlflow.search_runs(
        [run.info.experiment_id],
        f"tags.mlflow.parentRunId = '{run.info.run_id}'",
        order_by=["attributes.start_time", "tags.`trial.number`"],
        output_format="list",
    )


def run_of(trial):
    """The run of the record that a trial noted."""
    condition = f"tags.`record.id` = '{trial.user_attrs['record']}'"
    (run,) = mlflow.search_runs(search_all_experiments=True, filter_string=condition, output_format="list")
    return run


def all_runs(folder):
    """Every run of the database in a folder."""
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    return mlflow.search_runs(search_all_experiments=True, output_format="list")


def measured_on_test(run):
    return {name for name in run.data.metrics if name.startswith("test_")}


def train_command(patch, folder, store):
    """Give a function that runs the command in this process, in a folder, until `patch` undoes what this changes."""
    patch.chdir(folder)
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db")
    patch.setenv("HYDRA_FULL_ERROR", "0")
    # else Hydra composes everything once more, to see whether hydra.mode is set: a fifth of a tiny run
    patch.setattr("hydra._internal.hydra.Hydra.get_mode", lambda *_, **__: None, raising=False)

    def run(*arguments):
        patch.setattr(sys, "argv", ["train", *arguments])
        run_application(train)

    return run


@contextmanager
def command_in(folder, store):
    """Give what `run_train` gives, for longer than one test."""
    with pytest.MonkeyPatch.context() as patch:
        yield train_command(patch, folder, store)


@contextmanager
def raised_in_epoch(number, signal_number):
    """Have trainings in this process get a signal after an epoch is recorded."""
    from cnn_sweeps.experiment.recording import EpochRecorder

    add = EpochRecorder.add

    def add_and_raise(record, metrics, epoch, model):
        add(record, metrics, epoch, model)
        if epoch == number:
            signal.raise_signal(signal_number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EpochRecorder, "add", add_and_raise)
        yield


@contextmanager
def started(folder, *arguments):
    """Start the command as a process, and leave nothing of it to the next test."""
    command = [sys.executable, "-u", "-m", "cnn_sweeps.train", *arguments]
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    with Path(folder, "terminal.txt").open("a") as terminal:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=terminal, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for left in processes_in(folder):
            with suppress(psutil.NoSuchProcess):
                left.kill()


def finish(folder, process):
    """Wait for the process's good end."""
    assert process.wait() == 0, Path(folder, "terminal.txt").read_text()


def processes_in(folder):
    """The living processes that work in a folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return [process for process in found if process.pid != os.getpid()]
