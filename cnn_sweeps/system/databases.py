"""Checks whether a database can be used, before a library makes tables in it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

_CONNECT_TIMEOUT_S = 10
_DRIVERS = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
_REVISION_OF_OPTUNA = re.compile(r"v\d+\.\d+")


@contextmanager
def opened_database(address: str, program: str) -> Iterator[Connection | None]:
    """Connect to a database that has the tables of a program, "MLflow" or "Optuna".

    Yields:
        The connection; None if the database has no tables yet, or its SQLite file does not exist.

    Raises:
        ValueError: with a message of one line, if the address is wrong, the driver is not installed, the server refuses
            the connection, or the database belongs to another program.
    """
    try:
        url = make_url(address)
        if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
            yield None  # it will be made
            return
        engine = create_engine(url, poolclass=NullPool, connect_args=connect_timeout(url, _CONNECT_TIMEOUT_S))
        with engine.connect() as connection:
            if (owner := _owner(connection)) in (None, program):
                yield None if owner is None else connection
    except ModuleNotFoundError as error:
        package = _DRIVERS.get(str(error.name), error.name)
        raise ValueError(f"its driver is not installed; pip install '{package}'") from error
    except (SQLAlchemyError, ImportError, OSError, ValueError) as error:
        raise ValueError(describe_database_error(error)) from error
    if owner not in (None, program):
        raise ValueError(f"it holds the tables of {owner}; {program} needs a database of its own")


def keep_copy(file: Path, reason: str) -> Path:
    """Copy an SQLite database, which may be in use, to `FILE.before-REASON` beside it; return the copy's path.

    If that exists, the new copy gets a number.
    """
    names = (f"{file.name}.before-{reason}{f'-{number}' if number > 1 else ''}" for number in count(1))
    copy = next(path for name in names if not (path := file.with_name(name)).exists())
    copy_content(file, copy)
    return copy


def copy_content(file: Path, target: Path) -> None:
    """Replace the content of the SQLite database `target` by that of `file`, all at once; both may be in use."""
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(target)) as copy:
        source.backup(copy)


def _owner(connection: Connection) -> str | None:
    """Return whose tables a database holds; None if no program has noted its version with Alembic."""
    tables = inspect(connection).get_table_names()
    if "alembic_version" not in tables:
        return None
    revision = connection.scalar(text("SELECT version_num FROM alembic_version"))
    if revision is None:
        return None
    if _REVISION_OF_OPTUNA.match(revision):
        return "Optuna"
    return "MLflow" if "experiments" in tables else "another program"


def connect_timeout(url: URL, seconds: int) -> dict[str, int]:
    """Return the argument that limits how long PostgreSQL's driver waits for a connection, unless the address does."""
    is_set = "connect_timeout" in url.query or url.get_driver_name() not in ("psycopg", "psycopg2")
    return {} if is_set else {"connect_timeout": seconds}


def is_unavailable(error: BaseException) -> bool:
    """Return whether an error comes from a database that is away, and not from a wrong request."""
    cause = _cause(error)
    return isinstance(cause, (OperationalError, InterfaceError)) or (
        isinstance(cause, DBAPIError) and cause.connection_invalidated
    )


def describe_database_error(error: BaseException) -> str:
    """Return the message of a database or its driver in one line, without the SQL statement."""
    cause = _cause(error)
    cause = cause.orig if isinstance(cause, DBAPIError) and cause.orig is not None else cause
    text = cause.details() if hasattr(cause, "details") else str(cause)  # gRPC's own text would fill a page
    message = " ".join(text.split("\n(Background")[0].split("\nLINE ")[0].split())
    if "permission denied for schema" in message:
        message += "; make the user the database's owner, or GRANT CREATE ON SCHEMA public"
    return message


def _cause(error: BaseException) -> BaseException:
    """Return the database's error, which Optuna and others wrap."""
    return error.__cause__ if isinstance(error.__cause__, DBAPIError) else error
