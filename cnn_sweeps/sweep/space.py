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
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from cnn_sweeps.errors import ConfigError

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution
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

    distributions: dict[str, Distribution]
    fixed: list[str]
    is_named: bool
    listed: dict[str, list[Any]]

    @property
    def num_points(self) -> int | None:
        """Number of different points; None if a key has a continuous interval."""
        sizes = [size for each in self.distributions.values() if (size := _num_values(each)) is not None]
        return math.prod(sizes) if len(sizes) == len(self.distributions) else None

    def overrides_of(self, point: Mapping[str, Any]) -> list[str]:
        """Give the overrides of a trial."""
        return [*(override_text(key, value) for key, value in point.items()), *self.fixed]

    def grid(self) -> Iterator[dict[str, Any]]:
        """Give every point, the last key varying fastest.

        Raises:
            ConfigError: if a key has a continuous interval, or there are more than 10,000 points.
        """
        if self.num_points is None:
            continuous = [key for key, values in self.distributions.items() if _num_values(values) is None]
            raise ConfigError(
                f"{', '.join(continuous)}: a grid needs listed values, not an interval; "
                "use range(start,stop,step) or choice(...), or another hydra/sweeper/sampler"
            )
        if self.num_points > _LARGEST_GRID:
            raise ConfigError(
                f"{', '.join(self.distributions)}: a grid of {self.num_points:,} trials; allowed: {_LARGEST_GRID:,}; "
                "list fewer values, or set hydra.sweeper.n_trials to have a sampler choose"
            )
        values = [
            self.listed.get(key) or [each.low + i * each.step for i in range(_num_values(each) or 0)]  # type: ignore[union-attr, operator]
            for key, each in self.distributions.items()
        ]
        for point in itertools.product(*values):
            yield dict(zip(self.distributions, point, strict=True))


def parse_search_space(
    arguments: Sequence[str], params: Mapping[str, Any], config_loader: ConfigLoader, *, is_preset_chosen: bool
) -> SearchSpace:
    """Read what to vary: the keys that the command line gives several values or, without any, the configuration's.

    Args:
        arguments: the command line's overrides, without those of Hydra itself.
        params: the configuration's `hydra.sweeper.params`, override strings by key.
        config_loader: expands `glob(...)`.
        is_preset_chosen: somebody chose `params`, so that they are varied beside the keys that the command line names.

    Raises:
        ConfigError: if a key's values are empty, or contradict themselves.
    """
    parser = OverridesParser.create(config_loader)
    last = {(each.key_or_group, each.package, each.is_delete()): each for each in parser.parse_overrides([*arguments])}
    given = list(last.values())
    configured = parser.parse_overrides([f"{key}={_as_text(value)}" for key, value in params.items()])
    swept = {each.get_key_element(): each for each in given if each.is_sweep_override()}
    is_named, given_keys = bool(swept), {each.key_or_group for each in given}
    fixed = [each for each in given if not each.is_sweep_override()]
    fixed_keys = {each.key_or_group for each in fixed}
    fixed += [each for each in configured if not each.is_sweep_override() and each.key_or_group not in given_keys]
    if is_preset_chosen or not swept:
        preset = [each for each in configured if each.is_sweep_override() and each.key_or_group not in fixed_keys]
        swept = {each.get_key_element(): each for each in preset} | swept
    return SearchSpace(
        distributions={key: _distribution(each) for key, each in swept.items()},
        fixed=[str(each.input_line) for each in fixed],
        is_named=is_named,
        listed={key: _plain_values(each.sweep_iterator()) for key, each in swept.items() if each.is_discrete_sweep()},
    )


def override_text(key: str, value: Any) -> str:
    """Give the override that sets a key to a value of its distribution."""
    if value is None or isinstance(value, bool):
        return f"{key}={'null' if value is None else str(value).lower()}"
    return f"{key}={value!r}" if isinstance(value, float) else f"{key}={value}"


def setting_name(key: str) -> str:
    """Give the setting that a key of a search space sets: `++model.l2` sets model.l2, `optimizer@other` optimizer."""
    return key.lstrip("+").partition("@")[0].replace("/", ".")


def by_setting(point: Mapping[str, Any]) -> dict[str, Any]:
    """Give a point's values by the settings that its keys set."""
    return {setting_name(key): value for key, value in point.items()}


def find_value(value: Any, distribution: Distribution) -> Any:
    """Give the distribution's own form of a configuration's value.

    Raises:
        ValueError: if it is none of the distribution's values.
    """
    if isinstance(distribution, CategoricalDistribution):
        for choice in distribution.choices:
            is_text = isinstance(choice, str)
            meaning = OverridesParser.create().parse_override(f"key={choice}").value() if is_text else choice
            if meaning == value and isinstance(meaning, bool) == isinstance(value, bool):
                return choice
        raise ValueError(f"{value} is not among {', '.join(str(choice) for choice in distribution.choices)}")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not distribution.low <= value <= distribution.high:
        raise ValueError(f"{value} is not in {distribution.low} to {distribution.high}")
    steps = (value - distribution.low) / distribution.step if distribution.step else 0.0
    if not math.isclose(steps, round(steps), abs_tol=1e-9):
        raise ValueError(f"{value} is not {distribution.low} plus a multiple of {distribution.step}")
    return int(value) if isinstance(distribution, IntDistribution) else float(value)


def extreme_values(distribution: Distribution) -> list[Any]:
    """Give the values that stand for all: both ends of numbers, every choice."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    return list(dict.fromkeys([distribution.low, distribution.high]))


def _num_values(distribution: Distribution) -> int | None:
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    return None if distribution.step is None else round((distribution.high - distribution.low) / distribution.step) + 1


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return Transformer.str(OmegaConf.to_container(OmegaConf.create([value]))[0])  # type: ignore[index]


def _distribution(override: Override) -> Distribution:
    value = override.value()
    if isinstance(value, IntervalSweep):
        return _interval(override, value)
    values = _listed_values(override, value)
    if not values:
        raise ConfigError(f"{override.input_line}: holds no value; name at least one")
    if not isinstance(value, RangeSweep) or len(values) == 1:
        return CategoricalDistribution(values)
    low, high, step = min(values), max(values), abs(value.step)
    if isinstance(low, int):
        return IntDistribution(low, high, step=int(step))
    return FloatDistribution(low, high, step=float(step))


def _interval(override: Override, interval: IntervalSweep) -> Distribution:
    low, high, log = interval.start, interval.end, "log" in interval.tags
    assert low is not None
    assert high is not None
    if not (math.isfinite(low) and math.isfinite(high)) or low > high:
        raise ConfigError(
            f"{override.input_line}: an empty interval; it goes from the lower to the higher finite number"
        )
    if log and low <= 0:
        raise ConfigError(f"{override.input_line}: a log interval must begin above 0")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _listed_values(override: Override, value: Any) -> list[Any]:
    """Give the values in the order in which they were listed, also if they are to be tried in another one."""
    if isinstance(value, RangeSweep):
        ends = (value.start, value.stop, value.step)
        if not all(end is not None and math.isfinite(end) for end in ends) or value.step == 0:
            raise ConfigError(f"{override.input_line}: start, stop and step must be finite numbers, the step not 0")
        return _plain_values(value.range())
    return _plain_values(value.list if isinstance(value, ChoiceSweep) else override.sweep_iterator())


def _plain_values(elements: Iterable[Any]) -> list[Any]:
    """Give each value once, `true` and 1 being two; what is no number, truth value or null, as its override's text."""
    values = [element if _is_plain(element) else Transformer.str(element) for element in elements]
    return list({(isinstance(value, bool), value): value for value in values}.values())


def _is_plain(element: Any) -> bool:
    return element is None or isinstance(element, (bool, int, float))
