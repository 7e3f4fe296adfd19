"""The settings of `hydra/launcher=workers` and `dask`: types and ranges.

`hydra_plugins/cnn_sweeps/_config.py` describes them.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, PlainValidator, Strict
from pydantic.dataclasses import dataclass

from cnn_sweeps.sweep.settings import Count, NumJobsSetting, Seconds

_ADDRESS = re.compile(r"^(tcp|tls)://(\[[0-9a-fA-F:]+\]|[\w.-]+):\d{1,5}$")


def _check_gpus(gpus: Any) -> Any:
    is_list = isinstance(gpus, list) and all(type(each) is int for each in gpus) and len(set(gpus)) == len(gpus)
    if gpus is not None and not is_list:
        raise ValueError("should be a list of numbers, e.g. [0,1], or null for all")
    return gpus


def _check_address(address: str) -> str:
    if not _ADDRESS.match(address):
        raise ValueError("should be tcp://HOST:PORT or tls://HOST:PORT, as the scheduler says when it starts")
    return address


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class WorkersSettings:
    """The settings of `hydra/launcher=workers`."""

    n_jobs: NumJobsSetting
    gpus: Annotated[list[int] | None, PlainValidator(_check_gpus)] = None
    jobs_per_gpu: Count = 1
    gpus_per_job: Count = 1
    max_worker_mb: Count | None = None


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DaskSettings:
    """The settings of `hydra/launcher=dask`."""

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
