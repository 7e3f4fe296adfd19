"""The configuration's schema: types, ranges and the checks that span several settings.

Values live in `conf/`; here is what they may be. Nothing slow is imported, so that a bad value is refused at once.
"""

from __future__ import annotations

import copy
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, Field, Strict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from cnn_sweeps.errors import ConfigError

SPLIT_NAMES = ("train", "val", "test")
VALIDATION_METRICS = ("val_log_loss", "val_accuracy")

Count = Annotated[int, Strict(), Field(ge=1)]
Seed = Annotated[int, Strict(), Field(ge=0, lt=2**31)]
Fraction = Annotated[float, Strict(), Field(gt=0, lt=1)]
Rate = Annotated[float, Strict(), Field(ge=0, lt=1)]
Share = Annotated[float, Strict(), Field(ge=0, le=1)]
NonNegative = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
Switch = Annotated[bool, Strict()]
Channels = Literal[1, 3]
ImageSize = Count | Annotated[list[Count], Field(min_length=2, max_length=2)]
Widths = Annotated[list[Count], Field(min_length=1)]
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


@dataclass(config=_forbid_unknown)
class EarlyStoppingConfig:
    """When to stop before the last epoch."""

    enabled: Switch
    patience: Count
    min_delta: NonNegative


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
    checkpoint_dir: str


@dataclass(config=_forbid_unknown)
class TrackingConfig:
    """Where the run is recorded."""

    uri: str | None
    experiment_name: Annotated[str, Field(min_length=1)]
    run_name: str | None
    log_model: Switch


@dataclass(config=_forbid_unknown)
class ScheduleConfig:
    """The learning rate over the steps of a run."""

    learning_rate: Positive
    schedule: Literal["exponential", "constant", "cosine"]
    decay_rate: Annotated[float, Strict(), Field(gt=0, le=1)]
    decay_steps: Count | None


@dataclass(config=_forbid_unknown)
class _Digits:
    classes: Annotated[list[Digit], Field(min_length=2)]
    one_vs_rest: Digit | None


@dataclass(config=_forbid_unknown)
class _Folder:
    root: str
    image_size: ImageSize
    channels: Channels
    on_bad_image: Literal["error", "skip"]
    cache_dir: str


@dataclass(config=_forbid_unknown)
class _Cifar10:
    classes: Annotated[list[str], Field(min_length=2)]


@dataclass(config=_forbid_unknown)
class _Synthetic:
    num_images: Count
    num_classes: Annotated[int, Strict(), Field(ge=2, le=1000)]
    image_size: ImageSize
    channels: Channels
    difficulty: Share
    seed: Seed


@dataclass(config=_forbid_unknown)
class _Cnn:
    filters: Widths
    dense_units: Widths
    dropout: Rate
    l2: Share
    batch_norm_momentum: Fraction
    padding: Literal["same", "valid"]


@dataclass(config=_forbid_unknown)
class _Residual:
    filters: Widths
    blocks_per_stage: Count
    dropout: Rate
    l2: Share
    batch_norm_momentum: Fraction


@dataclass(config=_forbid_unknown)
class _Adam:
    beta_1: Rate
    beta_2: Rate


@dataclass(config=_forbid_unknown)
class _AdamW(_Adam):
    weight_decay: NonNegative


@dataclass(config=_forbid_unknown)
class _SGD:
    momentum: Rate
    nesterov: Switch


@dataclass(config=_forbid_unknown)
class _RMSprop:
    rho: Rate
    momentum: Rate


_ARGUMENTS: dict[str, type] = {
    "cnn_sweeps.data.load_digits": _Digits,
    "cnn_sweeps.data.load_folder": _Folder,
    "cnn_sweeps.data.load_cifar10": _Cifar10,
    "cnn_sweeps.data.load_synthetic": _Synthetic,
    "cnn_sweeps.models.build_cnn": _Cnn,
    "cnn_sweeps.models.build_residual": _Residual,
    "keras.optimizers.Adam": _Adam,
    "keras.optimizers.AdamW": _AdamW,
    "keras.optimizers.SGD": _SGD,
    "keras.optimizers.RMSprop": _RMSprop,
}
"""What the targets of this project's own groups take; the arguments of a user's target are the user's."""


@dataclass(config=_forbid_unknown)
class RunConfig:
    """One run's configuration, checked. `data`, `model` and `optimizer` hold a `_target_` and its arguments."""

    seed: Seed
    resume: Switch
    split: SplitConfig
    augmentation: AugmentationConfig
    data: dict[str, Any]
    model: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: ScheduleConfig
    training: TrainingConfig
    tracking: TrackingConfig
    resolved: dict[str, Any]
    """The same as Hydra composed it, with interpolations resolved, for the record."""

    @property
    def settings(self) -> dict[str, Any]:
        """Every leaf under the dotted key that a user types: `{"model.l2": 0.001, ...}`."""
        return dict(_flatten(self.resolved))

    @property
    def settings_of_result(self) -> dict[str, Any]:
        """Those settings that the trained weights depend on."""
        beside = ("resume", "tracking.", "training.checkpoint_dir", "data.cache_dir")
        return {key: value for key, value in self.settings.items() if not key.startswith(beside)}


def check_config(composed: DictConfig) -> RunConfig:
    """Turn Hydra's composed configuration into a checked one.

    Raises:
        ConfigError: naming every setting that is missing, of the wrong type, out of range or contradicting another.
    """
    if missing := sorted(OmegaConf.missing_keys(composed)):
        raise ConfigError(f"{', '.join(missing)}: no value given; add {missing[0]}=VALUE to the command")
    try:
        plain: dict[str, Any] = OmegaConf.to_container(composed, resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError(" ".join(str(error).split())) from error
    resolved = copy.deepcopy(plain)
    schedule_keys = set(ScheduleConfig.__dataclass_fields__)
    optimizer = plain["optimizer"]
    plain["schedule"] = {key: optimizer[key] for key in optimizer if key in schedule_keys}
    plain["optimizer"] = {key: optimizer[key] for key in optimizer if key not in schedule_keys}

    plain["resolved"] = resolved
    problems = _problems(RunConfig, plain, "")
    for group in ("data", "model", "optimizer"):
        problems += _target_problems(group, plain[group])
    if problems:
        raise ConfigError("; ".join(problem.replace("schedule.", "optimizer.", 1) for problem in problems))
    config = RunConfig(**plain)
    _check_fractions(config)
    _check_image_fits(config)
    return config


def _flatten(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """List the leaves of nested dicts as (dotted key, value)."""
    leaves = []
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            leaves += _flatten(value, f"{prefix}{key}.")
        else:
            leaves.append((f"{prefix}{key}", value))
    return leaves


def smallest_cnn_image(num_blocks: int, padding: str) -> int:
    """Give the side in pixels of the smallest image that passes `num_blocks` of 3x3 convolution and 2x2 pooling."""
    side = 1
    for _ in range(num_blocks):
        side = 2 * side + (2 if padding == "valid" else 0)
    return side


def _problems(schema: type, values: dict[str, Any], prefix: str) -> list[str]:
    try:
        TypeAdapter(schema).validate_python(values)
    except ValidationError as error:
        return list(dict.fromkeys(_problem(detail, prefix) for detail in error.errors()))
    return []


def _problem(detail: Any, prefix: str) -> str:
    # A location also names the member of a union that did not fit; only keys and positions are the user's.
    location = [part for part in detail["loc"] if isinstance(part, int) or part.isidentifier()]
    key = prefix + ".".join(str(part) for part in location if not _names_a_type(part))
    if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{key}: no such setting here; remove it"
    if detail["type"] == "missing":
        return f"{key}: no value given; add {key}=VALUE to the command"
    allowed = detail["msg"].replace("Input should be", "should be")
    return f"{key}={detail['input']}: {allowed}"


def _names_a_type(part: int | str) -> bool:
    return part in ("int", "list", "float", "str", "none", "constrained")


def _target_problems(group: str, component: dict[str, Any]) -> list[str]:
    target = component.get("_target_")
    if not isinstance(target, str):
        return [f"{group}._target_={target}: should be the dotted path of a function, e.g. my_package.my_function"]
    arguments = {key: value for key, value in component.items() if key != "_target_"}
    schema = _ARGUMENTS.get(target)
    return _problems(schema, arguments, f"{group}.") if schema else []


def _check_fractions(config: RunConfig) -> None:
    total = config.split.val_fraction + config.split.test_fraction
    if total >= 1:
        raise ConfigError(
            f"split.val_fraction={config.split.val_fraction} and split.test_fraction={config.split.test_fraction} "
            f"leave nothing to train on; their sum must be below 1"
        )


def _check_image_fits(config: RunConfig) -> None:
    size, model = config.data.get("image_size"), config.model
    if size is None or model["_target_"] != "cnn_sweeps.models.build_cnn":
        return
    num_blocks, padding = len(model["filters"]), model["padding"]
    smallest = smallest_cnn_image(num_blocks, padding)
    if min(size if isinstance(size, list) else [size]) < smallest:
        raise ConfigError(
            f"data.image_size={size}: {num_blocks} blocks with model.padding={padding} need at least {smallest} pixels "
            "a side; enlarge it, shorten model.filters or set model.padding=same"
        )
