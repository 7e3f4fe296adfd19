"""What every data source returns."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cnn_sweeps.errors import DataError
from cnn_sweeps.settings.schema import SPLIT_NAMES
from cnn_sweeps.text.names import cut_list, for_terminal

_MOST_NAMES = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageDataset:
    """Labelled images of one size.

    Attributes:
        images: uint8, (N, height, width, channels), 0 to 255; channels is 1 or 3. May be a memory map.
        labels: int64, (N,), index into `class_names`.
        class_names: at least two; with exactly two, the second is the positive class.
        name: what the data are called in the record.
        source: where they came from.
        splits: str, (N,), "train", "val", "test", or "" for an image without a split of its own; None: all without.
        file_names: (N,), for messages and the record; None: images are called by their position.
        skipped_files: the names of files that were left out, each with the reason.
        image_digests: str, (N,), equal for equal pixels; None: computed when needed.
        content_ids: str, (N,), tell images apart whatever their size here, so that the split does not depend on it;
            None: the digests.
        notes: what a person should know of them, one line each, told at each start.

    Raises:
        DataError: if the parts do not fit together, or a class has no image.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: Sequence[str]
    name: str
    source: str
    splits: NDArray[np.str_] | None = None
    file_names: Sequence[str] | None = None
    skipped_files: Mapping[str, str] = field(default_factory=dict)
    image_digests: NDArray[np.str_] | None = None
    content_ids: NDArray[np.str_] | None = None
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        images, names = self.images, self.class_names
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise DataError(
                f"data: images are {images.dtype} of shape {images.shape}; "
                "allowed: uint8 (number, height, width, 1 or 3 channels)"
            )
        for part in ("labels", "splits", "file_names", "image_digests", "content_ids"):
            if (values := getattr(self, part)) is None:
                continue
            if (shape := getattr(values, "shape", (len(values),))) != (len(images),):
                raise DataError(f"data: {part} have shape {shape}; allowed: one for each of the {len(images)} images")
        if self.splits is not None and (odd := sorted(set(self.splits.tolist()) - {"", *SPLIT_NAMES})):
            raise DataError(f"data: splits {odd} unknown; allowed: {', '.join(SPLIT_NAMES)} or empty")
        if len(names) < 2:
            raise DataError(f"data: only one class, {list(names)}, in {self.source}; at least two are needed")
        found = set(self.labels.tolist())
        if unknown := sorted(found - set(range(len(names)))):
            raise DataError(f"data: labels {unknown} name no class; allowed: 0 to {len(names) - 1}")
        if empty := [name for label, name in enumerate(names) if label not in found]:
            told = f"data: no image of class {cut_list(empty, ', ', _MOST_NAMES)} in {self.source}"
            raise DataError(f"{told}; add images or remove the class")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        _, height, width, channels = self.images.shape
        return height, width, channels

    @cached_property
    def digests(self) -> NDArray[np.str_]:
        """Str, (N,), equal for images with the same pixels."""
        return digest_images(self.images) if self.image_digests is None else self.image_digests

    @property
    def ids(self) -> NDArray[np.str_]:
        """Str, (N,), what tells images apart, where the source can whatever their size."""
        return self.digests if self.content_ids is None else self.content_ids

    @cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that depend on the images, their classes and their given splits, not on their order."""
        uses = np.full(len(self.labels), "") if self.splits is None else self.splits
        return self.fingerprint_of(self.digests, uses)

    def fingerprint_of(self, images: NDArray[np.str_], uses: NDArray[np.str_]) -> str:
        """Return 32 hexadecimal digits for what tells the images apart, (N,), their classes and their uses, (N,)."""
        lines = sorted(
            f"{image} {self.class_names[label]} {use}\n"
            for image, label, use in zip(images, self.labels, uses, strict=True)
        )
        return hashlib.blake2b("".join(lines).encode(), digest_size=16).hexdigest()

    def image_name(self, index: int) -> str:
        """Name the image for a person."""
        return for_terminal(self.file_names[index]) if self.file_names is not None else f"image {index}"


def digest_images(images: NDArray[np.uint8]) -> NDArray[np.str_]:
    """Give each uint8 image of (N, height, width, channels) a digest that is equal for equal images of one shape."""
    shape = repr(images.shape[1:]).encode()
    return np.array([hashlib.blake2b(shape + image.tobytes(), digest_size=16).hexdigest() for image in images])
