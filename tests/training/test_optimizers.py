"""Optimizers and schedules."""

import keras
import pytest
from conftest import compose

from cnn_sweeps.settings.targets import call_target
from cnn_sweeps.training.warm import build_schedule


def build_optimizer(component, learning_rate):
    return call_target("optimizer", component, learning_rate=learning_rate)


@pytest.mark.parametrize(
    ("option", "kind"), [("adam", "Adam"), ("adamw", "AdamW"), ("sgd", "SGD"), ("rmsprop", "RMSprop")]
)
def test_each_option_builds_its_keras_optimizer(option, kind):
    config = compose(f"optimizer={option}", "optimizer.learning_rate=0.01")
    optimizer = build_optimizer(config.optimizer, build_schedule(config.schedule, steps_per_epoch=10, epochs=3))
    assert type(optimizer) is getattr(keras.optimizers, kind)
    assert float(optimizer.learning_rate) == pytest.approx(0.01)


def test_own_settings_reach_the_optimizer():
    config = compose("optimizer=sgd", "optimizer.momentum=0.5", "optimizer.nesterov=false")
    optimizer = build_optimizer(config.optimizer, build_schedule(config.schedule, 10, 3))
    assert (optimizer.momentum, optimizer.nesterov) == (0.5, False)


@pytest.mark.parametrize(
    ("settings", "step", "expected"),
    [
        (["schedule=exponential", "decay_rate=0.5"], 10, 0.5),
        (["schedule=exponential", "decay_rate=0.5"], 30, 0.125),
        (["schedule=exponential", "decay_rate=0.5", "decay_steps=5"], 10, 0.25),
        (["schedule=cosine"], 0, 1.0),
        (["schedule=cosine"], 15, 0.5),
        (["schedule=cosine"], 30, 0.0),
    ],
)
def test_learning_rate_at_a_step(settings, step, expected):
    config = compose("optimizer.learning_rate=1", *(f"optimizer.{setting}" for setting in settings))
    schedule = build_schedule(config.schedule, steps_per_epoch=10, epochs=3)
    assert float(schedule(step)) == pytest.approx(expected, abs=1e-6)


def test_constant_learning_rate():
    config = compose("optimizer.schedule=constant", "optimizer.learning_rate=0.3")
    assert build_schedule(config.schedule, 10, 3) == 0.3
