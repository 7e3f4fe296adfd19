"""What an interrupted run leaves, and who may take it over."""

import errno
import subprocess
import sys

import keras
import numpy as np
import pytest

from cnn_sweeps.errors import ConfigError, DiskError, StudyOutageError, TrackingOutageError
from cnn_sweeps.training import checkpoint as checkpoint_module
from cnn_sweeps.training.checkpoint import (
    RunLeft,
    TrainingProgress,
    claim_checkpoint,
    left_checkpoints,
    remove_checkpoint,
)

SETTINGS = {"model.l2": 0.1, "seed": 1}
RUN = RunLeft("1", "outputs/1", "1")


def small_model(seed):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.5), keras.layers.Dense(2)])
    model.compile(keras.optimizers.Adam(), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def values(model):
    return [np.asarray(variable) for variable in [*model.variables, *model.optimizer.variables]]


def leave_checkpoint(folder, model, progress, settings=SETTINGS, fingerprint="data"):
    """Save, and end as a killed process would: nothing is tidied up."""
    with pytest.raises(KeyboardInterrupt), claim_checkpoint(folder, settings, fingerprint, resume=False) as checkpoint:
        checkpoint.save(model, progress, RUN)
        raise KeyboardInterrupt


def test_restored_model_optimizer_random_state_and_progress_are_those_saved(tmp_path):
    model, other = small_model(1), small_model(2)
    model.fit(np.ones((8, 3)), np.ones((8, 2)), verbose=0)
    progress = TrainingProgress([{"val_log_loss": 0.5}, {"val_log_loss": 0.7}], 1, 0.5, model.get_weights())
    leave_checkpoint(tmp_path, model, progress)
    with claim_checkpoint(tmp_path, SETTINGS, "data", resume=True) as checkpoint:
        assert checkpoint.read_left() == RUN
        restored = checkpoint.restore(other)
    assert all(np.array_equal(a, b) for a, b in zip(values(model), values(other), strict=True))
    assert (restored.history, restored.best_epoch, restored.best_value) == (progress.history, 1, 0.5)
    assert all(np.array_equal(a, b) for a, b in zip(restored.best_weights, progress.best_weights, strict=True))


def test_checkpoint_of_a_network_that_did_not_scale_its_pixels_is_refused(tmp_path, monkeypatch):
    key = checkpoint_module._key
    with monkeypatch.context() as before:
        before.setattr(checkpoint_module, "_key", lambda same_run: key(same_run[:3]))
        leave_checkpoint(tmp_path, small_model(1), TrainingProgress())
    told = r"resume=true: .* is of an earlier version of cnn-sweeps"
    with pytest.raises(ConfigError, match=told), claim_checkpoint(tmp_path, SETTINGS, "data", resume=True):
        pass
    with claim_checkpoint(tmp_path, SETTINGS, "data", resume=True, is_trial=True) as checkpoint:
        assert checkpoint.read_left() is None


@pytest.mark.parametrize("package", ["cnn-sweeps", "keras", "tensorflow"])
def test_checkpoint_of_another_version_is_not_gone_on_with(package, tmp_path, monkeypatch):
    """Whose network of the same settings may be another one."""
    with pytest.raises(KeyboardInterrupt), claim_checkpoint(tmp_path, SETTINGS, "data", resume=False) as checkpoint:
        checkpoint.save_parts({}, RUN)
        raise KeyboardInterrupt
    version = checkpoint_module.version
    monkeypatch.setattr(checkpoint_module, "version", lambda name: "0.0.1" if name == package else version(name))
    with claim_checkpoint(tmp_path, SETTINGS, "data", resume=True) as checkpoint:
        assert checkpoint.read_left() is None


@pytest.mark.parametrize(
    ("error", "is_trial", "is_kept"),
    [
        (ValueError("x is 1"), True, False),
        (ValueError("x is 1"), False, True),
        (TrackingOutageError("the store is away"), True, True),
        (StudyOutageError("the database is away"), True, True),
        (OSError(errno.ENOSPC, "No space left on device"), True, True),
        (KeyboardInterrupt(), True, True),
    ],
)
def test_checkpoint_of_a_trial_is_removed_after_an_error_and_kept_after_what_it_is_tried_again_for(
    error, is_trial, is_kept, tmp_path
):
    claimed = claim_checkpoint(tmp_path, SETTINGS, "data", resume=False, is_trial=is_trial)
    with pytest.raises(type(error)), claimed as checkpoint:
        checkpoint.save_parts({}, RUN)
        raise error
    assert list(left_checkpoints(tmp_path).values()) == ([RUN] if is_kept else [])


def test_finished_run_leaves_nothing(tmp_path):
    with claim_checkpoint(tmp_path, SETTINGS, "data", resume=False) as checkpoint:
        checkpoint.save(small_model(1), TrainingProgress(), RUN)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "fingerprint", "resume"),
    [({"model.l2": 0.2, "seed": 1}, "data", True), (SETTINGS, "other data", True), (SETTINGS, "data", False)],
)
def test_other_settings_other_data_or_no_resume_start_anew(settings, fingerprint, resume, tmp_path):
    leave_checkpoint(tmp_path, small_model(1), TrainingProgress())
    with claim_checkpoint(tmp_path, settings, fingerprint, resume=resume) as checkpoint:
        assert checkpoint.read_left() is None
        assert checkpoint.restore(small_model(2)).epochs_done == 0


def test_newest_of_several_is_taken(tmp_path):
    for epochs in (1, 2):
        leave_checkpoint(tmp_path, small_model(1), TrainingProgress([{"val_log_loss": 1.0}] * epochs))
    with claim_checkpoint(tmp_path, SETTINGS, "data", resume=True) as checkpoint:
        assert checkpoint.restore(small_model(1)).epochs_done == 2


def test_run_that_still_goes_on_elsewhere_is_not_taken_over(tmp_path):
    script = (
        "import sys; from pathlib import Path; from cnn_sweeps.training.checkpoint import claim_checkpoint\n"
        f"with claim_checkpoint(Path(sys.argv[1]), {SETTINGS!r}, 'data', resume=True) as checkpoint:\n"
        "    print(checkpoint.read_left(), flush=True); sys.stdin.read()"
    )
    leave_checkpoint(tmp_path, small_model(1), TrainingProgress())
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], **pipes) as other:
        assert other.stdout.readline() == f"{RUN}\n"
        refused = claim_checkpoint(tmp_path, SETTINGS, "data", resume=True)
        with pytest.raises(ConfigError, match="still training in another process"), refused:
            pass
        other.kill()
    with claim_checkpoint(tmp_path, SETTINGS, "data", resume=True) as checkpoint:
        assert checkpoint.read_left() == RUN


def test_save_that_fails_half_way_keeps_the_one_before(tmp_path, monkeypatch):
    model = small_model(1)
    leave_checkpoint(tmp_path, model, TrainingProgress([{"val_log_loss": 1.0}]))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with (
        pytest.raises(DiskError, match="No space left"),
        claim_checkpoint(tmp_path, SETTINGS, "data", resume=True) as checkpoint,
    ):
        monkeypatch.setattr("os.fsync", full)
        checkpoint.save(model, TrainingProgress([{"val_log_loss": 1.0}] * 2), RUN)
    with claim_checkpoint(tmp_path, SETTINGS, "data", resume=True) as checkpoint:
        assert checkpoint.restore(model).epochs_done == 1


def test_what_a_process_that_was_killed_in_its_first_save_has_written_is_removed_by_the_run_that_goes_on(tmp_path):
    leave_checkpoint(tmp_path, small_model(1), TrainingProgress())
    (left,) = tmp_path.glob("*.npz")
    left.rename(left.with_suffix(".unfinished"))
    assert left_checkpoints(tmp_path) == {left: None}
    emptied = tmp_path / f"{'0' * 24}-{'0' * 8}.npz"  # by a power cut
    emptied.touch()
    assert left_checkpoints(tmp_path) == {left: None, emptied: None}
    emptied.unlink()
    with claim_checkpoint(tmp_path, SETTINGS, "data", resume=True) as checkpoint:
        assert checkpoint.read_left() is None
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_that_is_in_use_is_not_among_those_that_were_left(tmp_path):
    leave_checkpoint(tmp_path, small_model(1), TrainingProgress())
    (path,) = tmp_path.glob("*.npz")
    with claim_checkpoint(tmp_path, SETTINGS, "data", resume=True):
        assert left_checkpoints(tmp_path) == {}
        remove_checkpoint(path)
        assert path.exists()


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    claimed = claim_checkpoint(tmp_path / "file", SETTINGS, "data", resume=False)
    with pytest.raises(ConfigError, match=r"training.checkpoint_dir=.*cannot be written"), claimed:
        pass
