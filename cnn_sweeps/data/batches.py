"""Image files as batches, of which only a few are in memory at a time."""

import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cnn_sweeps.data.decode import decode_image
from cnn_sweeps.errors import DataError
from cnn_sweeps.system.ends import threads
from cnn_sweeps.text.names import for_terminal
from cnn_sweeps.text.numbers import counted

_PIXELS_A_BATCH = 2**20  # 64 images of 128x128, 12 MB as float32
_MOST_IMAGES_A_BATCH = 256

Decoded = NDArray[np.uint8] | DataError
"""An image, uint8 (height, width, channels), 0 to 255, or why a file is none."""


class BadFiles:
    """Names files that are no usable images as they come, on the standard error stream, and counts them."""

    def __init__(self, known: Mapping[Path, str]) -> None:
        """Begin with those that are known, each with its reason."""
        self.count = 0
        for path, reason in known.items():
            self(path, reason)

    def __call__(self, path: Path, reason: str) -> None:
        """Name one."""
        tqdm.write(f"left out: {for_terminal(path)} {reason}", file=sys.stderr)
        self.count += 1

    def refuse(self, num_files: int) -> None:
        """Be done with all files.

        Raises:
            DataError: if there were bad ones.
        """
        if self.count:
            are = "is no usable image and was" if self.count == 1 else "are no usable images and were"
            raise DataError(f"{self.count:,} of {counted(num_files, 'file')} {are} left out, as named")


def decoded_batches(
    files: Sequence[Path], image_shape: tuple[int, int, int], on_bad_file: Callable[[Path, str], None]
) -> Iterator[tuple[list[Path], NDArray[np.uint8]]]:
    """Decode files to a height, width and number of channels, and give them in order, in batches of one size.

    `on_bad_file` is called with each file that is no usable image, and the reason; it is in no batch.

    Yields:
        B files, and their images, uint8 (B, height, width, channels), 0 to 255.
    """
    height, width, _ = image_shape
    batch_size = min(_MOST_IMAGES_A_BATCH, max(1, _PIXELS_A_BATCH // (height * width)))

    def good_files() -> Iterator[tuple[Path, NDArray[np.uint8]]]:
        for path, decoded in zip(files, decode_ahead(files, image_shape, 2 * batch_size, "images"), strict=True):
            if isinstance(decoded, DataError):
                on_bad_file(path, str(decoded))
            else:
                yield path, decoded

    left = good_files()
    while batch := list(islice(left, batch_size)):
        yield [path for path, _ in batch], np.stack([image for _, image in batch])


def decode_ahead(
    files: Sequence[Path], image_shape: tuple[int, int, int], num_ahead: int, title: str
) -> Iterator[Decoded]:
    """Decode files in threads (Pillow works outside Python's lock), in order, at most so many ahead of what is taken.

    On a terminal a progress bar with this title shows how far it is.
    """

    def decode(file: Path) -> Decoded:
        try:
            return decode_image(file, *image_shape)
        except DataError as error:
            return error

    waiting: deque[Future[Decoded]] = deque()
    with (
        warnings.catch_warnings(action="ignore"),  # oddities of metadata; not in the threads: filters are the process's
        threads(os.cpu_count()) as pool,
        tqdm(total=len(files), desc=title, unit="", disable=None, leave=False) as bar,
    ):
        left = iter(files)
        while True:
            waiting.extend(pool.submit(decode, file) for file in islice(left, num_ahead - len(waiting)))
            if not waiting:
                return
            yield waiting.popleft().result()
            bar.update()
