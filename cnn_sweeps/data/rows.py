"""Rows of numbers that images give, computed once by however many processes, and memory-mapped ever after.

One file a set of rows, named by all that they depend on. Its parts are computed under a lock each, so that processes
share the work, and what a killed one has finished is not computed again. The file is renamed when it is complete: under
its final name it is whole. Only this user can look into the folder.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cnn_sweeps.data.split import Indices
from cnn_sweeps.system.files import disk_errors, replace_whole
from cnn_sweeps.system.locks import file_lock

_FOLDER = "features"  # below the folder of all caches
_PRIVATE = 0o700
_ROWS_A_PART = 128
_ITEM_SIZE = 4  # bytes of a float32

Rows = NDArray[np.float32]


def load_rows(
    cache_dir: Path,
    about: list[Any],
    positions: Indices,
    shape: tuple[int, ...],
    compute: Callable[[Indices], Rows],
) -> Rows:
    """Return an array of a shape whose rows at `positions` are what `compute` gives for them; the others are 0.

    Args:
        cache_dir: of all caches.
        about: all that the rows depend on, as JSON takes it.
        positions: int64, (n,), sorted.
        shape: (N, ...); rows that are not computed take no space on a disk that can leave holes in files.
        compute: gives float32, (m, ...), for some of the positions, (m,); always of the same ones together.

    Raises:
        DiskError: if the disk is full, or the folder cannot be written.
    """
    key = hashlib.blake2b(json.dumps([about, positions.tolist(), shape]).encode(), digest_size=16).hexdigest()
    folder = cache_dir / _FOLDER
    target, parts = folder / f"{key}.f32", folder / f"{key}.parts"
    with disk_errors(target, "the same command"):
        if not _is_whole(target, shape):
            cache_dir.mkdir(parents=True, exist_ok=True)
            folder.mkdir(_PRIVATE, exist_ok=True)
            part_of = {
                parts / f"{start:08}": positions[start : start + _ROWS_A_PART]
                for start in range(0, len(positions), _ROWS_A_PART)
            }
            _compute(part_of, lambda: _is_whole(target, shape), compute)
            _put_together(part_of, parts, target, shape)
        return np.memmap(target, np.float32, "r", shape=shape)


def _is_whole(target: Path, shape: tuple[int, ...]) -> bool:
    return target.is_file() and target.stat().st_size == _ITEM_SIZE * math.prod(shape)


def _compute(part_of: dict[Path, Indices], is_done: Callable[[], bool], compute: Callable[[Indices], Rows]) -> None:
    """Compute what no other process has or is at, then wait for these; who is killed leaves his part to others."""
    total = sum(map(len, part_of.values()))
    with tqdm(total=total, desc="computing features", unit="", disable=None, leave=False) as bar:
        for wait in (False, True):
            for file, positions in part_of.items():
                if not (file.exists() or is_done()):
                    with file_lock(file.with_suffix(".lock"), wait=wait) as is_mine:
                        if is_mine and not (file.exists() or is_done()):
                            replace_whole(file, np.ascontiguousarray(compute(positions), np.float32).data.cast("B"))
                bar.update(0 if wait else len(positions))


def _put_together(part_of: dict[Path, Indices], parts: Path, target: Path, shape: tuple[int, ...]) -> None:
    with file_lock(parts / "whole.lock", wait=True):
        if not _is_whole(target, shape):
            unfinished = parts / "whole"
            with unfinished.open("wb") as file:
                file.truncate(_ITEM_SIZE * math.prod(shape))
                for part, positions in part_of.items():
                    rows = np.fromfile(part, np.float32).reshape(len(positions), -1)
                    for position, row in zip(positions.tolist(), rows, strict=True):
                        file.seek(position * row.nbytes)
                        file.write(row.tobytes())
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(target)
        with suppress(OSError):  # another process is still looking
            for each in parts.iterdir():
                each.unlink()
            parts.rmdir()
