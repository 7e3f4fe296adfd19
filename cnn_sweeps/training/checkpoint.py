"""The last kept epoch of an unfinished run, in one file that is replaced as a whole."""

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
"""Of all checkpoints, as `conf/training/default.yaml` has it."""

_CUT_OFF = ".unfinished"  # suffix of what is being saved
_SUFFIXES = (".npz", _CUT_OFF, ".lock")
_NAME = re.compile(rf"[0-9a-f]{{24}}-[0-9a-f]{{8}}(\.npz|\.lock|{re.escape(_CUT_OFF)})")
_PIXELS = "pixels from 0 to 255"
"""What networks take; raised with what would let a checkpoint go on in another network than its own."""
# The first array of each file, so that even what was cut off can be told from others' files.
_ABOUT = "cnn_sweeps_checkpoint"
_ABOUT_AT = 30  # bytes, after which a zip has the name of its first file


class RunLeft(NamedTuple):
    """Which run a checkpoint is of."""

    record: str  # the id of its record
    folder: str  # of the record, as seen from the working folder
    whole: str  # the id of the record of the run that it is a part of, or its own


_EARLIER = RunLeft("of an earlier version", "", "")  # which named no record: it goes on in a new one


@dataclass(frozen=True)
class Checkpoint:
    """The last epoch that a run saved, or, of several trainings, those that are finished, in a file that may not exist.

    `claim_checkpoint` gives it to one process at a time.
    """

    path: Path

    def save(self, model: keras.Model, progress: TrainingProgress, run: RunLeft) -> None:
        """Replace what is kept by the state of `model`, its optimizer and `progress`; all or, if killed, nothing.

        Raises:
            DiskError: if the disk cannot take it; what was kept before is still there.
        """
        best = {f"best_{i}": weights for i, weights in enumerate(progress.best_weights)}
        about = {"run": run, "history": progress.history, "best": [progress.best_epoch, progress.best_value]}
        about["fine_tuned"] = [progress.fine_tuned_after, progress.best_epoch_before]
        self._write(about, _variables(model) | best)

    def save_parts(self, finals: Mapping[str, dict[str, float]], run: RunLeft) -> None:
        """Do what `save` does, of the finished ones of several trainings: final metrics by the id of their record."""
        self._write({"run": run, "parts": list(finals.items())}, {})

    def _write(self, about: dict[str, Any], variables: dict[str, Any]) -> None:
        content, arrays = io.BytesIO(), {name: np.asarray(variable) for name, variable in variables.items()}
        np.savez(content, allow_pickle=False, **{_ABOUT: np.array(json.dumps(about, default=float))}, **arrays)
        with disk_errors(self.path, "the same command with resume=true"):
            replace_whole(self.path, content.getbuffer())

    def read_left(self) -> RunLeft | None:
        """Give the run that is to go on; None for a new run."""
        return RunLeft(*self._read_about().get("run", _EARLIER)) if self.path.exists() else None

    def read_parts(self) -> dict[str, dict[str, float]]:
        """Give what `save_parts` was given, in that order; nothing for a new run."""
        return dict(self._read_about().get("parts", [])) if self.path.exists() else {}

    def _read_about(self) -> dict[str, Any]:
        with np.load(self.path) as content:
            about: dict[str, Any] = json.loads(str(content[_ABOUT]))
        return about

    def is_of_fine_tuning(self) -> bool:
        """Tell whether what is kept is of a network whose beginning is trained, too, since the rest was."""
        return self.path.exists() and self._read_about().get("fine_tuned", [None])[0] is not None

    def restore(self, model: keras.Model) -> TrainingProgress:
        """Give `model` and its built optimizer the kept state, if there is one, and return how far the run has come.

        Raises:
            ConfigError: if the state is that of another network.
        """
        if not self.path.exists():
            return TrainingProgress()
        about, variables = self._read_about(), _variables(model)
        with np.load(self.path) as content:
            arrays = {name: content[name] for name in content.files if name != _ABOUT}
        best_weights = [arrays.pop(f"best_{i}") for i in range(sum(name.startswith("best_") for name in arrays))]
        if {name: array.shape for name, array in arrays.items()} != {n: tuple(v.shape) for n, v in variables.items()}:
            raise ConfigError(
                "resume=true: the model's or optimizer's code has changed since the run was interrupted; "
                f"start anew without resume=true, or restore the code ({self.path})"
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
    """Claim a new checkpoint or, with `resume`, the newest that an ended process left of the same run, for the block.

    It is removed when the block comes to its end, and kept after a signal or an outage. After another error it is kept,
    too, but for that of a trial, whose sweep goes on without it.

    Args:
        folder: of all checkpoints.
        settings: every setting that the result depends on; with the data they tell which run is the same one.
        data_fingerprint: of the data set.
        resume: go on with what is left, if there is any.
        is_trial: whether the run is a trial, beside which an equal one may be at work.

    Raises:
        ConfigError: if the folder cannot be written; with `resume`, of no trial, also if the same run is still going on
            in another process, or was interrupted under an earlier version.
    """
    same_run = [settings, data_fingerprint, [version(package) for package in ("cnn-sweeps", "keras", "tensorflow")]]
    key = _key([*same_run, _PIXELS])
    with ExitStack() as locks:
        try:
            if resume and not is_trial and (old := next(folder.glob(f"{_key(same_run)}-*.npz"), None)):
                raise ConfigError(
                    "resume=true: the run was interrupted under an earlier version of cnn-sweeps, whose networks take "
                    f"pixels in 0 to 1; start anew without resume=true ({old})"
                )
            paths = _left_of(folder, key) if resume else []
            path = next((path for path in paths if locks.enter_context(_locked(path))), None)
            if path is None and (is_trial or not paths):
                path = folder / f"{key}-{uuid.uuid4().hex[:8]}.npz"
                locks.enter_context(file_lock(path.with_suffix(".lock"), wait=True))  # others may look if it is left
        except OSError as error:
            raise ConfigError(
                f"training.checkpoint_dir={folder}: cannot be written ({error.strerror}); name another folder"
            ) from error
        if path is None:
            raise ConfigError(
                "resume=true: the same run is still training in another process; wait for it or stop it first"
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
    """Give what was saved of a run, the newest first; remove what was cut off before anything was."""
    for path in {file.with_suffix(".npz") for file in folder.glob(f"{key}-*") if _is_ours(file)}:
        if not path.exists():
            remove_checkpoint(path)
    return sorted(filter(_is_ours, folder.glob(f"{key}-*.npz")), key=lambda path: path.stat().st_mtime, reverse=True)


def left_checkpoints(folder: Path) -> dict[Path, RunLeft | None]:
    """Give the checkpoints that ended processes have left, with their runs; no file of anybody else.

    None if nothing can be resumed: the process was killed while it saved its first epoch.
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
    """Remove a checkpoint's files, unless a process is at work on it, or they are not ours."""
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
    """Tell whether a file has a name as only `claim_checkpoint` gives it, and begins as a checkpoint does, or is empty.

    Its folder is the user's choice, and may hold other files.
    """
    if not _NAME.fullmatch(file.name) or file.is_symlink() or not file.is_file():
        return False
    with file.open("rb") as content:
        beginning = content.read(_ABOUT_AT + len(_ABOUT))
    return not beginning or beginning[_ABOUT_AT:] == _ABOUT.encode()
