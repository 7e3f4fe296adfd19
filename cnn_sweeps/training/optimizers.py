"""Optimizers and learning-rate schedules."""

from __future__ import annotations

from typing import Any, TypeAlias

import tensorflow as tf
from keras.optimizers import Optimizer, schedules

from cnn_sweeps.settings.schema import ScheduleConfig
from cnn_sweeps.settings.targets import call_target

LearningRate: TypeAlias = Any  # a schedules.LearningRateSchedule or a float; mypy knows nothing of Keras


def build_optimizer(component: dict[str, Any], learning_rate: LearningRate) -> Optimizer:
    """Build the optimizer that the configuration names.

    Args:
        component: `_target_`, a Keras optimizer or a function that takes `learning_rate` and returns one; arguments.
        learning_rate: over the steps, or constant.

    Raises:
        ConfigError: if the target cannot be used.
    """
    return call_target("optimizer", component, learning_rate=learning_rate)


def build_schedule(schedule: ScheduleConfig, steps_per_epoch: int, epochs: int) -> LearningRate:
    """Build the learning rate as a function of the step, or the constant.

    A function reads its numbers from variables, so that another trial needs no new graph.

    Args:
        schedule: its kind and numbers.
        steps_per_epoch: training steps in one epoch.
        epochs: of the whole run; a cosine schedule reaches zero after the last.
    """
    if schedule.schedule == "exponential":
        decay_steps = schedule.decay_steps or steps_per_epoch
        return schedules.ExponentialDecay(*map(_variable, (schedule.learning_rate, decay_steps, schedule.decay_rate)))
    if schedule.schedule == "cosine":
        return schedules.CosineDecay(*map(_variable, (schedule.learning_rate, steps_per_epoch * epochs)))
    return schedule.learning_rate


def adjustable_values(learning_rate: LearningRate) -> list[tf.Variable]:
    """Give the numbers of a schedule; none of a constant, which is a variable of its optimizer."""
    return [] if isinstance(learning_rate, float) else [v for v in vars(learning_rate).values() if tf.is_tensor(v)]


def _variable(value: float) -> tf.Variable:
    return tf.Variable(value, trainable=False, dtype=tf.float32)
