"""The sweeper's own settings, `hydra.sweeper.*`: types and ranges."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    Strict,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.sweep.study.address import StudyAddress, parse_address

Direction = Literal["minimize", "maximize"]
NumJobs = int | Literal["auto"]
Count = Annotated[int, Strict(), Field(ge=1)]
Seconds = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
DEFAULT_NUM_TRIALS = 20
Settings = TypeVar("Settings")


def _check_num_jobs(value: Any) -> Any:
    if value != "auto" and not (type(value) is int and value >= 1):
        raise ValueError("should be auto or a number of trials at once, at least 1")
    return value


def _check_study_name(value: str) -> str:
    """Check that it can name a folder, and that no command reads it as an option."""
    if not re.fullmatch(r"[\w.:@+-]+", value) or value in (".", "..") or value.startswith("-"):
        raise ValueError(
            "should be a folder's name of letters, digits and . : @ + - _; it cannot be . or .., or begin with -"
        )
    return value


NumJobsSetting = Annotated[NumJobs, PlainValidator(_check_num_jobs)]
NumJobsOrDefault = Annotated[
    NumJobs | None, PlainValidator(lambda value: None if value is None else _check_num_jobs(value))
]


@dataclass(config=ConfigDict(extra="forbid"))
class SweepSettings:
    """The settings of `hydra/sweeper=optuna`; `hydra_plugins/cnn_sweeps/_config.py` describes them."""

    sampler: dict[str, Any]
    pruner: dict[str, Any]
    direction: Annotated[
        list[Direction],
        BeforeValidator(lambda value: value if isinstance(value, list) else [value]),
        Field(min_length=1),
    ]
    storage: str | dict[str, Any] | None
    study_name: Annotated[str, AfterValidator(_check_study_name)] | None
    n_trials: Count | None
    n_jobs: NumJobsOrDefault
    max_failure_rate: Annotated[float, Strict(), Field(ge=0, le=1)]
    params: dict[str, Any]
    custom_search_space: str | None
    preset_group: str | None
    default_preset: str | None
    enqueue: list[dict[str, Any]]
    deterministic: Annotated[bool, Strict()]
    max_retries: Annotated[int, Strict(), Field(ge=0)]
    max_identical_failures: Count
    trial_timeout_s: Seconds | None
    timeout_s: Seconds | None
    on_change: Literal["refuse", "continue"]
    application: dict[str, Any] | None

    @property
    def address(self) -> StudyAddress:
        """Where the study is."""
        return parse_address(self.storage, self.study_name or "")


def check_settings(values: dict[str, Any]) -> SweepSettings:
    """Check what Hydra composed under `hydra.sweeper`.

    Raises:
        ConfigError: names every setting that has the wrong type or is out of range.
    """
    values = {key: value for key, value in values.items() if not key.startswith("_")}
    values |= {"params": values.get("params") or {}, "enqueue": values.get("enqueue") or []}
    return check_values(SweepSettings, values, "hydra.sweeper")


def check_values(kind: type[Settings], values: dict[str, Any], prefix: str) -> Settings:
    """Check the values below the key `prefix`, and return them as settings of a class.

    Raises:
        ConfigError: names every setting that has the wrong type or is out of range.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_problem(detail, prefix) for detail in error.errors())) from error


def _problem(detail: Any, prefix: str) -> str:
    key = ".".join([prefix, *map(str, detail["loc"][:1])])
    return f"{key}={detail['input']}: {detail['msg'].removeprefix('Value error, ').replace('Input should', 'should')}"
