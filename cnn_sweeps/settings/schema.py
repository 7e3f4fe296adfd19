"""The configuration's schema: types and ranges. The values live in `conf/`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, Strict
from pydantic.dataclasses import dataclass

from cnn_sweeps.settings.kinds import (
    FORBID_UNKNOWN,
    Count,
    Folder,
    Fraction,
    Positive,
    Rate,
    Seed,
    Share,
    Switch,
    Text,
)
from cnn_sweeps.settings.target_arguments import PRETRAINED
from cnn_sweeps.settings.trees import nodes
from cnn_sweeps.system.files import at_home, seen_from_here

SPLIT_NAMES = ("train", "val", "test")
OBJECTIVES = {
    "val_log_loss": "minimize",
    "val_accuracy": "maximize",
    "generalization_gap": "minimize",
    "num_parameters": "minimize",
}
"""What a sweep may optimise, and in which direction."""
_THRESHOLD_METRIC = "evaluation.threshold_metric"
_OF_A_SWEEP = ("evaluate_best", "retrain_best", "confirm", "prefer")
_BESIDE_THE_RESULT = (
    *("resume", *_OF_A_SWEEP, "evaluation.", "report.", "tracking."),
    *("training.checkpoint_dir", "training.cache_dir", "data.cache_dir"),
)
_PLACES = ("data.root", "model.weights")  # which a project is moved with
_BESIDE_THE_WEIGHTS = ("objective", "repeats", "folds", _THRESHOLD_METRIC)


def of_one_run(overrides: Sequence[str]) -> list[str]:
    """Return overrides without those of settings that mean something to a sweep alone."""
    return [each for each in overrides if each.lstrip("+").partition("=")[0] not in _OF_A_SWEEP]


def _check_objective(value: Any) -> list[str]:
    names = value if isinstance(value, list) else [value]
    if any(str(name).startswith("test_") for name in names):
        raise ValueError(
            "a sweep must not look at test images, which are for the model that it chooses; use a val_ metric"
        )
    if not names or len(set(map(str, names))) < len(names) or not set(map(str, names)) <= OBJECTIVES.keys():
        raise ValueError(f"should be one or a list of {', '.join(OBJECTIVES)}")
    return names


def _check_evaluate_best(value: Any) -> int:
    if not isinstance(value, (bool, int)) or value < 0:
        raise ValueError("should be false or a number of trials")
    return int(value)


def _check_confirm(value: Any) -> int:
    if type(value) is not int or value < 0 or value == 1:
        raise ValueError("should be 0 or a number of trials, at least 2")
    return value


Objectives = Annotated[list[str], PlainValidator(_check_objective)]
NumBest = Annotated[int, PlainValidator(_check_evaluate_best)]
NumConfirmed = Annotated[int, PlainValidator(_check_confirm)]


@dataclass(config=FORBID_UNKNOWN)
class SplitConfig:
    """How images without a split of their own are divided."""

    val_fraction: Fraction
    test_fraction: Fraction
    seed: Seed


@dataclass(config=FORBID_UNKNOWN)
class AugmentationConfig:
    """Random changes of training images; every range is symmetric around "unchanged"."""

    enabled: Switch
    horizontal_flip: Switch
    rotation_degrees: Annotated[float, Strict(), Field(ge=0, le=180)]
    shift_fraction: Share
    zoom_fraction: Rate
    shear_degrees: Annotated[float, Strict(), Field(ge=0, lt=90)]
    views: Annotated[int, Strict(), Field(ge=0, le=1000)] = 0  # runs of before there was a choice do not record it


@dataclass(config=FORBID_UNKNOWN)
class EarlyStoppingConfig:
    """When to stop before the last epoch."""

    enabled: Switch
    patience: Count
    min_steps: Annotated[int, Strict(), Field(ge=0)] = 0  # runs of before there was a choice do not record it


@dataclass(config=FORBID_UNKNOWN)
class TrainingConfig:
    """How a network is trained, and for how long."""

    epochs: Count
    batch_size: Count
    monitor: Literal["val_log_loss", "val_accuracy"]
    restore_best_weights: Switch
    early_stopping: EarlyStoppingConfig
    class_weight: Literal["balanced"] | None
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"]
    xla: Switch
    checkpoint_dir: Folder
    strategy: Literal["single", "mirrored"] = "single"  # runs of before there was a choice do not record it
    fine_tune_epochs: Count = 10  # nor these
    cache_dir: Folder = at_home("~/.cache/cnn_sweeps")


@dataclass(config=FORBID_UNKNOWN)
class EvaluationConfig:
    """How a trained network is evaluated, and which pictures are drawn."""

    threshold_metric: Literal["accuracy", "balanced_accuracy", "f1"]
    pictures: Literal["best", "all", "none"]


@dataclass(config=FORBID_UNKNOWN)
class ReportConfig:
    """What `report.html` shows."""

    images: Switch = True  # runs of before there was a choice do not record it


@dataclass(config=FORBID_UNKNOWN)
class TrackingConfig:
    """Where the run is recorded."""

    uri: str | None
    experiment_name: Annotated[Text, Field(min_length=1)]
    run_name: Text | None
    registered_model: Annotated[Text, Field(pattern=r"^[^/:]+$")] | None  # MLflow's rule
    log_model: Switch


@dataclass(config=FORBID_UNKNOWN)
class ScheduleConfig:
    """The learning rate over the steps of a run."""

    learning_rate: Positive
    schedule: Literal["exponential", "constant", "cosine"] = "constant"
    decay_rate: Annotated[float, Strict(), Field(gt=0, le=1)] = 1.0
    decay_steps: Count | None = None
    fine_tune_factor: Positive = 0.01


@dataclass(config=FORBID_UNKNOWN)
class RunConfig:
    """One run's configuration, checked. `data`, `model` and `optimizer` hold a `_target_` and its arguments."""

    seed: Seed
    resume: Switch
    objective: Objectives
    repeats: Annotated[int, Strict(), Field(ge=1, le=1000)]
    folds: Annotated[int, Strict(), Field(ge=1, le=1000)]
    evaluate_best: NumBest
    retrain_best: Switch
    confirm: NumConfirmed = Field(default=0, kw_only=True)  # runs of before there was a choice do not record it
    prefer: Literal["strongest_regularization"] | None = Field(default=None, kw_only=True)  # nor this
    split: SplitConfig
    augmentation: AugmentationConfig
    data: dict[str, Any]
    model: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: ScheduleConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    tracking: TrackingConfig
    resolved: dict[str, Any]
    """The same as Hydra composed it, for the record: interpolations are resolved but for environment variables."""
    report: ReportConfig = Field(default_factory=ReportConfig)

    @property
    def settings(self) -> dict[str, Any]:
        """Every leaf under the dotted key that a user types: `{"model.l2": 0.001, ...}`."""
        return {key: value for key, value in nodes(self.resolved) if not isinstance(value, dict) or not value}

    @property
    def fine_tune(self) -> int:
        """How many layers of the frozen backbone are trained, too, after the head."""
        return int(self.model["fine_tune"]) if self.model["_target_"] == PRETRAINED else 0

    @property
    def settings_of_weights(self) -> dict[str, Any]:
        """The settings that change the weights of one training."""
        return {key: value for key, value in self.settings_of_result.items() if key not in _BESIDE_THE_WEIGHTS}

    @property
    def settings_of_result(self) -> dict[str, Any]:
        """The settings that change the objective's value."""
        known = self.settings
        settings = {key: value for key, value in known.items() if not key.startswith(_BESIDE_THE_RESULT)}
        settings |= {key: seen_from_here(settings[key]) for key in _PLACES if isinstance(settings.get(key), str)}
        if "val_accuracy" in self.objective:  # which is at the threshold
            settings[_THRESHOLD_METRIC] = known[_THRESHOLD_METRIC]
        return settings
