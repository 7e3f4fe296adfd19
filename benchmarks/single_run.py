"""Does a recorded run take longer than a bare Keras script, and does it train faster?

    python benchmarks/single_run.py [--repeats 3] [--workload digits photos]

Both train the same network on the same training and validation images, with the same batch size and epochs. They take
turns, each in a fresh process. The bare script only fits and validates; it records nothing, and gets its images as
arrays. Ours composes its settings, decodes images or maps its cache, trains, evaluates, draws, and records everything
in MLflow with the model. In a "first run" MLflow's database does not exist yet, in a "later run" it does.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from shared import ArgumentParser, spread, write_photos

WORKLOADS = {
    "digits": {"size": 28, "channels": 1, "epochs": 20, "options": []},
    "photos": {"size": 128, "channels": 3, "epochs": 6, "options": ["data=folder", "data.image_size=128"]},
}
SETTINGS = ["regularization=dropout", "model.l2=1e-3", "training.restore_best_weights=false"]
BATCH_SIZE = 32


def bare(arrays: str, epochs: int) -> None:
    """Train as a user would without this project; this function runs in a process of its own."""
    import keras
    import numpy as np
    from keras import layers

    data = np.load(arrays)
    keras.utils.set_random_seed(0)
    penalty = keras.regularizers.L2(1e-3)
    model = keras.Sequential([keras.Input(data["train_x"].shape[1:])])
    for filters, rate in ((32, 0.3), (64, 0.3), (128, 0.4)):
        model.add(layers.Conv2D(filters, 3, padding="same", activation="relu", kernel_regularizer=penalty))
        model.add(layers.BatchNormalization(momentum=0.9))
        model.add(layers.MaxPooling2D())
        model.add(layers.Dropout(rate))
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(128, activation="relu", kernel_regularizer=penalty))
    model.add(layers.BatchNormalization(momentum=0.9))
    model.add(layers.Dropout(0.5))
    model.add(layers.Dense(64, activation="relu", kernel_regularizer=penalty))
    model.add(layers.Dense(1, activation="sigmoid"))
    steps = -(-len(data["train_x"]) // BATCH_SIZE)
    rate = keras.optimizers.schedules.ExponentialDecay(1e-3, steps, 0.9)
    model.compile(keras.optimizers.Adam(rate), "binary_crossentropy", metrics=["accuracy"])

    class Clock(keras.callbacks.Callback):
        """Times each epoch up to its validation; `async_safe` lets Keras run ahead as it does without callbacks."""

        async_safe = True
        seconds: list[float] = []  # noqa: RUF012

        def on_epoch_begin(self, epoch, logs=None):
            self.started = time.perf_counter()

        def on_test_begin(self, logs=None):
            self.seconds.append(time.perf_counter() - self.started)

    train_x, val_x = data["train_x"] / np.float32(255), data["val_x"] / np.float32(255)
    clock = Clock()
    fitting = {"validation_data": (val_x, data["val_y"]), "verbose": 2, "callbacks": [clock]}
    model.fit(train_x, data["train_y"], batch_size=BATCH_SIZE, epochs=epochs, **fitting)
    print("RATES", json.dumps([len(train_x) / seconds for seconds in clock.seconds]))


def write_arrays(file: Path, options: list[str]) -> None:
    """Write the training and validation images of our run, for the bare script."""
    import hydra
    import numpy as np

    from cnn_sweeps.data.split import split_dataset
    from cnn_sweeps.settings.command_line import CONF_DIR, VERSION_BASE
    from cnn_sweeps.settings.config import check_config
    from cnn_sweeps.settings.targets import call_target

    with hydra.initialize_config_dir(CONF_DIR, **VERSION_BASE):
        config = check_config(hydra.compose("config", options))
    data = call_target("data", config.data)
    split = split_dataset(data, config.split.val_fraction, config.split.test_fraction, config.split.seed)
    arrays = {f"{name}_x": data.images[getattr(split, name)] for name in ("train", "val")}
    arrays |= {f"{name}_y": data.labels[getattr(split, name)] for name in ("train", "val")}
    np.savez(file, **arrays)


def timed(command: list[str], folder: Path) -> tuple[float, float, str]:
    """Run a command; return its wall seconds, CPU seconds and output."""
    before = os.times()
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - started, os.times()
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stdout}{done.stderr}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, cpu, done.stdout


def our_rates(folder: Path) -> list[float]:
    """Read the images per second of each epoch of the folder's newest MLflow run."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    run = client.search_runs(["1"], max_results=1)[0]
    return [metric.value for metric in client.get_metric_history(run.info.run_id, "images_per_s")]


def measure(name: str, repeats: int) -> None:
    """Run both in turn and print the table."""
    workload = WORKLOADS[name]
    results: dict[str, list[tuple[float, float, float]]] = {
        "bare script": [],
        "ours, first run": [],
        "ours, later run": [],
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        options = [*workload["options"]]
        if name == "photos":
            write_photos(400, (150, 200), lambda i, label: folder / "photos" / str(label) / f"{i}.jpg")
            options += [f"data.root={folder}/photos", f"data.cache_dir={folder}/cache"]
        write_arrays(folder / "arrays.npz", options)
        train = [
            sys.executable,
            "-m",
            "cnn_sweeps.train",
            *SETTINGS,
            *options,
            f"training.epochs={workload['epochs']}",
        ]
        for repeat in range(repeats):
            script = [sys.executable, __file__, "--bare", str(folder / "arrays.npz"), str(workload["epochs"])]
            wall, cpu, output = timed(script, folder)
            rates = json.loads(output.split("RATES ")[1])
            results["bare script"].append((wall, cpu, statistics.median(rates[1:])))
            ours = folder / f"run{repeat}"
            ours.mkdir()
            for kind in ("ours, first run", "ours, later run"):
                wall, cpu, _ = timed(train, ours)
                results[kind].append((wall, cpu, statistics.median(our_rates(ours)[1:])))
    size, epochs = workload["size"], workload["epochs"]
    print(f"\n{name}: {size}x{size}, {epochs} epochs, batch {BATCH_SIZE}, {repeats} repeats; median (lowest-highest)")
    print(f"{'':16}  {'wall s':>20}  {'ratio':>6}  {'CPU s':>20}  {'training images/s':>24}  {'ratio':>6}")
    base = [statistics.median(column) for column in zip(*results["bare script"], strict=True)]
    for kind, rows in results.items():
        wall, cpu, rate = (list(column) for column in zip(*rows, strict=True))
        print(
            f"{kind:16}  {spread(wall, ',.1f'):>20}  {statistics.median(wall) / base[0]:6.2f}  "
            f"{spread(cpu, ',.1f'):>20}  {spread(rate, ',.1f'):>24}  {statistics.median(rate) / base[2]:6.2f}"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bare"]:
        bare(sys.argv[2], int(sys.argv[3]))
    else:
        parser = ArgumentParser(__doc__)
        parser.add_argument("--workload", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
        arguments = parser.parse()
        for chosen in arguments.workload:
            measure(chosen, arguments.repeats)
