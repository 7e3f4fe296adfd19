"""Optuna's samplers and pruners as the configuration describes them."""

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

_NEEDED_PACKAGES = {"GPSampler": "torch"}  # needed only after its first, random trials
_CONSTANT_SEED = ("QMCSampler",)  # draws one sequence for the whole study


class RoundedSampler(BaseSampler):
    """Rounds what another sampler suggests, so that study, record and command have a number of the same few digits."""

    def __init__(self, sampler: BaseSampler) -> None:
        """Ask `sampler`."""
        self._sampler = sampler

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As the other one has it; so are those that follow, but for the rounding."""
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
        """A trial begins."""
        self._sampler.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """A trial has ended."""
        self._sampler.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Draw other numbers from now on."""
        self._sampler.reseed_rng()


def _rounded(value: Any, distribution: BaseDistribution) -> Any:
    """Round a number of an interval to four significant digits, or to the end of the interval if that is nearer."""
    if not isinstance(distribution, FloatDistribution) or distribution.step is not None:
        return value
    return min(max(float(f"{value:.4g}"), distribution.low), distribution.high)


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
    return RoundedSampler(build_setting("sampler", given, BaseSampler, "Optuna sampler"))


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
