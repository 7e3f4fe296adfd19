"""The settings of `hydra/launcher=dask`: types and ranges; imports no Dask."""

from __future__ import annotations

import re
from typing import Annotated, Any

from omegaconf import OmegaConf
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, Strict
from pydantic.dataclasses import dataclass

from cnn_sweeps.sweep.settings import Count, NumJobsSetting, Seconds, check_values

_ADDRESS = re.compile(r"^(tcp|tls)://(\[[0-9a-fA-F:]+\]|[\w.-]+):\d{1,5}$")


def _check_address(address: str) -> str:
    if not _ADDRESS.match(address):
        raise ValueError("should be tcp://HOST:PORT or tls://HOST:PORT, as the scheduler says when it starts")
    return address


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DaskSettings:
    """What `hydra/launcher=dask` is told; the comments are in `hydra_plugins/cnn_sweeps/_config.py`."""

    address: Annotated[str, AfterValidator(_check_address)] | None
    n_jobs: NumJobsSetting
    resources: Annotated[
        dict[str, Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]],
        BeforeValidator(lambda value: {} if value is None else value),
    ]
    workers: list[str] | None
    wait_s: Seconds
    max_worker_mb: Count | None
    environment: list[str]


def check_dask_settings(values: dict[str, Any]) -> DaskSettings:
    """Check what Hydra composed under `hydra.launcher`.

    Raises:
        ConfigError: naming every setting that is of the wrong type or out of range.
    """
    plain = {key: OmegaConf.to_object(each) if OmegaConf.is_config(each) else each for key, each in values.items()}
    return check_values(DaskSettings, plain, "hydra.launcher")
