"""The last saved epoch of an unfinished run, in one file that is replaced as a whole."""

from __future__ import annotations

import hashlib
import io
import json
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from cnn_sweeps.errors import ConfigError, OutageError
from cnn_sweeps.system.files import disk_errors, is_disk_full, replace_whole
from cnn_sweeps.system.locks import file_lock
from cnn_sweeps.training.progress import TrainingProgress

if TYPE_CHECKING:
    import keras


FOLDER = Path("outputs/checkpoints")
"""The folder of all checkpoints, as in `conf/training/default.yaml`."""

_CUT_OFF = ".unfinished"  # suffix of a file that is being saved
_SUFFIXES = (".npz", _CUT_OFF, ".lock")
_NAME = re.compile(rf"[0-9a-f]{{24}}-[0-9a-f]{{8}}(\.npz|\.lock|{re.escape(_CUT_OFF)})")
_PIXELS = "pixels from 0 to 255"
"""Tells which networks a checkpoint fits; change it with whatever makes older checkpoints wrong."""
# The first array of each file: even a file that was cut off can be told from files of others.
_ABOUT = "cnn_sweeps_checkpoint"
_ABOUT_AT = 30  # bytes before the name of the first file in a zip


class RunLeft(NamedTuple):
    """The run that a checkpoint belongs to."""

    record: str  # the id of its record
    folder: str  # of the record, relative to the working folder
    whole: str  # the id of the whole run's record, if this run is a part of one; else its own


_EARLIER = RunLeft("of an earlier version", "", "")  # those checkpoints name no record: the run goes on in a new one


@dataclass(frozen=True)
class Checkpoint:
    """A file, which may not exist yet, with the last saved epoch of a run; or with the finished parts of a whole run.

    `claim_checkpoint` gives it to one process at a time.
    """

    path: Path

    def save(self, model: keras.Model, progress: TrainingProgress, run: RunLeft) -> None:
        """Replace the file by the state of `model`, its optimizer and `progress`; a kill leaves the file as it was.

        Raises:
            DiskError: if the disk cannot take it; the file is then as it was.
        """
        best = {f"best_{i}": weights for i, weights in enumerate(progress.best_weights)}
        about = {"run": run, "history": progress.history, "best": [progress.best_epoch, progress.best_value]}
        about["fine_tuned"] = [progress.fine_tuned_after, progress.best_epoch_before]
        self._write(about, _variables(model) | best)

    def save_parts(self, finals: Mapping[str, dict[str, float]], run: RunLeft) -> None:
        """Save the final metrics of a whole run's finished parts, by the ids of their records, as `save` does."""
        self._write({"run": run, "parts": list(finals.items())}, {})

    def _write(self, about: dict[str, Any], variables: dict[str, Any]) -> None:
        content, arrays = io.BytesIO(), {name: np.asarray(variable) for name, variable in variables.items()}
        np.savez(content, allow_pickle=False, **{_ABOUT: np.array(json.dumps(about, default=float))}, **arrays)
        with disk_errors(self.path, "the same command with resume=true"):
            replace_whole(self.path, content.getbuffer())

    def read_left(self) -> RunLeft | None:
        """Return the run to go on with; None for a new run."""
        return RunLeft(*self._read_about().get("run", _EARLIER)) if self.path.exists() else None

    def read_parts(self) -> dict[str, dict[str, float]]:
        """Return what `save_parts` saved, in the same order; nothing for a new run."""
        return dict(self._read_about().get("parts", [])) if self.path.exists() else {}

    def _read_about(self) -> dict[str, Any]:
        with np.load(self.path) as content:
            about: dict[str, Any] = json.loads(str(content[_ABOUT]))
        return about

    def is_of_fine_tuning(self) -> bool:
        """Return whether the run was fine-tuning its backbone."""
        return self.path.exists() and self._read_about().get("fine_tuned", [None])[0] is not None

    def restore(self, model: keras.Model) -> TrainingProgress:
        """Load the saved state, if there is one, into `model` and its built optimizer; return the run's progress.

        Raises:
            ConfigError: if the state belongs to another network.
        """
        if not self.path.exists():
            return TrainingProgress()
        about, variables = self._read_about(), _variables(model)
        with np.load(self.path) as content:
            arrays = {name: content[name] for name in content.files if name != _ABOUT}
        best_weights = [arrays.pop(f"best_{i}") for i in range(sum(name.startswith("best_") for name in arrays))]
        if {name: array.shape for name, array in arrays.items()} != {n: tuple(v.shape) for n, v in variables.items()}:
            raise ConfigError(
                f"resume=true: the code of the model or the optimizer has changed since {self.path} was saved; "
                "restore the code, or start anew without resume=true"
            )
        for name, variable in variables.items():
            variable.assign(arrays[name])
        best_epoch, best_value = about["best"]
        return TrainingProgress(about["history"], best_epoch, best_value, best_weights, *about.get("fine_tuned", []))


def _variables(model: keras.Model) -> dict[str, Any]:
    groups = {"model": model.variables, "optimizer": model.optimizer.variables}
    return {f"{group}_{i}": variable for group, variables in groups.items() for i, variable in enumerate(variables)}


@contextmanager
def claim_checkpoint(
    folder: Path, settings: dict[str, Any], data_fingerprint: str, *, resume: bool, is_trial: bool = False
) -> Iterator[Checkpoint]:
    """Claim a new checkpoint for the block or, with `resume`, the newest one that an ended process of this run left.

    The checkpoint is removed at the end of the block. After an error, a signal or an outage it is kept; but an error
    of a trial, other than an outage, removes it, since the sweep goes on without that trial.

    Args:
        folder: of all checkpoints.
        settings: every setting that the result depends on; runs with equal settings and data are the same run.
        data_fingerprint: of the data set.
        resume: go on with a checkpoint that is left, if there is one.
        is_trial: whether the run is a trial; then an equal one may run at the same time.

    Raises:
        ConfigError: if the folder cannot be written. With `resume`, for a run that is no trial, also if the same run
            still trains in another process, or an earlier version of the package has left it.
    """
    same_run = [settings, data_fingerprint, [version(package) for package in ("cnn-sweeps", "keras", "tensorflow")]]
    key = _key([*same_run, _PIXELS])
    with ExitStack() as locks:
        try:
            if resume and not is_trial and (old := next(folder.glob(f"{_key(same_run)}-*.npz"), None)):
                raise ConfigError(
                    f"resume=true: {old} is of an earlier version of cnn-sweeps, whose networks take pixels from 0 to "
                    "1; start anew without resume=true"
                )
            paths = _left_of(folder, key) if resume else []
            path = next((path for path in paths if locks.enter_context(_locked(path))), None)
            if path is None and (is_trial or not paths):
                path = folder / f"{key}-{uuid.uuid4().hex[:8]}.npz"
                locks.enter_context(file_lock(path.with_suffix(".lock"), wait=True))  # another may just look at it
        except OSError as error:
            raise ConfigError(
                f"training.checkpoint_dir={folder}: the folder cannot be written ({error.strerror}); name another one"
            ) from error
        if path is None:
            raise ConfigError(
                "resume=true: the same run is still training in another process; wait for its end, or stop it"
            )
        try:
            yield Checkpoint(path)
        except Exception as error:
            if is_trial and not (isinstance(error, OutageError) or is_disk_full(error)):
                _remove(path)
            raise
        _remove(path)


def _key(same_run: list[Any]) -> str:
    return hashlib.blake2b(json.dumps(same_run, sort_keys=True).encode(), digest_size=12).hexdigest()


def _left_of(folder: Path, key: str) -> list[Path]:
    """Return the checkpoints of a run, the newest first; remove files that a kill left before the first save."""
    for path in {file.with_suffix(".npz") for file in folder.glob(f"{key}-*") if _is_ours(file)}:
        if not path.exists():
            remove_checkpoint(path)
    return sorted(filter(_is_ours, folder.glob(f"{key}-*.npz")), key=lambda path: path.stat().st_mtime, reverse=True)


def left_checkpoints(folder: Path) -> dict[Path, RunLeft | None]:
    """Return the checkpoints that ended processes have left, with their runs; files of others are left out.

    The run is None if the process was killed while it saved its first epoch, so that nothing can be resumed.
    """
    saved = {file.with_suffix(".npz") for file in folder.glob("*-*") if file.suffix != ".lock" and _is_ours(file)}
    left: dict[Path, RunLeft | None] = {}
    for path in sorted(path for path in saved if _is_ours(path) or not path.exists()):
        with _locked(path) if path.with_suffix(".lock").exists() else nullcontext(True) as is_free:
            left |= {path: _readable_run(path)} if is_free else {}
    return left


def _readable_run(path: Path) -> RunLeft | None:
    try:
        return Checkpoint(path).read_left()
    except (BadZipFile, EOFError, ValueError, KeyError, TypeError):
        return None


def remove_checkpoint(path: Path) -> None:
    """Remove the files of a checkpoint, unless a process is using it, or they are not ours."""
    if any(_is_ours(path.with_suffix(suffix)) for suffix in _SUFFIXES):
        with _locked(path) as is_free:
            if is_free:
                _remove(path)


def _locked(path: Path) -> AbstractContextManager[bool]:
    return file_lock(path.with_suffix(".lock"), wait=False)


def _remove(path: Path) -> None:
    for suffix in _SUFFIXES:
        if _is_ours(file := path.with_suffix(suffix)):
            file.unlink(missing_ok=True)


def _is_ours(file: Path) -> bool:
    """Return whether a file has the name of a checkpoint, and begins as one does or is empty.

    The user chooses the folder, so it may hold other files.
    """
    if not _NAME.fullmatch(file.name) or file.is_symlink() or not file.is_file():
        return False
    with file.open("rb") as content:
        beginning = content.read(_ABOUT_AT + len(_ABOUT))
    return not beginning or beginning[_ABOUT_AT:] == _ABOUT.encode()
