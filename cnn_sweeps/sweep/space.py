"""What a sweep searches: Hydra's override strings as Optuna distributions, and Optuna's values as override strings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Transformer
from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from cnn_sweeps.errors import ConfigError

_LARGEST_GRID = 10_000


@dataclass(frozen=True)
class SearchSpace:
    """What a sweep varies and what it keeps.

    Attributes:
        distributions: of each varied key, in the order in which they were named.
        fixed: overrides that every trial gets.
        is_named: whether the command line named a varied key, rather than the configuration alone.
        listed: the values of keys whose values were all listed, in their order.
    """

    distributions: dict[str, BaseDistribution]
    fixed: list[str]
    is_named: bool
    listed: dict[str, list[Any]]

    @property
    def num_points(self) -> int | None:
        """Number of different points; None if a key has a continuous interval."""
        sizes = [num_values(distribution) for distribution in self.distributions.values()]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    def overrides_of(self, point: Mapping[str, Any]) -> list[str]:
        """Give the overrides of a trial."""
        return [*(override_text(key, value) for key, value in point.items()), *self.fixed]

    def grid(self) -> Iterator[dict[str, Any]]:
        """Give every point, the last key varying fastest.

        Raises:
            ConfigError: if a key has a continuous interval, or there are more than 10,000 points.
        """
        if self.num_points is None:
            continuous = [key for key, values in self.distributions.items() if num_values(values) is None]
            raise ConfigError(
                f"{', '.join(continuous)}: a grid needs listed values, not an interval; "
                "use range(start,stop,step) or choice(...), or another hydra/sweeper/sampler"
            )
        if self.num_points > _LARGEST_GRID:
            raise ConfigError(
                f"{', '.join(self.distributions)}: a grid of {self.num_points:,} trials; allowed: {_LARGEST_GRID:,}; "
                "list fewer values, or set hydra.sweeper.n_trials to have a sampler choose"
            )
        values = [self.listed.get(key) or _values(values) for key, values in self.distributions.items()]
        for point in itertools.product(*values):
            yield dict(zip(self.distributions, point, strict=True))


def parse_search_space(
    arguments: Sequence[str],
    params: Mapping[str, Any],
    config_loader: ConfigLoader,
    *,
    is_preset_chosen: bool,
) -> SearchSpace:
    """Read what to vary: the keys that the command line gives several values or, without any, the configuration's.

    Args:
        arguments: the command line's overrides, without those of Hydra itself.
        params: the configuration's `hydra.sweeper.params`, override strings by key.
        config_loader: expands `glob(...)`.
        is_preset_chosen: the command line chose `params` too, so that they are varied beside the keys it names.

    Raises:
        ConfigError: if a key's values are empty, or contradict themselves.
    """
    parser = OverridesParser.create(config_loader)
    parsed = parser.parse_overrides(list(arguments))
    given = list(
        {(each.key_or_group, each.package, each.is_delete()): each for each in parsed}.values()
    )  # the last one counts
    swept = {override.get_key_element(): override for override in given if override.is_sweep_override()}
    fixed = [override for override in given if not override.is_sweep_override()]
    fixed_keys = {override.key_or_group for override in fixed}

    configured = parser.parse_overrides([f"{key}={_as_text(value)}" for key, value in params.items()])
    given_keys = {override.key_or_group for override in given}
    fixed += [each for each in configured if not each.is_sweep_override() and each.key_or_group not in given_keys]
    if is_preset_chosen or not swept:
        preset = {each.get_key_element(): each for each in configured if each.is_sweep_override()}
        swept = {key: each for key, each in preset.items() if each.key_or_group not in fixed_keys} | swept
    return SearchSpace(
        distributions={key: _distribution(override) for key, override in swept.items()},
        fixed=[str(override.input_line) for override in fixed],
        is_named=any(override.is_sweep_override() for override in given),
        listed={
            key: _plain_values(override.sweep_iterator())
            for key, override in swept.items()
            if override.is_discrete_sweep()
        },
    )


def override_text(key: str, value: Any) -> str:
    """Give the override that sets a key to a value of its distribution."""
    if value is None:
        return f"{key}=null"
    if isinstance(value, bool):
        return f"{key}={str(value).lower()}"
    return f"{key}={value!r}" if isinstance(value, float) else f"{key}={value}"


def setting_name(key: str) -> str:
    """Give the setting that a key of a search space sets: `++model.l2` sets model.l2, `optimizer@other` optimizer."""
    return key.lstrip("+").partition("@")[0].replace("/", ".")


def by_setting(point: Mapping[str, Any]) -> dict[str, Any]:
    """Give a point's values by the settings that its keys set."""
    return {setting_name(key): value for key, value in point.items()}


def find_value(value: Any, distribution: BaseDistribution) -> Any:
    """Give the distribution's own form of a configuration's value.

    Raises:
        ValueError: if it is none of the distribution's values.
    """
    if isinstance(distribution, CategoricalDistribution):
        for choice in distribution.choices:
            if _is_same(override_value(choice), value):
                return choice
        raise ValueError(f"{value} is not among {', '.join(str(choice) for choice in distribution.choices)}")
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not distribution.low <= value <= distribution.high:
        raise ValueError(f"{value} is not in {distribution.low} to {distribution.high}")
    steps = (value - distribution.low) / distribution.step if distribution.step else 0.0
    if not math.isclose(steps, round(steps), abs_tol=1e-9):
        raise ValueError(f"{value} is not {distribution.low} plus a multiple of {distribution.step}")
    return int(value) if isinstance(distribution, IntDistribution) else float(value)


def override_value(choice: Any) -> Any:
    """Give the configuration's value that a choice stands for."""
    return OverridesParser.create().parse_override(f"key={choice}").value() if isinstance(choice, str) else choice


def extreme_values(distribution: BaseDistribution) -> list[Any]:
    """Give the values that stand for all: both ends of numbers, every choice."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    return list(dict.fromkeys([distribution.low, distribution.high]))


def num_values(distribution: BaseDistribution) -> int | None:
    """Count the values of a distribution; None if it is continuous."""
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    return None if distribution.step is None else round((distribution.high - distribution.low) / distribution.step) + 1


def _values(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    assert distribution.step is not None
    return [distribution.low + i * distribution.step for i in range(num_values(distribution) or 0)]


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return Transformer.str(OmegaConf.to_container(OmegaConf.create([value]))[0])  # type: ignore[index]


def _distribution(override: Override) -> BaseDistribution:
    value = override.value()
    if isinstance(value, IntervalSweep):
        return _interval(override, value)
    values = _listed_values(override)
    if not values:
        raise ConfigError(f"{override.input_line}: holds no value; name at least one")
    if not isinstance(value, RangeSweep) or len(values) == 1:
        return CategoricalDistribution(values)
    low, high, step = min(values), max(values), abs(value.step)
    if isinstance(low, int):
        return IntDistribution(low, high, step=int(step))
    return FloatDistribution(low, high, step=float(step))


def _interval(override: Override, interval: IntervalSweep) -> BaseDistribution:
    assert interval.start is not None
    assert interval.end is not None
    low, high, log = interval.start, interval.end, "log" in interval.tags
    if not (math.isfinite(low) and math.isfinite(high)) or low > high:
        raise ConfigError(
            f"{override.input_line}: an empty interval; it goes from the lower to the higher finite number"
        )
    if log and low <= 0:
        raise ConfigError(f"{override.input_line}: a log interval must begin above 0")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _listed_values(override: Override) -> list[Any]:
    """Give the values in the order in which they were listed, also if they are to be tried in another one."""
    value = override.value()
    if isinstance(value, RangeSweep):
        ends = (value.start, value.stop, value.step)
        if not all(end is not None and math.isfinite(end) for end in ends) or value.step == 0:
            raise ConfigError(f"{override.input_line}: start, stop and step must be finite numbers, the step not 0")
        return _plain_values(value.range())
    return _plain_values(value.list if isinstance(value, ChoiceSweep) else override.sweep_iterator())


def _plain_values(elements: Iterable[Any]) -> list[Any]:
    """Give each value once; `true` and 1 are two."""
    values = [_plain(element) for element in elements]
    return list({(isinstance(value, bool), value): value for value in values}.values())


def _plain(element: Any) -> Any:
    """Keep numbers, truth values and null; give all else as the text that stands for it in an override."""
    if element is None or isinstance(element, (bool, int, float)):
        return element
    return Transformer.str(element)


def _is_same(meaning: Any, value: Any) -> bool:
    return bool(meaning == value) and isinstance(meaning, bool) == isinstance(value, bool)
