"""The epoch loop: what it stops at, keeps, weighs and repeats."""

import random
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import TINY_CNN, TINY_DATA, compose
from tensorflow.python.framework.config import is_op_determinism_enabled

from cnn_sweeps.errors import ModelError, TrainingError
from cnn_sweeps.evaluation.metrics import summarize
from cnn_sweeps.settings.targets import call_target
from cnn_sweeps.training import loop as training
from cnn_sweeps.training.batches import training_images
from cnn_sweeps.training.network import Network, check_network
from cnn_sweeps.training.progress import TrainingProgress
from cnn_sweeps.training.warm import build_network, prepare_process


class Run:
    """The smallest real network on tiny real data, with validation metrics that a test may write by hand."""

    def __init__(self, *overrides, validation=None):
        network = [] if "model=residual" in overrides else ["model.filters=[4]", "model.dense_units=[4]"]
        config = compose(*TINY_DATA, *network, "regularization=none", *overrides)
        data = call_target("data", config.data)
        self.images, self.labels = tf.constant(data.images), data.labels
        self.network = build_network(config, data, num_train_images=64)
        self.model = self.network.model
        self.config, self.progress, self.epochs_seen = config, TrainingProgress(), []
        self.everything = np.arange(len(self.labels))
        written = iter(validation or [])
        self.validate = (lambda: next(written)) if validation else self.measure

    def measure(self):
        return summarize(self.network.predict(self.images, self.everything), self.labels)

    def train(self, class_weights=None, on_epoch=lambda metrics: None):
        def remember(metrics):
            self.epochs_seen.append(metrics)
            on_epoch(metrics)

        settings = self.config.training
        numbers = {"seed": self.config.seed, "batch_size": settings.batch_size}
        source = training_images(self.images, self.labels, self.everything, class_weights, **numbers)
        training.train(self.network, source, self.validate, settings, self.progress, remember)
        return self


def metrics(log_losses, accuracies=None):
    accuracies = accuracies or [0.5] * len(log_losses)
    return [{"log_loss": a, "accuracy": b} for a, b in zip(log_losses, accuracies, strict=True)]


STOPPING = [
    "training.early_stopping.enabled=true",
    "training.early_stopping.patience=2",
    "training.early_stopping.min_steps=0",
    "training.epochs=9",
]


@pytest.mark.parametrize(
    ("overrides", "validation", "epochs", "best"),
    [
        ([], metrics([5, 4, 6, 6, 1, 1, 1, 1, 1]), 4, 2),
        (["training.monitor=val_accuracy"], metrics([1] * 9, [0.1, 0.3, 0.2, 0.4, 0.4, 0.4, 0.9, 0.9, 0.9]), 6, 4),
        (["training.early_stopping.enabled=false"], metrics([5, 4, 6, 6, 6, 6, 6, 6, 6]), 9, 2),
        (["training.epochs=3"], metrics([5, 4, 3]), 3, 3),
        (["training.early_stopping.min_steps=21"], metrics([1, 2, 2, 2, 2, 2, 2, 2, 2]), 6, 1),  # of 4 an epoch
        (["training.early_stopping.min_steps=20"], metrics([2, 3, 3, 3, 1, 3, 3, 3, 3]), 7, 5),
    ],
)
def test_stops_and_chooses_by_the_monitored_metric(overrides, validation, epochs, best):
    run = Run(*STOPPING, *overrides, validation=validation).train()
    assert (run.progress.epochs_done, run.progress.best_epoch) == (epochs, best)


@pytest.mark.parametrize("restore", [True, False])
def test_ends_with_the_weights_of_the_best_or_of_the_last_epoch(restore):
    kept = []
    validation = metrics([5, 1, 6])
    run = Run("training.epochs=3", f"training.restore_best_weights={restore}", validation=validation)
    run.train(on_epoch=lambda _: kept.append(run.model.get_weights()))
    final = run.model.get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(final, kept[1 if restore else 2], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(final, kept[2 if restore else 1], strict=True))


def test_learns_and_tells_every_metric_of_an_epoch():
    run = Run(*TINY_CNN, "training.epochs=12", "optimizer.learning_rate=0.01").train()
    assert run.measure()["accuracy"] > 0.9
    assert set(run.epochs_seen[0]) == {
        *(f"train_{name}" for name in ("loss", "log_loss", "accuracy")),
        *("val_log_loss", "val_accuracy", "generalization_gap", "learning_rate", "epoch_s", "images_per_s"),
    }
    assert run.epochs_seen[3]["learning_rate"] == pytest.approx(0.01 * 0.96**4)


def test_compiling_is_no_part_of_the_first_epochs_time(monkeypatch):
    """Of which `images_per_s` is told: what trains no step compiles all."""
    run, done = Run(), []

    def end(*_):
        done.append("an epoch begins")
        sys.exit()

    monkeypatch.setattr(run.network, "train_steps", lambda _source, **steps: done.append(steps))
    monkeypatch.setattr(training, "_train_epoch", end)
    with pytest.raises(SystemExit):
        run.train()
    assert done == [{"epoch": 0, "first_step": 0, "num_steps": 0}, "an epoch begins"]


def test_calls_into_tensorflow_cover_so_few_pixels_that_a_signal_is_soon_answered():
    """In one, Python hears of nothing."""
    side, most, asked = 128, 2**20, []
    images = np.broadcast_to(np.uint8(0), (1000, side, side, 3))
    source = SimpleNamespace(images=images, positions=range(1000), batch_size=32)
    num_steps = [number for _, number in training._calls(source, "")]
    assert sum(num_steps) * 32 >= 1000
    assert max(num_steps) * 32 * side * side <= most

    def forward(_images, indices):
        asked.append(len(indices))
        return tf.fill((len(indices), 1), 0.5)

    probabilities = Network.predict(SimpleNamespace(_forward=forward), images, np.arange(1000))
    assert len(probabilities) == sum(asked) == 1000
    assert max(asked) * side * side <= most


def test_log_loss_is_without_the_l2_penalty_and_the_training_loss_with_it():
    first = Run("training.epochs=1", "model.l2=1", "optimizer.learning_rate=1e-9").train().epochs_seen[0]
    assert first["train_loss"] > first["train_log_loss"] + 1
    assert first["val_log_loss"] < 1


def test_class_weights_scale_the_loss_but_not_the_metric():
    plain, heavy = (
        Run("training.epochs=1", "optimizer.learning_rate=1e-9").train(weights).epochs_seen[0]
        for weights in (None, {0: 3.0, 1: 3.0})
    )
    assert heavy["train_loss"] == pytest.approx(3 * plain["train_loss"], rel=1e-4)
    assert heavy["train_log_loss"] == pytest.approx(plain["train_log_loss"], rel=1e-4)


def test_loss_that_is_not_finite_ends_the_run_with_what_to_change():
    with pytest.raises(TrainingError, match=r"train_loss became nan in epoch 1; set a lower optimizer.learning_rate"):
        Run("optimizer.learning_rate=1e30").train()


@pytest.mark.parametrize(
    "overrides",
    [["data.num_classes=3"], ["training.precision=mixed_bfloat16"], ["model=residual", "model.filters=[4]"]],
)
def test_more_classes_mixed_precision_and_the_other_network_train(overrides):
    try:
        run = Run(*overrides).train()
        assert all(np.isfinite(list(epoch.values())).all() for epoch in run.epochs_seen)
        assert run.model.output.dtype == "float32"
    finally:
        keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize("overrides", [["regularization=full"], ["data.num_classes=3"]])
def test_same_seed_gives_the_same_weights_bit_for_bit_and_another_seed_others(overrides):
    weights = [Run(*overrides, f"seed={seed}").train().model.get_weights() for seed in (1, 1, 2)]
    assert all(np.array_equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(weights[0], weights[2], strict=True))


def test_repeatable_kernels_are_asked_for_without_xla_alone_whatever_was_trained_before():
    for xla in (False, True, False):
        prepare_process(compose(f"training.xla={xla}"))
        assert is_op_determinism_enabled() != xla


def test_numbers_that_another_thread_draws_do_not_change_a_network():
    """As Dask's does twice a second where trials run in its worker."""
    values = []
    for num_drawn in (0, 1):
        prepare_process(compose())
        random.sample(range(9), num_drawn)
        values.append(keras.initializers.GlorotUniform()((3, 3)).numpy().tolist())
    assert values[0] == values[1]


def test_what_is_no_keras_model_is_refused():
    with pytest.raises(ModelError, match="the function returned a dict; it must return"):
        check_network({}, 2)


def test_model_with_the_wrong_output_is_refused():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(ModelError, match=r"output has shape \(None, 2\); 2 classes need \(None, 1\) with sigmoid"):
        check_network(model, 2)
