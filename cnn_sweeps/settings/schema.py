"""The configuration's schema: types and ranges. The values live in `conf/`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, PlainValidator, Strict, create_model
from pydantic.dataclasses import dataclass

from cnn_sweeps.settings.backbones import BACKBONES
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
    """Give overrides without those of settings that mean something to a sweep alone."""
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


def _check_image_size(value: Any) -> Any:
    sides = value if isinstance(value, list) else [value, value]
    if len(sides) != 2 or not all(type(side) is int and 1 <= side <= _LONGEST_SIDE for side in sides):
        raise ValueError(
            f"should be a number of pixels or [height, width], each at least 1 and at most {_LONGEST_SIDE}"
        )
    return value


# The upper bounds keep typing errors from TensorFlow, which may end the process over them.
_LONGEST_SIDE = 8192
Count = Annotated[int, Strict(), Field(ge=1, le=10_000_000)]
Width = Annotated[int, Strict(), Field(ge=1, le=8192)]
Seed = Annotated[int, Strict(), Field(ge=0, lt=2**31)]
Fraction = Annotated[float, Strict(), Field(gt=0, lt=1)]
Rate = Annotated[float, Strict(), Field(ge=0, lt=1)]
Share = Annotated[float, Strict(), Field(ge=0, le=1)]
NonNegative = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
Switch = Annotated[bool, Strict()]
Channels = Literal[1, 3]
ImageSize = Annotated[Any, PlainValidator(_check_image_size)]
Text = Annotated[str, Field(coerce_numbers_to_str=True)]
Folder = Annotated[Text, AfterValidator(at_home)]
Widths = Annotated[list[Width], Field(min_length=1, max_length=64)]
Objectives = Annotated[list[str], PlainValidator(_check_objective)]
NumBest = Annotated[int, PlainValidator(_check_evaluate_best)]
NumConfirmed = Annotated[int, PlainValidator(_check_confirm)]
Digit = Annotated[int, Strict(), Field(ge=0, le=9)]

_forbid_unknown = ConfigDict(extra="forbid")


@dataclass(config=_forbid_unknown)
class SplitConfig:
    """How images without a split of their own are divided."""

    val_fraction: Fraction
    test_fraction: Fraction
    seed: Seed


@dataclass(config=_forbid_unknown)
class AugmentationConfig:
    """Random changes of training images; every range is symmetric around "unchanged"."""

    enabled: Switch
    horizontal_flip: Switch
    rotation_degrees: Annotated[float, Strict(), Field(ge=0, le=180)]
    shift_fraction: Share
    zoom_fraction: Rate
    shear_degrees: Annotated[float, Strict(), Field(ge=0, lt=90)]
    views: Annotated[int, Strict(), Field(ge=0, le=1000)] = 0  # runs of before there was a choice do not record it


@dataclass(config=_forbid_unknown)
class EarlyStoppingConfig:
    """When to stop before the last epoch."""

    enabled: Switch
    patience: Count
    min_steps: Annotated[int, Strict(), Field(ge=0)] = 0  # runs of before there was a choice do not record it


@dataclass(config=_forbid_unknown)
class TrainingConfig:
    """How long and how to train."""

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


@dataclass(config=_forbid_unknown)
class EvaluationConfig:
    """What is made of a trained network."""

    threshold_metric: Literal["accuracy", "balanced_accuracy", "f1"]
    pictures: Literal["best", "all", "none"]


@dataclass(config=_forbid_unknown)
class ReportConfig:
    """What `report.html` shows."""

    images: Switch = True  # runs of before there was a choice do not record it


@dataclass(config=_forbid_unknown)
class TrackingConfig:
    """Where the run is recorded."""

    uri: str | None
    experiment_name: Annotated[Text, Field(min_length=1)]
    run_name: Text | None
    registered_model: Annotated[Text, Field(pattern=r"^[^/:]+$")] | None  # MLflow's rule
    log_model: Switch


@dataclass(config=_forbid_unknown)
class ScheduleConfig:
    """The learning rate over the steps of a run."""

    learning_rate: Positive
    schedule: Literal["exponential", "constant", "cosine"] = "constant"
    decay_rate: Annotated[float, Strict(), Field(gt=0, le=1)] = 1.0
    decay_steps: Count | None = None
    fine_tune_factor: Positive = 0.01


def _arguments(**kinds: Any) -> type:
    """Give the model of a target's arguments, each with its kind or, where it may be left out, kind and default."""
    fields: Any = {name: kind if isinstance(kind, tuple) else (kind, ...) for name, kind in kinds.items()}
    model: type = create_model("Arguments", __config__=_forbid_unknown, **fields)
    return model


FOLDER = "cnn_sweeps.data.load_folder"
FROM_NOTHING = ("cnn_sweeps.models.build_cnn", "cnn_sweeps.models.build_residual")
PRETRAINED = "cnn_sweeps.models.build_pretrained"
TARGET_ARGUMENTS: dict[str, type] = {
    "cnn_sweeps.data.load_digits": _arguments(
        classes=Annotated[list[Digit], Field(min_length=2)],
        one_vs_rest=Digit | None,
    ),
    FOLDER: _arguments(
        root=Text,
        image_size=ImageSize,
        channels=Channels,
        on_bad_image=Literal["error", "skip"],
        cache_dir=Text,
        follow_links=(Switch, False),
        positive_class=(Text | None, None),
    ),
    "cnn_sweeps.data.load_cifar10": _arguments(classes=Annotated[list[str], Field(min_length=2)]),
    "cnn_sweeps.data.load_synthetic": _arguments(
        num_images=Count,
        num_classes=Annotated[int, Strict(), Field(ge=2, le=1000)],
        image_size=ImageSize,
        channels=Channels,
        difficulty=Share,
        seed=Seed,
    ),
    "cnn_sweeps.models.build_cnn": _arguments(
        filters=Widths, dense_units=Widths, dropout=Rate, l2=Share, padding=Literal["same", "valid"]
    ),
    "cnn_sweeps.models.build_residual": _arguments(
        filters=Widths, blocks_per_stage=Annotated[int, Strict(), Field(ge=1, le=100)], dropout=Rate, l2=Share
    ),
    PRETRAINED: _arguments(
        backbone=Literal[tuple(BACKBONES)],
        alpha=Positive | None,
        weights=Text | None,
        dense_units=Annotated[list[Width], Field(max_length=64)],
        dropout=Rate,
        l2=Share,
        fine_tune=Annotated[int, Strict(), Field(ge=0)],
    ),
    "keras.optimizers.Adam": _arguments(beta_1=Rate, beta_2=Rate),
    "keras.optimizers.AdamW": _arguments(beta_1=Rate, beta_2=Rate, weight_decay=NonNegative),
    "keras.optimizers.SGD": _arguments(momentum=Rate, nesterov=Switch),
    "keras.optimizers.RMSprop": _arguments(rho=Rate, momentum=Rate),
}
"""What the targets of this project's own groups take; the arguments of a user's target are the user's."""


@dataclass(config=_forbid_unknown)
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
        """Those settings that the weights of one training depend on."""
        return {key: value for key, value in self.settings_of_result.items() if key not in _BESIDE_THE_WEIGHTS}

    @property
    def settings_of_result(self) -> dict[str, Any]:
        """Those settings that the objective depends on."""
        known = self.settings
        settings = {key: value for key, value in known.items() if not key.startswith(_BESIDE_THE_RESULT)}
        settings |= {key: seen_from_here(settings[key]) for key in _PLACES if isinstance(settings.get(key), str)}
        if "val_accuracy" in self.objective:  # which is at the threshold
            settings[_THRESHOLD_METRIC] = known[_THRESHOLD_METRIC]
        return settings
