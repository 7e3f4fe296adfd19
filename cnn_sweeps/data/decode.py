"""From an image file of any kind to pixels of one size and mode."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from cnn_sweeps.errors import DataError

_LONGEST_SIDE = 65_535  # pixels; no JPEG has more
_POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")  # of which Pillow would have Ghostscript run the program

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

    No more is decoded than Pillow does without a warning, `PIL.Image.MAX_IMAGE_PIXELS`.

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
            size = image.size
            side = 2 * max(height, width)  # EXIF may still swap them
            image.draft(None, (side, side))
            _check_size(size, image.size)
            image.load()  # turns a TIFF by itself
            turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
            upright = image if turn is None else image.transpose(turn)
            pixels = _convert(upright, "RGB" if channels == 3 else "L").resize(
                (width, height), Image.Resampling.BILINEAR
            )
    except DataError:
        raise
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
    if start.startswith(_POSTSCRIPT):
        return "is PostScript, a program, which is not run"
    return None


def _check_size(size: tuple[int, int], decoded_size: tuple[int, int]) -> None:
    """Refuse a picture whose width and height, or that of what would be decoded of it, are too large."""
    shown, num_pixels = f"{size[0]:,} x {size[1]:,} pixels", decoded_size[0] * decoded_size[1]
    if max(size) > _LONGEST_SIDE:
        raise DataError(f"is too large ({shown}; at most {_LONGEST_SIDE:,} a side)")
    if Image.MAX_IMAGE_PIXELS is not None and num_pixels > Image.MAX_IMAGE_PIXELS:
        raise DataError(f"is too large ({shown}; at most {Image.MAX_IMAGE_PIXELS:,} in all)")


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
