"""Where a study is kept: a journal file, or a database that a URL names."""

from __future__ import annotations

import fcntl
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import optuna
from hydra.errors import HydraException
from hydra.utils import instantiate
from optuna.exceptions import ExperimentalWarning
from optuna.storages.journal import JournalFileBackend, JournalRedisBackend
from sqlalchemy.exc import SQLAlchemyError

from cnn_sweeps.errors import StudyError
from cnn_sweeps.locks import file_lock
from cnn_sweeps.passwords import hide_passwords

_SQLITE = "sqlite:///"


class _ProcessBoundLock:
    """Serializes writers of a journal file; unlike Optuna's locks it ends with its process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def acquire(self) -> bool:
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        assert self._file is not None
        os.close(self._file)


def open_storage(storage: str | dict[str, Any]) -> optuna.storages.BaseStorage:
    """Open the storage that a path, a URL or an Optuna storage's `_target_` names.

    Raises:
        StudyError: if it cannot be reached or written, or its driver is not installed.
    """
    if isinstance(storage, str) and "://" not in storage:
        return _open_journal(str(Path(storage).absolute()), os.getpid())
    if storage in ("sqlite://", "sqlite:///:memory:"):
        raise StudyError(f"hydra.sweeper.storage={storage}: trials run in processes of their own; name a file")
    try:
        if isinstance(storage, dict):
            return _checked(instantiate(storage, _convert_="all"))
        if storage.startswith("redis"):
            return _open_redis(storage)
        if storage.startswith(_SQLITE):
            Path(storage.removeprefix(_SQLITE)).absolute().parent.mkdir(parents=True, exist_ok=True)
        return optuna.storages.RDBStorage(storage)
    except (HydraException, ImportError, OSError, TypeError, ValueError, SQLAlchemyError) as error:
        reason = " ".join(str(error).split("\n(Background")[0].split())
        raise StudyError(
            f"hydra.sweeper.storage={describe_storage(storage)}: cannot be used ({reason}); "
            "start the server or correct the address, or name a file, which needs no server"
        ) from error


def _open_redis(url: str) -> optuna.storages.JournalStorage:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        backend = JournalRedisBackend(url)
    from redis.exceptions import RedisError  # noqa: PLC0415  installed by those who use it

    try:
        return optuna.storages.JournalStorage(backend)
    except RedisError as error:
        raise OSError(str(error)) from error


@lru_cache(maxsize=1)
def _open_journal(path: str, _process: int) -> optuna.storages.JournalStorage:
    """Keep what was read of the journal for the next trial of this process."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        lock = _ProcessBoundLock(Path(f"{path}.flock"))
        _cut_unfinished_line(Path(path), lock)
        return optuna.storages.JournalStorage(JournalFileBackend(path, lock_obj=lock))  # type: ignore[arg-type]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StudyError(
            f"hydra.sweeper.storage={path}: cannot be used as a journal file ({error}); name another"
        ) from error


def describe_storage(storage: str | dict[str, Any]) -> str:
    """Name the storage for the record, without the password that a URL may hold."""
    if isinstance(storage, dict):
        return str(storage.get("_target_"))
    return hide_passwords(storage)


def _cut_unfinished_line(path: Path, lock: _ProcessBoundLock) -> None:
    """Take away what a power cut left of a line, to which the next one would be appended."""
    lock.acquire()
    try:
        content = path.read_bytes() if path.exists() else b""
        if content.startswith(b"SQLite format 3"):
            raise ValueError(f"it is an SQLite database; did you mean sqlite:///{path}?")
        if content and not content.startswith(b'{"op_code"'):
            raise ValueError("it is another kind of file")
        if content and not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)
    finally:
        lock.release()


def _checked(storage: Any) -> optuna.storages.BaseStorage:
    if not isinstance(storage, optuna.storages.BaseStorage):
        raise TypeError(f"a {type(storage).__name__} is no Optuna storage")
    return storage


def lock_file(storage: str | dict[str, Any]) -> Path | None:
    """Give the file by which the controllers of a study exclude each other; None for one on a server."""
    path = storage.removeprefix(_SQLITE) if isinstance(storage, str) else "://"
    return None if "://" in path else Path(f"{path}.controllers.lock").absolute()


@contextmanager
def controllers_lock(storage: str | dict[str, Any]) -> Iterator[None]:
    """Let one controller at a time decide what is next, if the storage is a file; servers have no such lock."""
    path = lock_file(storage)
    with nullcontext() if path is None else file_lock(path, wait=True):
        yield
