"""An SQLite database of an older MLflow, upgraded to the installed one."""

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
    """Bring a database to the newest revision, unless another process has just done so, and keep a copy of before.

    The work is done on a second copy, so that whatever ends it leaves the database as it was. Meanwhile nobody writes.

    Raises:
        TrackingError: if MLflow cannot do it.
    """
    with file_lock(file.with_name(f"{file.name}.lock"), wait=True), closing(sqlite3.connect(file)) as database:
        (revision,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
        if revision in newest:
            return
        database.isolation_level = None
        database.execute("BEGIN IMMEDIATE")
        kept = keep_copy(file, f"upgrade-{revision}")
        unfinished = file.with_name(f"{file.name}.unfinished")
        unfinished.unlink(missing_ok=True)  # of a process that was killed
        try:
            copy_content(file, unfinished)
            engine = create_sqlalchemy_engine(f"sqlite:///{unfinished}")  # type: ignore[no-untyped-call]
            _upgrade_db(engine)  # type: ignore[no-untyped-call]
            engine.dispose()
        except Exception as error:  # whatever a migration meets
            kept.unlink()
            raise TrackingError(
                f"{file}: MLflow cannot upgrade this database of an older one ({describe_error(error)}); "
                "it is as it was; use it with the MLflow that made it, or name another tracking.uri"
            ) from error
        database.execute("ROLLBACK")
        copy_content(unfinished, file)
        unfinished.unlink()
    log.warning("%s was of an older MLflow, and is upgraded; as it was it is kept in %s", file, kept)
