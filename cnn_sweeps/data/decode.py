"""From an image file of any kind to pixels of one size and mode."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from cnn_sweeps.errors import DataError

_UPRIGHT = {  # what undoes each EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(path: Path, height: int, width: int, channels: int) -> NDArray[np.uint8]:
    """Read the file as the eye would see it, resized to uint8 (height, width, channels), 0 to 255.

    The picture is turned as its EXIF orientation says, transparent pixels become white, palettes and CMYK become RGB,
    16-bit values are scaled to 8 bits, and the aspect ratio gives way to the size asked for. Of an animation the first
    frame is taken. Of a picture many times larger only a fraction is decoded where the format allows.

    Raises:
        DataError: with the reason why the file is no image that can be used.
        OSError, MemoryError: if the machine cannot read it now.
    """
    try:
        file = path.open("rb")
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise DataError(f"cannot be read ({error.strerror})") from error
    with file:
        return decode_stream(file, height, width, channels)


def decode_stream(stream: BinaryIO, height: int, width: int, channels: int) -> NDArray[np.uint8]:
    """Do what `decode_image` does with what an image file holds; the stream is at its start."""
    if reason := _why_not_an_image(stream.read(40)):
        raise DataError(reason)
    stream.seek(0)
    try:
        with Image.open(stream) as image:
            side = 2 * max(height, width)  # EXIF may still swap them
            image.draft(None, (side, side))
            image.load()  # turns a TIFF by itself
            turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
            upright = image if turn is None else image.transpose(turn)
            pixels = _convert(upright, "RGB" if channels == 3 else "L").resize(
                (width, height), Image.Resampling.BILINEAR
            )
    except UnidentifiedImageError as error:
        raise DataError("is no image of a known format") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"is too large ({error})") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises whatever it meets in a damaged file
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the machine's fault, not the file's: too many open files, a disk that fails
        raise DataError(f"cannot be decoded ({error})") from error
    return np.asarray(pixels, np.uint8).reshape(height, width, channels)


def _why_not_an_image(start: bytes) -> str | None:
    if not start:
        return "is empty"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the image; run `git lfs pull`"
    return None


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _scale_to_8_bits(image).convert(mode)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert(mode)
    return image.convert(mode)


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image, np.float64)
    highest = values.max(initial=0)
    if image.mode == "F":
        full_scale = 1 if highest <= 1 else 255 if highest <= 255 else 65535
    else:
        full_scale = 255 if image.mode == "I" and highest <= 255 else 65535
    return Image.fromarray(np.clip(values * (255 / full_scale), 0, 255).astype(np.uint8))
