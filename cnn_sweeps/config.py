"""The configuration's schema: types, ranges and the checks that span several settings.

Values live in `conf/`; here is what they may be. Nothing slow is imported, so that a bad value is refused at once.
"""

from __future__ import annotations

import copy
import importlib.util
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, Field, PlainValidator, Strict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from cnn_sweeps.errors import ConfigError

SPLIT_NAMES = ("train", "val", "test")
VALIDATION_METRICS = ("val_log_loss", "val_accuracy")


def _check_image_size(value: Any) -> Any:
    sides = value if isinstance(value, list) else [value]
    if (
        len(sides) > 2
        or (isinstance(value, list) and len(sides) < 2)
        or any(type(s) is not int or s < 1 for s in sides)
    ):
        raise ValueError("should be a number of pixels or [height, width], each at least 1")
    return value


Count = Annotated[int, Strict(), Field(ge=1)]
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
    checkpoint_dir: Text


@dataclass(config=_forbid_unknown)
class TrackingConfig:
    """Where the run is recorded."""

    uri: str | None
    experiment_name: Annotated[Text, Field(min_length=1)]
    run_name: Text | None
    log_model: Switch


@dataclass(config=_forbid_unknown)
class ScheduleConfig:
    """The learning rate over the steps of a run."""

    learning_rate: Positive
    schedule: Literal["exponential", "constant", "cosine"] = "constant"
    decay_rate: Annotated[float, Strict(), Field(gt=0, le=1)] = 1.0
    decay_steps: Count | None = None


@dataclass(config=_forbid_unknown)
class _Digits:
    classes: Annotated[list[Digit], Field(min_length=2)]
    one_vs_rest: Digit | None


@dataclass(config=_forbid_unknown)
class _Folder:
    root: Text
    image_size: ImageSize
    channels: Channels
    on_bad_image: Literal["error", "skip"]
    cache_dir: Text


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
    try:
        missing = sorted(OmegaConf.missing_keys(composed))
        plain: dict[str, Any] = OmegaConf.to_container(composed, resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError(" ".join(str(error).split())) from error
    if missing:
        raise ConfigError(f"{', '.join(missing)}: no value given; add {missing[0]}=VALUE to the command")
    optimizer = plain["optimizer"] if isinstance(plain["optimizer"], dict) else {}
    schedule = {key: optimizer[key] for key in optimizer if key in ScheduleConfig.__dataclass_fields__}
    own = {key: optimizer[key] for key in optimizer if key not in schedule}
    plain |= {"optimizer": own, "schedule": schedule, "resolved": copy.deepcopy(plain)}

    problems = _problems(ScheduleConfig, schedule, "optimizer.")
    for group in ("data", "model", "optimizer"):
        problems += _target_problems(group, plain[group])
    if problems := _problems(RunConfig, plain | {"schedule": {"learning_rate": 1}}, "") + problems:
        raise ConfigError("; ".join(problems))
    config = RunConfig(**plain)
    _check_fractions(config)
    size = config.data.get("image_size")
    if size is not None and config.data["_target_"] in _ARGUMENTS:
        check_image_fits(config.model, *(size if isinstance(size, list) else (size, size)))
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
    key = prefix + ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "unexpected_keyword_argument":
        return f"{key}: no such setting here; remove it"
    if detail["type"] == "missing":
        return f"{key}: no value given; add {key}=VALUE to the command"
    allowed = detail["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    return f"{key}={detail['input']}: {allowed}"


def _target_problems(group: str, component: Any) -> list[str]:
    target = component.get("_target_") if isinstance(component, dict) else component
    if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")):
        return [f"{group}._target_={target}: should be the dotted path of a function, e.g. my_package.my_function"]
    package = target.split(".")[0]
    if importlib.util.find_spec(package) is None:
        return [
            f"{group}._target_={target}: there is no module {package} on the Python path; install it or set PYTHONPATH"
        ]
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


def check_image_fits(model: dict[str, Any], height: int, width: int) -> None:
    """Check that images of a size pass the network, as far as its settings tell.

    Raises:
        ConfigError: if they are too small for this project's `cnn`.
    """
    if model["_target_"] != "cnn_sweeps.models.build_cnn":
        return
    num_blocks, padding = len(model["filters"]), model["padding"]
    smallest = smallest_cnn_image(num_blocks, padding)
    if min(height, width) < smallest:
        raise ConfigError(
            f"images of {height}x{width} pixels: {num_blocks} blocks with model.padding={padding} need at least "
            f"{smallest} pixels a side; set a larger data.image_size, shorten model.filters or set model.padding=same"
        )
