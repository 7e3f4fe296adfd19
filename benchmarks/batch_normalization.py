"""How much time does FusedBatchNormalization save, compared with Keras's own layer in the same network and loop?

python benchmarks/batch_normalization.py [--repeats 3]
"""

from __future__ import annotations

import os
import time

from shared import ArgumentParser, spread

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
NUM_STEPS, BATCH_SIZE = 10, 32


def measure(size: int, channels: int, repeats: int) -> None:
    """Train with both layers in turn, a few steps each, and print a row for each layer."""
    import keras
    import numpy as np
    import tensorflow as tf

    from cnn_sweeps.models import build_cnn
    from cnn_sweeps.models.layers import plain_copy
    from cnn_sweeps.training.network import compile_model

    random = np.random.default_rng(0)
    batch = tf.constant(random.random((BATCH_SIZE, size, size, channels), np.float32))
    labels = tf.constant(random.integers(0, 2, (BATCH_SIZE, 1)))
    fused = build_cnn((size, size, channels), 2, [32, 64, 128], [128, 64], 0.5, 1e-3, "same")
    models = {"Keras": plain_copy(fused), "fused": fused}
    steps = {}
    for name, model in models.items():
        compile_model(model, keras.optimizers.Adam(), 2)
        steps[name] = tf.function(model.train_step, autograph=False)
        steps[name]((batch, labels))
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for _ in range(repeats):
        for name in models:
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(NUM_STEPS):
                steps[name]((batch, labels))
            images = NUM_STEPS * BATCH_SIZE
            results[name].append((images / (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu) / images))
    for name, rows in results.items():
        rates, cpu_ms = ([row[i] for row in rows] for i in (0, 1))
        print(f"{size:4}x{size:<4}{name:8}{spread(rates, ',.2f'):>26}{spread(cpu_ms, ',.2f'):>26}")


if __name__ == "__main__":
    num_repeats = ArgumentParser(__doc__).parse().repeats
    print(f"{'size':9}{'layer':8}{'images/s, median (range)':>26}{'CPU ms an image':>26}")
    measure(28, 1, num_repeats)
    measure(128, 3, num_repeats)
