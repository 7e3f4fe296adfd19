"""How much memory and disk space do the features of many images take, during their computation and afterwards?

    python benchmarks/feature_cache.py [--images 50000] [--size 128] [--views 0 2] [--repeats 1]

The network is a MobileNetV2 of width 0.35 with random weights. The images are noise in a memory-mapped file, like the
cache of decoded images. As in a run, the features of four fifths of the images (training and validation) are computed
first, then those of the rest (test). With views, the features of changed copies of three fifths (training) are added.
Each number of views has a process of its own.

`MB before` is the memory of the process after a first call of the network, without memory-mapped files. `peak` is the
highest value after that, sampled every 50 ms. `disk MB` is the space that the files take afterwards, without holes, and
its peak.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from shared import ArgumentParser

ALPHA = 0.35
LOOK_EVERY_S = 0.05


def write_images(file: Path, num_images: int, size: int) -> None:
    """Write noise, uint8 (N, size, size, 3), in parts."""
    random = np.random.default_rng(0)
    with file.open("wb") as images:
        for start in range(0, num_images, 256):
            images.write(random.bytes(min(256, num_images - start) * size * size * 3))


def used_mb() -> float:
    """Return this process's memory without files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem"))) / 1000


def disk_mb(folder: Path) -> float:
    total = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):  # it has been removed meanwhile
            total += file.stat().st_blocks * 512 if file.is_file() else 0
    return total / 1e6


class Peaks:
    """Records the highest use of memory and disk while a block runs."""

    def __init__(self, folder: Path) -> None:
        self.memory_mb = self.disk_mb = 0.0
        self._folder, self._done = folder, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Peaks:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(LOOK_EVERY_S):
            self.memory_mb = max(self.memory_mb, used_mb())
            self.disk_mb = max(self.disk_mb, disk_mb(self._folder))


def measure(file: Path, size: int, views: int) -> str:
    """Compute all features of the images in a file; return a line of the table."""
    import keras

    from cnn_sweeps.data.dataset import ImageDataset
    from cnn_sweeps.models.backbone import load_backbone
    from cnn_sweeps.settings.schema import AugmentationConfig
    from cnn_sweeps.training.features import FrozenBackbone, load_features, load_views

    keras.utils.set_random_seed(0)
    images = np.memmap(file, np.uint8, "r").reshape(-1, size, size, 3)
    labels = np.arange(len(images)) % 2
    data = ImageDataset(images=images, labels=labels, class_names=["a", "b"], name="noise", source=str(file))
    backbone = load_backbone("MobileNetV2", ALPHA, None, data.image_shape, is_frozen=True)
    frozen = FrozenBackbone(backbone)
    frozen.compute(images[:32].astype(np.float32))
    order = np.random.default_rng(0).permutation(len(images))
    fifths = [np.sort(order[: len(order) * n // 5]) for n in (3, 4)]
    changes = AugmentationConfig(True, True, 20.0, 0.1, 0.2, 0.2, views)
    before, started = used_mb(), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="feature_cache") as folder, Peaks(Path(folder)) as peaks:
        load_features(frozen, data, fifths[1], folder)
        load_views(frozen, data, fifths[0], folder, changes)
        load_features(frozen, data, np.setdiff1d(order, fifths[1]), folder)
        took, disk = time.perf_counter() - started, disk_mb(Path(folder))
        files = [each for each in Path(folder).rglob("*") if each.is_file()]
        apparent = sum(each.stat().st_size for each in files) / 1e6
    num_computed = len(order) + views * len(fifths[0])
    return (
        f"{views:5}  {num_computed:8,}  {took:5,.0f}  {before:9,.0f}  {max(before, peaks.memory_mb):9,.0f}  "
        f"{disk:7,.0f}  {max(disk, peaks.disk_mb):7,.0f}  {apparent:11,.0f}"
    )


def main() -> None:
    parser = ArgumentParser(__doc__, num_repeats=1)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--views", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)  # for the process that measures
    arguments = parser.parse_args()
    if arguments.file:
        print(measure(arguments.file, arguments.size, arguments.views[0]))
        return
    print(f"{arguments.images:,} images of {arguments.size}x{arguments.size}, MobileNetV2 of width {ALPHA}")
    print("views  computed      s  MB before       peak  disk MB     peak  files' size", flush=True)
    with tempfile.TemporaryDirectory(prefix="feature_cache") as folder:
        file = Path(folder, "images.u8")
        write_images(file, arguments.images, arguments.size)
        for views in arguments.views * arguments.repeats:
            command = [sys.executable, __file__, "--size", str(arguments.size), "--file", str(file)]
            done = subprocess.run([*command, "--views", str(views)], stdout=subprocess.PIPE, check=True, text=True)
            print(done.stdout.rstrip("\n"), flush=True)


if __name__ == "__main__":
    main()
