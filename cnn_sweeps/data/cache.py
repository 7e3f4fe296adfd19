"""Decoded images on disk: written once, memory-mapped ever after.

One folder a cache, named by what is in it: the files' content and the decoding. It is written under
another name and renamed when complete, so that a folder under its final name is whole, however many processes build it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from tqdm import tqdm

from cnn_sweeps.data.dataset import digest_images
from cnn_sweeps.data.decode import decode_image
from cnn_sweeps.errors import DataError

_FORMAT = 1  # raise it when decoding gives other pixels, so that older caches are not used
_LEFTOVER_AFTER_S = 24 * 3600


@dataclass(frozen=True)
class DecodedImages:
    """The images of a folder that could be decoded.

    Attributes:
        images: uint8, (N, height, width, channels), 0 to 255, memory-mapped; its file holds nothing else.
        digests: str, (N,), equal for equal pixels.
        content_ids: str, (N,), equal for equal files, whatever the size they are decoded to.
        positions: int64, (N,), which of the files each image came from.
        bad_files: the other files' positions, with the reason.
    """

    images: NDArray[np.uint8]
    digests: NDArray[np.str_]
    content_ids: NDArray[np.str_]
    positions: NDArray[np.int64]
    bad_files: dict[int, str]


def load_decoded(files: Sequence[Path], cache_dir: Path, height: int, width: int, channels: int) -> DecodedImages:
    """Give the decoded images of the files, from the cache if it holds them, else decode and keep them.

    Raises:
        DataError: if the cache folder cannot be used or the disk is full.
    """
    shape = (height, width, channels)
    with ThreadPoolExecutor() as pool:
        content_ids = list(pool.map(_content_id, files))
    key = hashlib.blake2b(json.dumps([_FORMAT, PIL.__version__, shape, content_ids]).encode(), digest_size=16)
    folder = cache_dir / key.hexdigest()
    decoded = _open(folder)
    if decoded is None:
        try:
            with warnings.catch_warnings():  # not where threads decode: the filters are the process's
                warnings.simplefilter("ignore")  # oddities of metadata; what matters raises
                _build(folder, files, content_ids, shape)
        except OSError as error:
            raise DataError(
                f"data.cache_dir={cache_dir}: cannot be filled ({error.strerror}); name a folder that can"
            ) from error
        decoded = _open(folder)
        if decoded is None:
            raise DataError(f"data.cache_dir={cache_dir}: {folder.name} cannot be read back; name another folder")
    return decoded


def _content_id(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError:
        return "unreadable"


def _open(folder: Path) -> DecodedImages | None:
    """Memory-map a complete cache; None if there is none or it is damaged."""
    try:
        about = json.loads((folder / "about.json").read_text())
        shape = tuple(about["shape"])
        if not len(about["digests"]) == len(about["content_ids"]) == len(about["positions"]) == shape[0]:
            return None
        if (folder / "images.u8").stat().st_size != np.prod(shape):
            return None
        images = np.memmap(folder / "images.u8", np.uint8, "r", shape=shape) if shape[0] else np.empty(shape, np.uint8)
        return DecodedImages(
            images=images,
            digests=np.array(about["digests"], dtype=np.str_),
            content_ids=np.array(about["content_ids"], dtype=np.str_),
            positions=np.array(about["positions"], np.int64),
            bad_files={int(position): reason for position, reason in about["bad_files"].items()},
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _build(folder: Path, files: Sequence[Path], content_ids: Sequence[str], shape: tuple[int, int, int]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f"{folder.name}-{uuid.uuid4().hex}.unfinished")
    unfinished.mkdir()
    _remove_leftovers(folder.parent)
    try:
        _write(unfinished, files, content_ids, shape)
        _publish(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _remove_leftovers(cache_dir: Path) -> None:
    """Remove what processes that were killed while they decoded have left."""
    for left in cache_dir.glob("*.unfinished"):
        with suppress(OSError):  # another process was faster
            if time.time() - left.stat().st_mtime > _LEFTOVER_AFTER_S:
                shutil.rmtree(left)


def _write(folder: Path, files: Sequence[Path], content_ids: Sequence[str], shape: tuple[int, int, int]) -> None:
    digests: list[str] = []
    positions: list[int] = []
    bad_files: dict[int, str] = {}
    with (folder / "images.u8").open("wb") as images:
        for position, decoded in enumerate(_decode_all(files, shape)):
            if isinstance(decoded, DataError):
                bad_files[position] = str(decoded)
                continue
            images.write(decoded.tobytes())
            digests += digest_images(decoded[np.newaxis]).tolist()
            positions.append(position)
        _to_disk(images.fileno())
    about = {
        "shape": [len(positions), *shape],
        "digests": digests,
        "content_ids": [content_ids[position] for position in positions],
        "positions": positions,
        "bad_files": bad_files,
    }
    with (folder / "about.json").open("w") as file:
        json.dump(about, file)
        file.flush()
        _to_disk(file.fileno())


def _decode_all(files: Sequence[Path], shape: tuple[int, int, int]) -> Iterator[NDArray[np.uint8] | DataError]:
    """Decode in threads (Pillow works outside Python's lock), in order, a bad file as its error."""

    def decode(file: Path) -> NDArray[np.uint8] | DataError:
        try:
            return decode_image(file, *shape)
        except DataError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from tqdm(pool.map(decode, files), "decoding images", len(files), unit="", disable=None, leave=False)


def _publish(unfinished: Path, folder: Path) -> None:
    """Rename into place. A damaged cache there gives way; one that another process completed meanwhile stays."""
    if folder.exists() and _open(folder) is None:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        unfinished.rename(folder)
    except OSError:
        if _open(folder) is None:
            raise


def _to_disk(descriptor: int) -> None:
    os.fsync(descriptor)  # after a power cut, the renamed folder must not hold a file of zeros
