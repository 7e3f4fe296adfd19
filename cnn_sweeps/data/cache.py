"""Decoded images on disk: written once, memory-mapped ever after.

One folder a cache, named by what is in it: the files' content and the decoding. It is written under
another name and renamed when complete, so that a folder under its final name is whole, however many processes build it.
Only this user can look into it: pictures may be nobody else's business. Changed pixels are noticed and decoded again.
"""

import hashlib
import json
import os
import re
import stat
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import PIL
from numpy.typing import NDArray

from cnn_sweeps.data.batches import decode_ahead
from cnn_sweeps.data.dataset import digest_images
from cnn_sweeps.data.decode import UnreadableError, open_file
from cnn_sweeps.errors import DataError
from cnn_sweeps.system.ends import threads

_FORMAT = 1  # raise it when decoding gives other pixels, so that older caches are not used
_LEFTOVER_AFTER_S = 24 * 3600
_PRIVATE = 0o700
_UNREADABLE = "unreadable"  # in place of a content's id
_BYTES_A_CHUNK = 2**24
_NUM_AHEAD = 64  # decoded images that wait to be written
_NAME = re.compile(r"[0-9a-f]{32}(-[0-9]+)?(-[0-9a-f]{32}\.unfinished)?")
_PIXELS, _ABOUT, _MARK = "images.u8", "about.json", "cnn_sweeps.cache"  # the files in a cache
_MARK_TEXT = "decoded images, made by cnn_sweeps; the whole folder may be deleted while nothing trains\n"


@dataclass(frozen=True)
class DecodedImages:
    """The images of a folder that could be decoded.

    Attributes:
        images: uint8, (N, height, width, channels), 0 to 255, memory-mapped; its file holds nothing else.
        digests: str, (N,), equal for equal pixels.
        content_ids: str, (N,), equal for equal files, whatever the size they are decoded to.
        positions: int64, (N,), which of the files each image came from.
        bad_files: the other files' positions, with the reason.
        note: where the images are kept instead, if the folder of caches cannot be written; else empty.
    """

    images: NDArray[np.uint8]
    digests: NDArray[np.str_]
    content_ids: NDArray[np.str_]
    positions: NDArray[np.int64]
    bad_files: dict[int, str]
    note: str = ""


def load_decoded(files: Sequence[Path], cache_dir: Path, height: int, width: int, channels: int) -> DecodedImages:
    """Return the decoded images of the files, from the cache if it holds them, else decode and keep them.

    A folder of caches that this user may not write gives way to one among the temporary files.

    Raises:
        DataError: if the cache folder cannot be used or the disk is full.
    """
    shape = (height, width, channels)
    with threads() as pool:
        content_ids = list(pool.map(_content_id, files))
    _tidy(cache_dir)
    note, folder = "", _folder(cache_dir, shape, content_ids)
    try:
        if (decoded := _open(folder)) is None:
            place, note = writable_folder(cache_dir, "data.cache_dir")
            if note:
                _tidy(place)
            folder = _folder(place, shape, content_ids)
            decoded = _open(folder) or _open(folder := _build(folder, files, content_ids, shape))
    except OSError as error:
        raise DataError(
            f"data.cache_dir={cache_dir}: cannot be filled ({error.strerror}); name a folder that can"
        ) from error
    if decoded is None:
        raise DataError(f"data.cache_dir={cache_dir}: {folder.name} cannot be read back; name another folder")
    return replace(decoded, note=note)


def writable_folder(cache_dir: Path, setting: str) -> tuple[Path, str]:
    """Return a folder for caches, and what to say if it is not the one that a setting names as nobody can write there.

    The other is among the temporary files, and only this user's.

    Raises:
        DataError: if that one cannot be used either.
    """
    place = next(each for each in (cache_dir, *cache_dir.absolute().parents) if os.access(each, os.F_OK))
    if not place.is_dir() or os.access(place, os.W_OK | os.X_OK):
        return cache_dir, ""
    other = Path(tempfile.gettempdir(), f"cnn_sweeps-{os.getuid()}")
    told = f"{setting}={cache_dir}: {place} cannot be written"
    try:
        other.mkdir(_PRIVATE, exist_ok=True)
        about = other.lstat()
    except OSError as error:
        raise DataError(f"{told}, nor can {other} ({error.strerror}); name a folder that can") from error
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
        raise DataError(f"{told}, and {other} is not a folder of yours alone; name a folder that can be written")
    return other, f"{told}; what is decoded or computed is kept in {other}, which may be gone after a restart"


def _content_id(file: Path) -> str:
    try:
        with open_file(file) as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()  # type: ignore[arg-type]
    except (OSError, DataError):
        return _UNREADABLE


def _folder(cache_dir: Path, shape: tuple[int, int, int], content_ids: Sequence[str]) -> Path:
    """Return the folder for the decoded images, one of this user's where another user's has the name."""
    about = json.dumps([_FORMAT, PIL.__version__, shape, content_ids]).encode()
    folder = cache_dir / hashlib.blake2b(about, digest_size=16).hexdigest()
    is_there = os.path.exists(folder)  # noqa: PTH110  raises nothing where the folder above is closed
    is_closed = is_there and not os.access(folder, os.R_OK | os.X_OK)
    return folder.with_name(f"{folder.name}-{os.getuid()}") if is_closed else folder


def _tidy(cache_dir: Path) -> None:
    """Close this user's caches to others: earlier versions left them open. Remove what killed processes have left."""
    with suppress(OSError):  # there is none yet
        for folder in cache_dir.iterdir():
            name = _NAME.fullmatch(folder.name)
            if name is None or folder.is_symlink():
                continue
            with suppress(OSError, ValueError):  # another user's, or another process was faster; it holds no text
                if (folder / _ABOUT).exists() and folder.stat().st_mode & 0o077:
                    folder.chmod(_PRIVATE)
                if name[2] and (folder / _MARK).read_text() == _MARK_TEXT:
                    last_written = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
                    if time.time() - last_written > _LEFTOVER_AFTER_S:
                        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove what this module writes into a folder, and the folder if that was all; nothing else, whatever its name."""
    with suppress(OSError):
        for name in (_PIXELS, _ABOUT, _MARK):  # the mark last, for another process if this one is killed meanwhile
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def _open(folder: Path) -> DecodedImages | None:
    """Memory-map a complete cache; None if there is none or it is damaged."""
    try:
        about = json.loads((folder / _ABOUT).read_text())
        shape = tuple(about["shape"])
        images = np.memmap(folder / _PIXELS, np.uint8, "r", shape=shape) if shape[0] else np.empty(shape, np.uint8)
        digests, content_ids = (np.array(about[name], dtype=np.str_) for name in ("digests", "content_ids"))
        bad_files = {int(position): reason for position, reason in about["bad_files"].items()}
        decoded = DecodedImages(images, digests, content_ids, np.array(about["positions"], np.int64), bad_files)
        return decoded if np.array_equal(_digests(images), digests) else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _digests(images: NDArray[np.uint8]) -> NDArray[np.str_]:
    """Return each image's digest, in threads: hashing works outside Python's lock."""
    images_a_chunk = max(1, _BYTES_A_CHUNK // int(np.prod(images.shape[1:])))
    chunks = [images[start : start + images_a_chunk] for start in range(0, len(images), images_a_chunk)]
    with threads(os.cpu_count()) as pool:
        return np.concatenate([np.array([], dtype="<U32"), *pool.map(digest_images, chunks)])


def _build(folder: Path, files: Sequence[Path], content_ids: Sequence[str], shape: tuple[int, int, int]) -> Path:
    """Decode the files, and give the folder with what came out: of what could be read, if that is not all."""
    folder.parent.parent.mkdir(parents=True, exist_ok=True)
    folder.parent.mkdir(_PRIVATE, exist_ok=True)
    unfinished = folder.with_name(f"{folder.name}-{uuid.uuid4().hex}.unfinished")
    unfinished.mkdir(_PRIVATE)
    try:
        (unfinished / _MARK).write_text(_MARK_TEXT)
        folder = _folder(folder.parent, shape, _write(unfinished, files, content_ids, shape))
        try:
            unfinished.rename(folder)
        except OSError:
            if _open(folder) is None:  # a damaged one gives way; one that another process completed meanwhile stays
                _remove(folder)
                unfinished.rename(folder)
    finally:
        _remove(unfinished)
    return folder


def _write(
    folder: Path, files: Sequence[Path], content_ids: Sequence[str], shape: tuple[int, int, int]
) -> Sequence[str]:
    """Write the decoded images; give the ids of what was read, so that what could not be now is tried another time."""
    about: dict[str, Any] = {"digests": [], "content_ids": [], "positions": [], "bad_files": {}}
    ids = list(content_ids)
    with (folder / _PIXELS).open("wb") as images:
        for position, decoded in enumerate(decode_ahead(files, shape, _NUM_AHEAD, "decoding images")):
            if isinstance(decoded, DataError):
                about["bad_files"][position] = str(decoded)
                if isinstance(decoded, UnreadableError):
                    ids[position] = _UNREADABLE
                continue
            images.write(decoded.tobytes())
            about["digests"] += digest_images(decoded[np.newaxis]).tolist()
            about["content_ids"].append(content_ids[position])
            about["positions"].append(position)
        _to_disk(images)
    about["shape"] = [len(about["positions"]), *shape]
    with (folder / _ABOUT).open("w") as file:
        json.dump(about, file)
        _to_disk(file)
    return ids


def _to_disk(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())  # after a power cut, the renamed folder must not hold a file of zeros
