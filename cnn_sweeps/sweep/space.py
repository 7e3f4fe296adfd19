"""The search space: turns Hydra's override strings into Optuna distributions, and Optuna's values into overrides."""

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
    """What a sweep varies, and what it keeps fixed.

    Attributes:
        distributions: by varied key, in the order of the command line or configuration.
        fixed: overrides that every trial gets.
        is_named: whether the command line names a varied key.
        listed: for keys with listed values, these values in their order.
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
        """Return the overrides of a trial."""
        return [*(override_text(key, value) for key, value in point.items()), *self.fixed]

    def grid(self) -> Iterator[dict[str, Any]]:
        """Yield every point; the last key varies fastest.

        Raises:
            ConfigError: if a key has a continuous interval, or there are more than 10,000 points.
        """
        if self.num_points is None:
            continuous = [key for key, values in self.distributions.items() if _num_values(values) is None]
            raise ConfigError(
                f"{', '.join(continuous)}: a grid cannot have an interval; list the values with "
                "range(start,stop,step) or choice(...), or choose another hydra/sweeper/sampler"
            )
        if self.num_points > _LARGEST_GRID:
            raise ConfigError(
                f"{', '.join(self.distributions)}: this grid has {self.num_points:,} trials; at most {_LARGEST_GRID:,} "
                "are allowed; list fewer values, or set hydra.sweeper.n_trials and let a sampler choose"
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
    """Read what to vary: the keys with several values on the command line or, if there are none, in `params`.

    Args:
        arguments: the command line's overrides, without those of Hydra itself.
        params: the configuration's `hydra.sweeper.params`, override strings by key.
        config_loader: expands `glob(...)`.
        is_preset_chosen: whether the user chose `params`; then its keys are varied, too.

    Raises:
        ConfigError: if a key has no values, or an empty interval.
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
    """Return the override that sets a key to a value of its distribution."""
    if value is None or isinstance(value, bool):
        return f"{key}={'null' if value is None else str(value).lower()}"
    return f"{key}={value!r}" if isinstance(value, float) else f"{key}={value}"


def setting_name(key: str) -> str:
    """Return the setting that a key of a search space sets: `++model.l2` sets model.l2, `optimizer@other` optimizer."""
    return key.lstrip("+").partition("@")[0].replace("/", ".")


def by_setting(point: Mapping[str, Any]) -> dict[str, Any]:
    """Return a point's values by the settings that its keys set."""
    return {setting_name(key): value for key, value in point.items()}


def find_value(value: Any, distribution: Distribution) -> Any:
    """Return a configuration's value in the form that the distribution has it.

    Raises:
        ValueError: if it is none of the distribution's values.
    """
    if isinstance(distribution, CategoricalDistribution):
        for choice in distribution.choices:
            is_text = isinstance(choice, str)
            meaning = OverridesParser.create().parse_override(f"key={choice}").value() if is_text else choice
            if meaning == value and isinstance(meaning, bool) == isinstance(value, bool):
                return choice
        raise ValueError(f"{value} is none of {', '.join(str(choice) for choice in distribution.choices)}")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not distribution.low <= value <= distribution.high:
        raise ValueError(f"{value} is not between {distribution.low} and {distribution.high}")
    steps = (value - distribution.low) / distribution.step if distribution.step else 0.0
    if not math.isclose(steps, round(steps), abs_tol=1e-9):
        raise ValueError(f"{value} is not {distribution.low} plus a multiple of {distribution.step}")
    return int(value) if isinstance(distribution, IntDistribution) else float(value)


def extreme_values(distribution: Distribution) -> list[Any]:
    """Return the values to check for all others: both ends of numbers, every choice."""
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
        raise ConfigError(f"{override.input_line}: there is no value; name at least one")
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
        raise ConfigError(f"{override.input_line}: the interval is empty; name two finite numbers, the lower one first")
    if log and low <= 0:
        raise ConfigError(f"{override.input_line}: an interval with a log scale must begin above 0; raise it")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _listed_values(override: Override, value: Any) -> list[Any]:
    """Return the values in the order of the list, even if they will be tried in another order."""
    if isinstance(value, RangeSweep):
        ends = (value.start, value.stop, value.step)
        if not all(end is not None and math.isfinite(end) for end in ends) or value.step == 0:
            raise ConfigError(f"{override.input_line}: start, stop and step must be finite numbers, and step not 0")
        return _plain_values(value.range())
    return _plain_values(value.list if isinstance(value, ChoiceSweep) else override.sweep_iterator())


def _plain_values(elements: Iterable[Any]) -> list[Any]:
    """Return each value once; `true` and 1 are two values. A value other than number, boolean or null becomes text."""
    values = [element if _is_plain(element) else Transformer.str(element) for element in elements]
    return list({(isinstance(value, bool), value): value for value in values}.values())


def _is_plain(element: Any) -> bool:
    return element is None or isinstance(element, (bool, int, float))
