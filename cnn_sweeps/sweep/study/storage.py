"""Opens the storage of a study, and holds the locks by which its controllers exclude each other."""

from __future__ import annotations

import hashlib
import logging
import os
import shlex
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
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from cnn_sweeps.errors import StudyError, StudyOutageError
from cnn_sweeps.settings.targets import build
from cnn_sweeps.sweep.study.address import StudyAddress, check_journal, parse_address
from cnn_sweeps.sweep.study.journal import WriterLock, broken_lines
from cnn_sweeps.sweep.study.waiting import PatientStorage, may_pass
from cnn_sweeps.system.databases import connect_timeout, describe_database_error, opened_database
from cnn_sweeps.system.locks import file_lock
from cnn_sweeps.system.patience import patiently

log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 10
# With this, a server notices within a minute that the host of a connection is gone, and releases its lock.
_NOTICE_THE_DEAD = (
    "SELECT set_config('tcp_keepalives_idle', '30', false), set_config('tcp_keepalives_interval', '10', false), "
    "set_config('tcp_keepalives_count', '3', false)"
)
_ADVICE = "start the server, correct the address, or name a file, which needs no server"
_ALLOWED = (
    "allowed: a journal file, sqlite:///FILE, postgresql+psycopg://USER@HOST/DATABASE, another address that SQLAlchemy "
    "knows, or grpc://HOST:PORT"
)
_NONSENSE = (AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)  # in a journal
_UNUSABLE = (*_NONSENSE, HydraException, ImportError, OSError, RuntimeError, SQLAlchemyError, StorageInternalError)


def open_storage(address: StudyAddress) -> BaseStorage:
    """Open a study's storage.

    Raises:
        StudyError: if it cannot be reached or written, or its driver is not installed.
    """
    if address.place in ("sqlite://", "sqlite:///:memory:"):
        raise StudyError(
            f"hydra.sweeper.storage={address.place}: the processes of trials cannot read this one's memory; name a file"
        )
    with _errors_told(address):
        if address.file is not None:
            address.file.absolute().parent.mkdir(parents=True, exist_ok=True)
        if address.target is None:
            return _open_kept(address.absolute_place, os.getpid())
        storage = build(address.target)
        if not isinstance(storage, BaseStorage):
            raise TypeError(f"a {type(storage).__name__} is no Optuna storage")
        return storage


def open_patient_storage(address: StudyAddress) -> PatientStorage:
    """Open a study's storage as `open_storage` does; later requests wait during outages."""
    return PatientStorage(open_storage(address), address.shown)  # type: ignore[abstract]  # it has all


def open_to_read(address: StudyAddress) -> BaseStorage:
    """Open an existing storage only to read it: a journal is not mended, and no table is made.

    Raises:
        StudyError: if it cannot be read.
    """
    with _errors_told(address):
        if address.kind == "journal":
            return JournalStorage(JournalFileBackend(address.place))
        if address.kind == "grpc":
            return _open_kept(address.place, os.getpid())
        return RDBStorage(address.place, skip_table_creation=True)


@contextmanager
def _errors_told(address: StudyAddress) -> Iterator[None]:
    try:
        yield
    except _UNUSABLE as error:
        kind = StudyOutageError if may_pass(error) else StudyError
        reason, advice = describe_database_error(error), _ADVICE
        if isinstance(error.__cause__ or error, NoSuchModuleError):
            advice = _ALLOWED
        elif address.kind == "journal":
            advice = "name another file"
            if isinstance(error, _NONSENSE):  # Optuna checks little itself
                reason = f"it makes no sense: {type(error).__name__}: {reason:.200}"
                if address.file is not None and address.file.is_file() and (broken := broken_lines(address.file)):
                    reason = f"line {min(broken)} is blank or broken"
                    advice = f"`{_mending_command(address)}` removes such lines where it can"
        raise kind(f"hydra.sweeper.storage={address.shown}: cannot be used ({reason}); {advice}") from error


def _mending_command(address: StudyAddress) -> str:
    is_usual = address.absolute_place == parse_address(None, address.name).absolute_place
    storage = [] if is_usual else [f"hydra.sweeper.storage={address.place}"]
    return shlex.join(["python", "-m", "cnn_sweeps.doctor", address.name, *storage, "--fix"])


@lru_cache(maxsize=1)
def _open_kept(place: str, _process: int) -> BaseStorage:
    """Keep the connections, and the finished trials already read, for the next trial of this process."""
    address = parse_address(place)
    if address.kind == "journal":
        return _open_journal(Path(place))
    if address.kind == "grpc":
        return _open_proxy(place)
    with opened_database(place, "Optuna"):
        pass  # it can be used
    if address.kind == "sqlite":
        return optuna.storages.get_storage(place)
    with _advisory_lock(address, "tables") if address.is_postgresql else nullcontext():  # two at once would fail
        database = RDBStorage(place, engine_kwargs={"pool_pre_ping": True})  # it may be restarted
    return optuna.storages.get_storage(database)


def _open_journal(path: Path) -> BaseStorage:
    if path.exists():
        check_journal(path)
    return JournalStorage(JournalFileBackend(str(path), lock_obj=WriterLock(path)))  # type: ignore[arg-type]


def _open_proxy(place: str) -> BaseStorage:
    """Connect to a storage behind `optuna.storages.run_grpc_proxy_server`."""
    url = urlsplit(place)
    if url.hostname is None or url.port is None:
        raise ValueError("the address is not grpc://HOST:PORT")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        proxy = GrpcStorageProxy(host=url.hostname, port=url.port)
    proxy.wait_server_ready(_CONNECT_TIMEOUT_S)
    return proxy


def controllers_lock(address: StudyAddress) -> AbstractContextManager[bool]:
    """Let one controller of a study at a time claim trials, if the storage has a lock.

    Raises:
        StudyError: if the server does not answer, even after some waiting.
    """
    return _lock(address, "controllers", "study", wait=True)


def selection_lock(address: StudyAddress) -> AbstractContextManager[bool]:
    """Let one controller of a study at a time test its best trials; yield False at once if another one does."""
    return _lock(address, "selection", "selection", wait=False)


def _lock(address: StudyAddress, file_of: str, lock_of: str, *, wait: bool) -> AbstractContextManager[bool]:
    if (file := address.lock_file(file_of)) is not None:
        return file_lock(file, wait=wait)
    if address.is_postgresql:
        return _advisory_lock(address, f"{lock_of} {address.name}", wait=wait)
    return nullcontext(enter_result=True)


@contextmanager
def _advisory_lock(address: StudyAddress, name: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock of the database, which ends with the connection, even if this process is killed.

    Yields whether the lock is held; without `wait`, it is not if another process holds it.
    """
    key = int.from_bytes(hashlib.blake2b(f"cnn_sweeps {name}".encode(), digest_size=8).digest(), signed=True)
    plain: dict[str, Any] = {"poolclass": NullPool, "pool_reset_on_return": None, "isolation_level": "AUTOCOMMIT"}
    engine = create_engine(address.place, connect_args=connect_timeout(make_url(address.place), 30), **plain)
    request = text("SELECT pg_advisory_lock(:key)" if wait else "SELECT pg_try_advisory_lock(:key)")

    def take() -> tuple[Connection, bool]:
        try:
            connection = engine.connect()
            connection.execute(text(_NOTICE_THE_DEAD))
            return connection, connection.scalar(request, {"key": key}) is not False
        except SQLAlchemyError as error:
            kind = StudyOutageError if may_pass(error) else StudyError
            raise kind(
                f"hydra.sweeper.storage={address.shown}: cannot be used for now "
                f"({describe_database_error(error)}); start the database, and run the same command to go on"
            ) from error

    connection, is_held = patiently(take, log.warning)
    with connection:
        yield is_held
