"""Trains on one and on two devices of a process that has two; prints what came of it, for test_replicas.py."""

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
from test_training import Run

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.models.layers import plain_copy
from cnn_sweeps.training import warm
from cnn_sweeps.training.checkpoint import Checkpoint
from cnn_sweeps.training.replicas import choose_strategy

MIRRORED = "training.strategy=mirrored"
TRIAL = [
    *("model.filters=[4]", "model.dense_units=[4]"),  # compiling is all that takes time
    "data.num_images=65",  # so that the last batch of an epoch has one image
    "training.epochs=4",
    "training.early_stopping.enabled=true",
    "training.early_stopping.patience=2",
    "training.early_stopping.min_steps=0",
    "optimizer.learning_rate=0.01",
    "augmentation.enabled=true",
    "augmentation.shift_fraction=0.2",
]
# Not Adam, whose first steps are as long for a gradient that is nothing but rounding as for any other.
WITHOUT_DROPOUT = ["model.dropout=0", "model.l2=1e-3", "seed=1", "optimizer=sgd", "optimizer.learning_rate=0.1"]
WITH_DROPOUT = ["model.dropout=0.3", "model.l2=1e-4", "seed=1"]
ANOTHER = ["model.dropout=0.5", "model.l2=1e-2", "seed=2", "optimizer.decay_rate=0.9"]


def start(*overrides):
    return Run(*TRIAL, *overrides)


def epochs_of(run):
    return [{k: v for k, v in epoch.items() if k not in ("epoch_s", "images_per_s")} for epoch in run.epochs_seen]


def outcome_of(*overrides):
    run = start(MIRRORED, *overrides).train()
    return epochs_of(run), [weights.tolist() for weights in run.model.get_weights()]


def num_networks():
    return len(warm._networks)


def resumed(folder):
    """Interrupt a training after its second epoch, and go on in a network that another trial has used meanwhile."""
    checkpoint, run = Checkpoint(folder / "kept.npz"), start(MIRRORED, *WITH_DROPOUT)

    def keep(_metrics):
        if run.progress.epochs_done == 2:
            checkpoint.save(run.model, run.progress, "run 1")
            raise KeyboardInterrupt

    try:
        run.train(on_epoch=keep)
    except KeyboardInterrupt:
        outcome_of(*ANOTHER)
    again = start(MIRRORED, *WITH_DROPOUT)
    again.progress = checkpoint.restore(again.model)
    again.train()
    return epochs_of(run) + epochs_of(again), [weights.tolist() for weights in again.model.get_weights()]


def refusal():
    try:
        start(MIRRORED, "training.batch_size=15")
    except ConfigError as error:
        return str(error)


def main(folder):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    found = {}
    for num_images in (61, 65):
        trial = [*WITHOUT_DROPOUT, f"data.num_images={num_images}"]
        single, run = (start(*trial, *strategy).train({0: 0.5, 1: 1.5}) for strategy in ([], [MIRRORED]))
        found[f"of {num_images} images"] = [epochs_of(single), epochs_of(run)]
    found["num_devices"] = run.model.distribute_strategy.num_replicas_in_sync
    found["is one strategy"] = choose_strategy(run.config.training) is run.model.distribute_strategy
    plain_copy(run.model).save(folder / "kept.keras")
    np.savez(
        folder / "kept_outputs.npz", images=run.images.numpy(), outputs=run.network.predict(run.images, run.everything)
    )
    found["cold"], networks = outcome_of(*WITH_DROPOUT), num_networks()
    found["another, warm"] = outcome_of(*ANOTHER)
    found["warm"], found["resumed"] = outcome_of(*WITH_DROPOUT), resumed(folder)
    found["networks compiled for warm trials"] = num_networks() - networks
    warm._networks.clear()
    found["another, cold"] = outcome_of(*ANOTHER)
    found["refusal"] = refusal()
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
