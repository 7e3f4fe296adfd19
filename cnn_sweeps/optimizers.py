"""Optimizers and learning-rate schedules."""

from __future__ import annotations

from typing import Any

from keras.optimizers import Optimizer, schedules

from cnn_sweeps.schema import ScheduleConfig
from cnn_sweeps.targets import call_target


def build_optimizer(
    component: dict[str, Any], schedule: ScheduleConfig, steps_per_epoch: int, epochs: int
) -> Optimizer:
    """Build the optimizer that the configuration names, with its learning-rate schedule.

    Args:
        component: `_target_`, a Keras optimizer or a function that takes `learning_rate` and returns one; arguments.
        schedule: the learning rate over the steps.
        steps_per_epoch: training steps in one epoch.
        epochs: of the whole run; a cosine schedule reaches zero after the last.

    Raises:
        ConfigError: if the target cannot be used.
    """
    return call_target("optimizer", component, learning_rate=build_schedule(schedule, steps_per_epoch, epochs))


def build_schedule(
    schedule: ScheduleConfig, steps_per_epoch: int, epochs: int
) -> schedules.LearningRateSchedule | float:
    """Build the learning rate as a function of the step, or the constant."""
    if schedule.schedule == "exponential":
        decay_steps = schedule.decay_steps or steps_per_epoch
        return schedules.ExponentialDecay(schedule.learning_rate, decay_steps, schedule.decay_rate)
    if schedule.schedule == "cosine":
        return schedules.CosineDecay(schedule.learning_rate, steps_per_epoch * epochs)
    return schedule.learning_rate
