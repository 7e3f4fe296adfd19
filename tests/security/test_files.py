"""What is not ours is never touched: of the files in a folder of checkpoints only our own are removed."""

import json
import os
from contextlib import contextmanager
from pathlib import Path

import mlflow
import numpy as np
import pytest
from conftest import TINY, compose
from tiny_sweeps import IN_THIS_PROCESS, command_in

from cnn_sweeps.doctor.__main__ import doctor
from cnn_sweeps.training import checkpoint
from cnn_sweeps.training.checkpoint import Checkpoint, RunLeft, claim_checkpoint, left_checkpoints, remove_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

NAME = "promises"
SWEEP = ["--multirun", *TINY, IN_THIS_PROCESS, f"hydra.sweeper.study_name={NAME}", "training.epochs=1"]
SWEEP += [
    "hydra.sweeper.n_trials=1",
    "evaluate_best=false",
    "tracking.log_model=false",
    f"tracking.experiment_name={NAME}",
]
OURS, THEIRS = f"{'a' * 24}-{'0' * 8}", f"{'b' * 24}-{'0' * 8}"


def write_users_files(folder):
    """Write what a person may keep in a folder, some of it under names as ours; give the bytes by name."""
    folder.mkdir(parents=True, exist_ok=True)
    precious = folder.parent / "precious.npz"
    Checkpoint(precious).save_parts({}, RunLeft("ours", "", "ours"))
    np.savez(folder / "thesis-final.npz", numbers=np.arange(3))
    np.savez(folder / f"{THEIRS}.npz", about=np.array(json.dumps({"run_id": "mine"})), numbers=np.arange(3))
    for name in ("chapter-3.unfinished", "mail-box.lock", f"{THEIRS}.lock", f"{'c' * 24}-{'0' * 8}.unfinished"):
        (folder / name).write_text("mine")
    for name in ("0-0.npz", "a-b.unfinished", "c-d.lock", f"{'A' * 24}-{'0' * 8}.npz", f"{'a' * 23}-{'0' * 8}.lock"):
        (folder / name).touch()
    (folder / f"{'d' * 24}-{'0' * 8}.npz").symlink_to(precious)
    (folder / f"{'e' * 24}-{'0' * 8}.npz").mkdir()
    return contents(folder)


def contents(folder):
    return {path.name: None if path.is_dir() else path.read_bytes() for path in folder.iterdir()}


def leave_checkpoint(folder, record, *, cut_off=False):
    """Leave what a killed process leaves: a checkpoint, or a part of its first one."""
    path = folder / f"{OURS}.npz"
    folder.mkdir(parents=True, exist_ok=True)
    Checkpoint(path).save_parts({}, RunLeft(record, str(folder), record))
    path.with_suffix(".lock").touch()
    if cut_off:
        path.with_suffix(".unfinished").write_bytes(path.read_bytes()[:-20])
        path.unlink()


@contextmanager
def in_folder(folder):
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def thesis(tmp_path_factory, store):
    """A folder with a person's files that a sweep was given as its folder of checkpoints, and the files."""
    folder = tmp_path_factory.mktemp("work") / "thesis"
    files = write_users_files(folder)
    leave_checkpoint(folder, "", cut_off=True)
    with command_in(folder.parent, store) as run_train_here:
        run_train_here(*SWEEP, "training.checkpoint_dir=thesis")
    return folder, files


def test_sweep_removes_its_own_checkpoints_and_what_was_cut_off_of_one_and_nothing_else(thesis):
    folder, files = thesis
    assert contents(folder) == files


def test_doctor_cleans_a_folder_only_if_the_command_names_it_and_there_only_what_is_ours(thesis, monkeypatch, capsys):
    folder, files = thesis
    monkeypatch.chdir(folder.parent)
    (trial_run,) = mlflow.search_runs(
        experiment_names=[NAME], filter_string="tags.`trial.number` = '0'", output_format="list"
    )
    assert trial_run.data.params["training.checkpoint_dir"] == "thesis"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.get_tracking_uri())
    leave_checkpoint(folder, trial_run.data.tags["record.id"])
    left = contents(folder)
    assert left.keys() - files.keys() == {f"{OURS}.npz", f"{OURS}.lock"}
    doctor([NAME, "--fix"])
    assert contents(folder) == left
    doctor([NAME, "--fix", "training.checkpoint_dir=thesis"])
    assert f"{OURS}.npz belongs to trial 0, which is COMPLETE" in capsys.readouterr().out
    assert contents(folder) == files


def test_folder_that_is_cleaned_without_being_named_is_the_default_one():
    assert str(checkpoint.FOLDER) == compose().training.checkpoint_dir


def test_other_files_are_neither_listed_nor_removed_nor_resumed(tmp_path):
    folder = tmp_path / "thesis"
    files = write_users_files(folder)
    leave_checkpoint(folder, "1")
    assert left_checkpoints(folder) == {folder / f"{OURS}.npz": RunLeft("1", str(folder), "1")}
    for path in list(folder.iterdir()):
        if path.name != f"{OURS}.lock":
            remove_checkpoint(path)
    assert {name: text for name, text in contents(folder).items() if name in files} == files
    with claim_checkpoint(folder, {}, "data", resume=True) as claimed:
        (lock,) = (path for path in folder.iterdir() if path.name not in files)
        np.savez(lock.with_suffix(".npz"), about=np.array(json.dumps({"run_id": "mine"})))
        assert left_checkpoints(folder) == {}
        del claimed
    assert lock.with_suffix(".npz").exists()
    assert not lock.exists()
