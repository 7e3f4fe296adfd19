"""How fast do augmented batches come from a folder of JPEGs, ours against the seed notebook's ImageDataGenerator?

    python benchmarks/folder_pipeline.py [--repeats 3]

600 generated JPEGs of 240x320 pixels to 128x128, batch 32, with the notebook's augmentation; nothing is trained. Ours
decodes in the first epoch of the first run and maps its cache from then on; the generator decodes in every epoch.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
NUM_IMAGES, SIZE, BATCH_SIZE = 600, 128, 32


def write_photos(folder: Path) -> None:
    """Write generated JPEGs of two classes."""
    from PIL import Image

    from cnn_sweeps.data import load_synthetic

    data = load_synthetic(NUM_IMAGES, 2, [240, 320], 3, difficulty=0.6, seed=0)
    for i, (image, label) in enumerate(zip(data.images, data.labels, strict=True)):
        file = folder / str(label) / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file, quality=90)


def generator_rates(photos: Path) -> list[float]:
    """Images per second of three epochs of the notebook's generator."""
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    generator = ImageDataGenerator(
        rescale=1 / 255,
        rotation_range=20,
        width_shift_range=0.1,
        height_shift_range=0.1,
        shear_range=0.2,
        zoom_range=0.2,
        horizontal_flip=True,
    )
    batches = generator.flow_from_directory(photos, (SIZE, SIZE), batch_size=BATCH_SIZE, class_mode="binary")
    return [_rate(lambda: [next(batches) for _ in range(len(batches))]) for _ in range(3)]


def our_rates(photos: Path, cache: Path) -> list[float]:
    """Images per second of three epochs of ours, the first with decoding."""
    import numpy as np
    import tensorflow as tf

    from cnn_sweeps.data import load_folder
    from cnn_sweeps.settings.schema import AugmentationConfig
    from cnn_sweeps.training.batches import TrainingImages, epoch_order, image_tensor, training_batch, training_images

    augmentation = AugmentationConfig(
        enabled=True,
        horizontal_flip=True,
        rotation_degrees=20,
        shift_fraction=0.1,
        zoom_fraction=0.2,
        shear_degrees=0.2,
    )
    source = None

    @tf.function
    def brightness_of_epoch(source: TrainingImages, epoch: tf.Tensor) -> tf.Tensor:  # asks for every pixel
        total = 0.0
        order = epoch_order(source, epoch)
        for step in tf.range(-(-NUM_IMAGES // BATCH_SIZE)):
            batch = training_batch(source, order, augmentation, epoch, step)
            total += tf.reduce_sum(batch[0])
        return total

    def first_epoch() -> None:
        nonlocal source
        data = load_folder(str(photos), SIZE, 3, "error", str(cache))
        source = training_images(image_tensor(data), data.labels, np.arange(NUM_IMAGES), seed=0, batch_size=BATCH_SIZE)
        later_epoch()

    def later_epoch() -> None:
        brightness_of_epoch(source, tf.constant(0, tf.int64)).numpy()

    return [_rate(first_epoch), _rate(later_epoch), _rate(later_epoch)]


def _rate(epoch) -> float:
    started = time.perf_counter()
    epoch()
    return NUM_IMAGES / (time.perf_counter() - started)


def main(repeats: int) -> None:
    """Run both alternately and print the table."""
    results: dict[str, list[list[float]]] = {"ImageDataGenerator": [], "ours, first run": [], "ours, later run": []}
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        write_photos(photos)
        generator_rates(photos)  # imports and first calls are not what is asked
        for repeat in range(repeats):
            cache = Path(folder) / f"cache{repeat}"
            results["ImageDataGenerator"].append(generator_rates(photos))
            results["ours, first run"].append(our_rates(photos, cache))
            results["ours, later run"].append(our_rates(photos, cache))
    print(f"\n{NUM_IMAGES} JPEGs to {SIZE}x{SIZE}, batch {BATCH_SIZE}; images/s, median (lowest-highest) of {repeats}")
    print(f"{'':20}{'first epoch':>24}{'third epoch':>24}{'ratio':>8}")
    base = statistics.median(rates[2] for rates in results["ImageDataGenerator"])
    for name, rates in results.items():
        first, third = [rate[0] for rate in rates], [rate[2] for rate in rates]
        print(f"{name:20}{_spread(first):>24}{_spread(third):>24}{statistics.median(third) / base:8.1f}")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f}-{max(values):,.0f})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    print("command:", "python", *sys.argv)
    main(parser.parse_args().repeats)
