"""Optuna's samplers and pruners as the configuration describes them."""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from typing import Any

import optuna
from hydra.errors import InstantiationException
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.settings.targets import build
from cnn_sweeps.sweep.settings import SweepSettings
from cnn_sweeps.sweep.space import SearchSpace

_NEEDED_PACKAGES = {"GPSampler": "torch"}  # needed only after its first, random trials
_CONSTANT_SEED = ("QMCSampler",)  # draws one sequence for the whole study


def check_sampler(settings: SweepSettings, space: SearchSpace) -> None:
    """Have the sampler suggest a trial of a study that is thrown away, so that what it cannot do is told at once.

    Raises:
        ConfigError: if its package is not installed, or it cannot be built or search the space.
    """
    target = str(settings.sampler.get("_target_"))
    for sampler, package in _NEEDED_PACKAGES.items():
        if target.endswith(sampler) and importlib.util.find_spec(package) is None:
            raise ConfigError(f"hydra.sweeper.sampler._target_={target}: needs {package}; pip install {package}")
    first = build_sampler(settings.sampler, 0)
    try:
        optuna.create_study(directions=settings.direction, sampler=first).ask(dict(space.distributions))
    except (ImportError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"hydra.sweeper.sampler._target_={target}: cannot search this space ({reason}); choose another "
            "hydra/sweeper/sampler, or change its settings or the space"
        ) from error


def build_sampler(config: dict[str, Any], num_started: int) -> BaseSampler:
    """Build the sampler of the next trial, its seed a function of the given one and of how many trials were started.

    So a sweep that is interrupted and continued tries what it would have tried.

    Raises:
        ConfigError: if it cannot be built.
    """
    reseed = not str(config.get("_target_")).endswith(_CONSTANT_SEED)
    given = _given(_reseeded(config, num_started) if reseed else config)
    sampler: BaseSampler = build_setting("sampler", given, BaseSampler, "Optuna sampler")
    return sampler


def build_pruner(config: dict[str, Any]) -> BasePruner:
    """Build the pruner, likewise."""
    pruner: BasePruner = build_setting("pruner", _given(config), BasePruner, "Optuna pruner")
    return pruner


def build_setting(name: str, values: dict[str, Any], kind: type, what: str) -> Any:
    """Build what the setting of a name below `hydra.sweeper` describes.

    Raises:
        ConfigError: if it cannot be built, or is not of the kind, called `what`.
    """
    told = f"hydra.sweeper.{name}._target_={values.get('_target_')}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            built = build(values)
    except InstantiationException as error:
        raise ConfigError(f"{told}: cannot be built ({' '.join(str(error.__cause__ or error).split())})") from error
    if not isinstance(built, kind):
        raise ConfigError(f"{told}: is no {what}")
    return built


def _given(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if value is not None}


def _reseeded(config: dict[str, Any], num_started: int) -> dict[str, Any]:
    changed = {
        key: _reseeded(each, num_started) if isinstance(each, dict) and "_target_" in each else each
        for key, each in config.items()
    }
    if isinstance(config.get("seed"), int):
        digest = hashlib.blake2b(f"{config['seed']} {num_started}".encode(), digest_size=4).digest()
        changed["seed"] = int.from_bytes(digest)
    return changed
