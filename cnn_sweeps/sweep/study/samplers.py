"""Builds Optuna's samplers and pruners from the configuration."""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from hydra.errors import InstantiationException
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.settings.targets import build
from cnn_sweeps.sweep.settings import SweepSettings
from cnn_sweeps.sweep.space import SearchSpace

_NEEDED_PACKAGES = {"GPSampler": "torch"}  # it fails only after its first, random trials
_CONSTANT_SEED = ("QMCSampler",)  # draws one sequence for the whole study


class RoundedSampler(BaseSampler):
    """Rounds what another sampler suggests, so that study, record and command have the same short number."""

    def __init__(self, sampler: BaseSampler) -> None:
        """Take the sampler whose suggestions are rounded."""
        self._sampler = sampler

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the search space of the other sampler."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Suggest parameters that depend on each other."""
        suggested = self._sampler.sample_relative(study, trial, search_space)
        return {name: _rounded(value, search_space[name]) for name, value in suggested.items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Suggest a parameter by itself."""
        suggested = self._sampler.sample_independent(study, trial, param_name, param_distribution)
        return _rounded(suggested, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Tell the other sampler that a trial begins."""
        self._sampler.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Tell the other sampler that a trial has ended."""
        self._sampler.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Reseed the other sampler."""
        self._sampler.reseed_rng()


def _rounded(value: Any, distribution: BaseDistribution) -> Any:
    """Round a number to four significant digits, within its interval."""
    if not isinstance(distribution, FloatDistribution) or distribution.step is not None:
        return value
    return min(max(float(f"{value:.4g}"), distribution.low), distribution.high)


def check_sampler(settings: SweepSettings, space: SearchSpace) -> None:
    """Let the sampler suggest a trial of a study in memory, to find out at once whether it can.

    Raises:
        ConfigError: if its package is not installed, or it cannot be built, or cannot search the space.
    """
    target = str(settings.sampler.get("_target_"))
    for sampler, package in _NEEDED_PACKAGES.items():
        if target.endswith(sampler) and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"hydra.sweeper.sampler._target_={target}: this sampler needs {package}; pip install {package}"
            )
    first = build_sampler(settings.sampler, 0)
    try:
        optuna.create_study(directions=settings.direction, sampler=first).ask(dict(space.distributions))
    except (ImportError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"hydra.sweeper.sampler._target_={target}: this sampler cannot search this space ({reason}); choose "
            "another hydra/sweeper/sampler, or change its settings or the space"
        ) from error


def build_sampler(config: dict[str, Any], num_started: int) -> BaseSampler:
    """Build the sampler of the next trial; its seed depends on the configured seed and the number of started trials.

    So a sweep that is interrupted and continued suggests the same trials as without interruption.

    Raises:
        ConfigError: if it cannot be built.
    """
    reseed = not str(config.get("_target_")).endswith(_CONSTANT_SEED)
    given = _given(_reseeded(config, num_started) if reseed else config)
    return RoundedSampler(build_setting("sampler", given, BaseSampler, "Optuna sampler"))


def build_pruner(config: dict[str, Any]) -> BasePruner:
    """Build the pruner.

    Raises:
        ConfigError: if it cannot be built.
    """
    pruner: BasePruner = build_setting("pruner", _given(config), BasePruner, "Optuna pruner")
    return pruner


def build_setting(name: str, values: dict[str, Any], kind: type, what: str) -> Any:
    """Build the object that the setting `hydra.sweeper.NAME` describes.

    Raises:
        ConfigError: if it cannot be built, or is not of class `kind`, which messages call `what`.
    """
    told = f"hydra.sweeper.{name}._target_={values.get('_target_')}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            built = build(values)
    except InstantiationException as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ConfigError(f"{told}: cannot be built ({reason}); correct hydra.sweeper.{name}") from error
    if not isinstance(built, kind):
        raise ConfigError(f"{told}: this is no {what}; name the class of one")
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
