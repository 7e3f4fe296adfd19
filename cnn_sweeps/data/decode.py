"""From an image file to pixels of one size and mode.

What an image file may be is decided here alone, for training, `predict` and served models: one of a list of formats,
and not too large. It starts no program.
"""

import importlib.util
import io
import math
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from cnn_sweeps.errors import DataError

_HAS_AVIF = importlib.util.find_spec("PIL.AvifImagePlugin") is not None  # from Pillow 11.3 on
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "JPEG2000", *(["AVIF"] if _HAS_AVIF else []))
"""What is read, MPO as JPEG. Of the others that Pillow knows some run programs (EPS), or hold any format (IPTC)."""
_LONGEST_SIDE = 65_535  # pixels; no JPEG has more
_NO_IMAGES = {  # by how they begin
    (b"version https://git-lfs",): "is a Git LFS pointer, not the image; run `git lfs pull`",
    (b"%!PS", b"\xc5\xd0\xd3\xc6"): "is PostScript, a program, which is not run",  # as Pillow would have Ghostscript do
}
_NO_FILES = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}


class UnreadableError(DataError):
    """The machine could not read or decode a file now; it may be able to another time."""


def decode_image(path: Path, height: int, width: int, channels: int) -> NDArray[np.uint8]:
    """Read the file as the eye would see it, resized to uint8 (height, width, channels), 0 to 255.

    The picture is turned as its EXIF orientation says, transparent pixels become white, palettes and CMYK become RGB,
    16-bit values are scaled to 8 bits, and the aspect ratio gives way to the size asked for. Of an animation the first
    frame is taken. Of a picture many times larger only a fraction is decoded where the format allows.

    No more is decoded than Pillow does without a warning, `PIL.Image.MAX_IMAGE_PIXELS`, neither of one picture nor of
    all that the process's threads decode at once.

    Raises:
        DataError: with the reason why the file is no image that can be used, whatever that is.
    """
    try:
        with open_file(path) as file:
            return decode_stream(file, height, width, channels)
    except OSError as error:
        raise UnreadableError(f"cannot be read ({error.strerror or error})") from error


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading, and nothing else: what is no file might never come to an end, or never answer.

    Raises:
        DataError: if it is something else.
        OSError: if it cannot be opened.
    """
    _check_is_file(path.stat().st_mode)
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        _check_is_file(os.fstat(file.fileno()).st_mode)  # another one since?
        yield file


def _check_is_file(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise DataError(f"is {_NO_FILES.get(stat.S_IFMT(mode), 'a device')}, not a file")


def decode_stream(stream: BinaryIO, height: int, width: int, channels: int) -> NDArray[np.uint8]:
    """Do what `decode_image` does with what an image file holds; the stream is at its start."""
    try:
        return _decode(stream, height, width, "RGB" if channels == 3 else "L").reshape(height, width, channels)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError("is no image of a known format") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"is too large ({error})") from error
    except MemoryError as error:
        raise UnreadableError("needs more memory than there is") from error
    except Exception as error:  # Pillow raises whatever it meets in a damaged file
        if isinstance(error, OSError) and error.errno is not None:  # the machine's fault, not the file's
            raise UnreadableError(f"cannot be read ({error.strerror})") from error
        told = " ".join(str(error).split())
        raise DataError(f"cannot be decoded ({told if told.isprintable() else ascii(told)})") from error


def _decode(stream: BinaryIO, height: int, width: int, mode: str) -> NDArray[np.uint8]:
    if not (start := stream.read(40)):
        raise DataError("is empty")
    for beginnings, reason in _NO_IMAGES.items():
        if start.startswith(beginnings):
            raise DataError(reason)
    stream.seek(0)
    with Image.open(stream, formats=_FORMATS) as image:
        size = image.size
        side = 2 * max(height, width)  # EXIF may still swap them
        image.draft(None, (side, side))
        num_pixels = math.prod(image.size if _is_decoded_in_part(image) else size)
        _check_size(size, num_pixels)
        with _pixels_in_flight.holding(num_pixels):
            _turn_upright(image)
            pixels = _convert(image, mode).resize((width, height), Image.Resampling.BILINEAR)
            return np.asarray(pixels, np.uint8)


def _check_size(size: tuple[int, int], num_pixels: int) -> None:
    """Refuse a picture that is too wide or high, or of which too many pixels would be decoded."""
    shown = f"{size[0]:,} x {size[1]:,} pixels"
    if max(size) > _LONGEST_SIDE:
        raise DataError(f"is too large ({shown}; at most {_LONGEST_SIDE:,} a side)")
    if num_pixels > (most := Image.MAX_IMAGE_PIXELS or math.inf):
        raise DataError(f"is too large ({shown}; at most {most:,} in all)")


def _is_decoded_in_part(image: Image.Image) -> bool:
    """Return whether of a large JPEG only a fraction is in memory at a time.

    It is not where the colours, or the details, come one after another, as in a progressive one: then the first scan's
    header, which Pillow has just read, names fewer components than the picture has.
    """
    if not isinstance(image, JpegImageFile) or image.fp is None or image.info.get("progressive"):
        return False
    length = 6 + 2 * image.layers
    image.fp.seek(-length - 2, io.SEEK_CUR)
    header = image.fp.read(length + 2)
    return header[:5] == b"\xff\xda" + length.to_bytes(2) + bytes([image.layers])


class _PixelsInFlight:
    """Has threads wait rather than decode more pixels at once than one picture may have."""

    def __init__(self) -> None:
        self._turn, self._changed = threading.Lock(), threading.Condition()
        self._count = 0

    @contextmanager
    def holding(self, count: int) -> Iterator[None]:
        """Wait until there is room for as many, and take it in the block."""
        with self._turn, self._changed:  # one after another, so that none waits for ever
            most = Image.MAX_IMAGE_PIXELS or math.inf
            self._changed.wait_for(lambda: not self._count or self._count + count <= most)
            self._count += count
        try:
            yield
        finally:
            with self._changed:
                self._count -= count
                self._changed.notify_all()


_pixels_in_flight = _PixelsInFlight()


def _turn_upright(image: Image.Image) -> None:
    """Turn a picture as its EXIF says; a TIFF does so itself when it is loaded."""
    image.load()
    image.getexif()  # is known from now on, so that Pillow, which fails to write odd EXIF back, finds none to write
    image.info = {name: value for name, value in image.info.items() if name == "transparency"}
    ImageOps.exif_transpose(image, in_place=True)


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _scale_to_8_bits(image).convert(mode)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert(mode)
    return image.convert(mode)


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    highest = values.max(initial=0)
    if image.mode == "F":
        full_scale = 1 if highest <= 1 else 255 if highest <= 255 else 65535
    else:
        full_scale = 255 if image.mode == "I" and highest <= 255 else 65535
    scaled = np.empty(values.shape, np.uint8)
    for row, of_row in zip(scaled, values, strict=True):  # which takes less memory than all at once
        row[:] = np.clip(of_row.astype(np.float64) * (255 / full_scale), 0, 255)
    return Image.fromarray(scaled)
