"""Where a study is kept: a journal file, or a database that a URL names."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import optuna
from hydra.errors import HydraException
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from cnn_sweeps.errors import StudyError, StudyOutageError
from cnn_sweeps.settings.targets import build
from cnn_sweeps.sweep.study.waiting import PatientStorage, may_pass
from cnn_sweeps.system.databases import check_database, connect_timeout, describe_database_error
from cnn_sweeps.system.locks import file_lock
from cnn_sweeps.system.patience import patiently
from cnn_sweeps.text.passwords import hide_passwords

log = logging.getLogger(__name__)

_SQLITE = "sqlite:///"
_GRPC = "grpc://"
_CONNECT_TIMEOUT_S = 10
# A server notices within a minute that the host of a connection is gone, and then ends the connection's lock.
_NOTICE_THE_DEAD = (
    "SELECT set_config('tcp_keepalives_idle', '30', false), set_config('tcp_keepalives_interval', '10', false), "
    "set_config('tcp_keepalives_count', '3', false)"
)
_ADVICE = "start the server or correct the address, or name a file, which needs no server"
_ALLOWED = (
    "allowed: a journal file, sqlite:///FILE, postgresql+psycopg://USER@HOST/DATABASE, what else SQLAlchemy knows, and "
    f"{_GRPC}HOST:PORT"
)
_UNUSABLE = (
    HydraException,
    ImportError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    SQLAlchemyError,
    StorageInternalError,
)


class _WriterLock:
    """Serializes writers of a journal file; unlike Optuna's locks it ends with its process."""

    def __init__(self, journal: Path) -> None:
        self._journal, self._path = journal, Path(f"{journal}.flock")
        self._file: int | None = None

    def acquire(self) -> bool:
        """Wait for the lock, and take away what a full disk, a kill or a power cut left of the writer before."""
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            _cut_unfinished_line(self._journal)
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        """Let the next one write."""
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
    with _errors_told(storage):
        if isinstance(storage, dict):
            return _checked(build(storage))
        if storage.startswith(_GRPC):
            return _open_proxy(storage, os.getpid())
        if storage.startswith(_SQLITE):
            Path(storage.removeprefix(_SQLITE)).absolute().parent.mkdir(parents=True, exist_ok=True)
        return _open_database(storage, os.getpid())


def open_to_read(storage: str) -> optuna.storages.BaseStorage:
    """Open a storage that is there only to look at it: a journal is not mended, and no table is made.

    Raises:
        StudyError: if it cannot be read.
    """
    with _errors_told(storage):
        if "://" not in storage:
            with _nonsense_told(storage):
                return optuna.storages.JournalStorage(JournalFileBackend(storage))
        if storage.startswith(_GRPC):
            return _open_proxy(storage, os.getpid())
        return optuna.storages.RDBStorage(storage, skip_table_creation=True)


@contextmanager
def _errors_told(storage: str | dict[str, Any]) -> Iterator[None]:
    try:
        yield
    except _UNUSABLE as error:
        kind = StudyOutageError if may_pass(error) else StudyError
        is_unknown = isinstance(error.__cause__ or error, NoSuchModuleError)
        raise kind(
            f"hydra.sweeper.storage={describe_storage(storage)}: cannot be used ({describe_database_error(error)}); "
            f"{_ALLOWED if is_unknown else _ADVICE}"
        ) from error


@lru_cache(maxsize=1)
def _open_database(address: str, _process: int) -> optuna.storages.BaseStorage:
    """Keep the connections, and the finished trials that were read, for the next trial of this process."""
    check_database(address, "Optuna")
    if address.startswith(_SQLITE):
        return optuna.storages.get_storage(address)
    making_tables = _advisory_lock(address, "tables") if _is_postgresql(address) else nullcontext()
    with making_tables:  # which fails where two do it at once
        database = optuna.storages.RDBStorage(address, engine_kwargs={"pool_pre_ping": True})  # it may be restarted
    return optuna.storages.get_storage(database)


def open_patient_storage(storage: str | dict[str, Any]) -> PatientStorage:
    """Do what `open_storage` does; what is asked of the storage later waits out its outages."""
    return PatientStorage(open_storage(storage), describe_storage(storage))  # type: ignore[abstract]  # it has all


@lru_cache(maxsize=1)
def _open_proxy(address: str, _process: int) -> optuna.storages.GrpcStorageProxy:
    """Reach a storage behind `optuna.storages.run_grpc_proxy_server`, and keep the connection for the next trial."""
    place = urlsplit(address)
    if place.hostname is None or place.port is None:
        raise ValueError(f"it is no {_GRPC}HOST:PORT")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        proxy = optuna.storages.GrpcStorageProxy(host=place.hostname, port=place.port)
    proxy.wait_server_ready(_CONNECT_TIMEOUT_S)
    return proxy


@lru_cache(maxsize=1)
def _open_journal(path: str, _process: int) -> optuna.storages.JournalStorage:
    """Keep what was read of the journal for the next trial of this process."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        _check_kind(Path(path))
        backend = JournalFileBackend(path, lock_obj=_WriterLock(Path(path)))  # type: ignore[arg-type]
        with _nonsense_told(path):
            return optuna.storages.JournalStorage(backend)
    except (OSError, ValueError) as error:
        kind = StudyOutageError if may_pass(error) else StudyError
        raise kind(f"hydra.sweeper.storage={path}: cannot be used as a journal file ({error}); name another") from error


@contextmanager
def _nonsense_told(journal: str) -> Iterator[None]:
    """Tell in one line that Optuna cannot make sense of what a journal says, of which it checks little."""
    try:
        yield
    except (AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise StudyError(f"hydra.sweeper.storage={journal}: makes no sense ({reason:.200}); name another") from error


def describe_storage(storage: str | dict[str, Any]) -> str:
    """Name the storage for the record, without the password that a URL may hold."""
    if isinstance(storage, dict):
        return str(storage.get("_target_"))
    return hide_passwords(storage)


def _check_kind(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb") as file:
        beginning = file.read(15)
    if beginning == b"SQLite format 3":
        raise ValueError(f"it is an SQLite database; did you mean sqlite:///{path}?")
    if not b'{"op_code"'.startswith(beginning[:10]):
        raise ValueError("it is another kind of file")


def cut_unfinished_line(path: Path) -> None:
    """Take away what a power cut left of a journal's line, to which the next one would be appended."""
    lock = _WriterLock(path)
    lock.acquire()
    lock.release()


def _cut_unfinished_line(path: Path) -> None:
    with path.open("r+b") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def _checked(storage: Any) -> optuna.storages.BaseStorage:
    if not isinstance(storage, optuna.storages.BaseStorage):
        raise TypeError(f"a {type(storage).__name__} is no Optuna storage")
    return storage


def is_only_here(address: str) -> bool:
    """Tell whether a path or an address of a database or a server is one that no other machine can use."""
    parts = urlsplit(address)
    return parts.scheme in ("", "file", "sqlite") or parts.hostname in ("localhost", "127.0.0.1", "::1")


def lock_file(storage: str | dict[str, Any]) -> Path | None:
    """Give the file by which the controllers of a study exclude each other; None for one on a server."""
    path = storage.removeprefix(_SQLITE) if isinstance(storage, str) else "://"
    return None if "://" in path else Path(f"{path}.controllers.lock").absolute()


def server_address(storage: str | dict[str, Any]) -> str | None:
    """Give the address of the server that keeps the study, which other hosts may use too; None for a file."""
    address = storage if isinstance(storage, str) else str(storage.get("url", ""))
    return address if "://" in address and not address.startswith("sqlite") else None


def has_lock(storage: str | dict[str, Any]) -> bool:
    """Tell whether the controllers of a study exclude each other: by a file, or in PostgreSQL."""
    return lock_file(storage) is not None or _is_postgresql(server_address(storage))


def controllers_lock(storage: str | dict[str, Any], study_name: str) -> AbstractContextManager[Any]:
    """Let one controller of a study at a time decide what is next, if the storage has a lock.

    Raises:
        StudyError: if the server does not answer, nor after some patience.
    """
    path, address = lock_file(storage), server_address(storage)
    if path is not None:
        return file_lock(path, wait=True)
    return _advisory_lock(address, f"study {study_name}") if address and _is_postgresql(address) else nullcontext()


def selection_lock(storage: str | dict[str, Any], study_name: str) -> AbstractContextManager[bool]:
    """Let one controller of a study at a time test its best trials; give at once whether it is this one.

    Raises:
        StudyError: if the server does not answer, nor after some patience.
    """
    path, address = lock_file(storage), server_address(storage)
    if path is not None:
        return file_lock(path.with_name(path.name.replace(".controllers.", ".selection.")), wait=False)
    if address and _is_postgresql(address):
        return _advisory_lock(address, f"selection {study_name}", wait=False)
    return nullcontext(enter_result=True)


def _is_postgresql(address: str | None) -> bool:
    return address is not None and address.startswith(("postgresql://", "postgresql+psycopg"))


@contextmanager
def _advisory_lock(address: str, name: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock of the database, which ends with its connection, however this process ends; give whether it is held.

    Without `wait` it is not if another one holds it.
    """
    key = int.from_bytes(hashlib.blake2b(f"cnn_sweeps {name}".encode(), digest_size=8).digest(), signed=True)
    plain: dict[str, Any] = {"poolclass": NullPool, "pool_reset_on_return": None, "isolation_level": "AUTOCOMMIT"}
    engine = create_engine(address, connect_args=connect_timeout(make_url(address), 30), **plain)

    request = text("SELECT pg_advisory_lock(:key)" if wait else "SELECT pg_try_advisory_lock(:key)")

    def take() -> tuple[Connection, bool]:
        try:
            connection = engine.connect()
            connection.execute(text(_NOTICE_THE_DEAD))
            is_held = connection.scalar(request, {"key": key}) is not False
        except SQLAlchemyError as error:
            kind = StudyOutageError if may_pass(error) else StudyError
            raise kind(
                f"hydra.sweeper.storage={describe_storage(address)}: cannot be used for now "
                f"({describe_database_error(error)}); start it, and go on with the same command"
            ) from error
        return connection, is_held

    connection, is_held = patiently(take, log.warning)
    with connection:
        yield is_held
