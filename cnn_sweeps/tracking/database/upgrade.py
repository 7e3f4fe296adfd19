"""Upgrades an SQLite database of an older MLflow to the installed one."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

from mlflow.store.db.utils import _upgrade_db, create_sqlalchemy_engine

from cnn_sweeps.errors import TrackingError, describe_error
from cnn_sweeps.system.databases import copy_content, keep_copy
from cnn_sweeps.system.locks import file_lock

log = logging.getLogger(__name__)


def upgrade(file: Path, newest: Collection[str]) -> None:
    """Bring a database to the newest revision, unless another process has just done so; keep a copy of the old one.

    MLflow works on a second copy, so that an interruption leaves the database as it was. Meanwhile it is locked.

    Raises:
        TrackingError: if MLflow cannot upgrade it.
    """
    with file_lock(file.with_name(f"{file.name}.lock"), wait=True), closing(sqlite3.connect(file)) as database:
        (revision,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
        if revision in newest:
            return
        database.isolation_level = None
        database.execute("BEGIN IMMEDIATE")
        kept = keep_copy(file, f"upgrade-{revision}")
        unfinished = file.with_name(f"{file.name}.unfinished")
        unfinished.unlink(missing_ok=True)  # of a killed process
        try:
            copy_content(file, unfinished)
            engine = create_sqlalchemy_engine(f"sqlite:///{unfinished}")  # type: ignore[no-untyped-call]
            _upgrade_db(engine)  # type: ignore[no-untyped-call]
            engine.dispose()
        except Exception as error:  # a migration may raise anything
            kept.unlink()
            raise TrackingError(
                f"{file}: MLflow cannot upgrade this database of an older version ({describe_error(error)}); "
                "it stays as it was; use it with the MLflow that made it, or give another tracking.uri"
            ) from error
        database.execute("ROLLBACK")
        copy_content(unfinished, file)
        unfinished.unlink()
    log.warning("upgraded %s, which an older MLflow had made; a copy of the old file is %s", file, kept)
