"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cnn_sweeps.errors import ConfigError


def check_target(target: Path, setting: str, *, may_exist: bool) -> None:
    """Look whether a file, or with `may_exist` false a folder, can be made there.

    Raises:
        ConfigError: naming the setting that says where.
    """
    if target.is_dir() or (target.exists() and not may_exist):
        raise ConfigError(f"{setting}={target}: is there already; name a new place, or remove it")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"{setting}={target}: the folder {target.parent} is not there, or cannot be written to")


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Give a path beside `target` to write to; it is renamed when the block ends well, and removed otherwise.

    Raises:
        ConfigError: if the machine cannot write it.
    """
    unfinished = target.with_name(f".{target.name}-{uuid.uuid4().hex}.unfinished")
    try:
        yield unfinished
        unfinished.replace(target)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise ConfigError(f"{target}: cannot be written ({error.strerror or error}); name another place") from error
    finally:
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        else:
            unfinished.unlink(missing_ok=True)
