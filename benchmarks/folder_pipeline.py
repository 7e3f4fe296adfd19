"""How fast are augmented batches from a folder of JPEGs: ours, and those of the seed notebook's ImageDataGenerator?

    python benchmarks/folder_pipeline.py [--repeats 3]

Both read 600 generated JPEGs of 240x320 pixels as 128x128, in batches of 32, with the notebook's augmentation. Nothing
is trained. Ours decodes in the first epoch of the first run, and then maps its cache. The generator decodes in every
epoch.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

from shared import ArgumentParser, spread, write_photos

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
NUM_IMAGES, SIZE, BATCH_SIZE = 600, 128, 32


def generator_rates(photos: Path) -> list[float]:
    """Return images per second of three epochs of the notebook's generator."""
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
    """Return images per second of three epochs of ours; the first one decodes if there is no cache."""
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
    def brightness_of_epoch(source: TrainingImages, epoch: tf.Tensor) -> tf.Tensor:  # needs every pixel
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
    """Run both in turn and print the table."""
    results: dict[str, list[list[float]]] = {"ImageDataGenerator": [], "ours, first run": [], "ours, later run": []}
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        write_photos(NUM_IMAGES, (240, 320), lambda i, label: photos / str(label) / f"{i}.jpg")
        generator_rates(photos)  # not measured: imports and first calls
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
        ratio = statistics.median(third) / base
        print(f"{name:20}{spread(first, ',.0f'):>24}{spread(third, ',.0f'):>24}{ratio:8.1f}")


if __name__ == "__main__":
    main(ArgumentParser(__doc__).parse().repeats)
