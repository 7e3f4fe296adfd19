"""Describes the effect of each searched setting: where the good trials are, and in which direction values improve."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial
from scipy import stats

from cnn_sweeps.selection.charts.drawn_study import FEWEST_TRIALS, Study
from cnn_sweeps.text.names import cut_list, for_terminal

_MOST_CHOICES = 6


class Effect(NamedTuple):
    """A setting's effect, in words."""

    name: str
    searched: str
    best: str  # the champion's value
    good: str  # values of the best quarter of the trials
    tendency: str
    importance: str


def describe_effects(study: Study, importance: Mapping[str, float]) -> list[Effect]:
    """Describe each setting that varies, the most important first, in a study with one objective."""
    keys = sorted(study.varied, key=lambda key: -importance.get(key, 0.0))
    return [_describe(study, key, importance.get(key)) for key in keys]


def _describe(study: Study, key: str, importance: float | None) -> Effect:
    trials = [trial for trial in study.ranking if key in trial.params]
    distribution, best = study.searched(key), study.ranking[0].params.get(key, "-")
    is_categorical = isinstance(distribution, CategoricalDistribution)
    good = trials[: len(trials) // 4] if len(trials) >= FEWEST_TRIALS else []
    tendency = _describe_choices(trials, key) if is_categorical else _describe_direction(trials, key, study.minimize)
    return Effect(
        for_terminal(key),
        _describe_space(distribution),
        describe_value(best),
        _describe_good(good, key, is_categorical=is_categorical),
        tendency,
        "" if importance is None else f"{importance:.0%}",
    )


def _describe_space(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return cut_list(list(map(describe_value, distribution.choices)), ", ", _MOST_CHOICES)
    low, high = getattr(distribution, "low", math.nan), getattr(distribution, "high", math.nan)
    return f"{describe_value(low)} to {describe_value(high)}{', log' if getattr(distribution, 'log', False) else ''}"


def _describe_good(trials: Sequence[FrozenTrial], key: str, *, is_categorical: bool) -> str:
    values = [trial.params[key] for trial in trials]
    if not values:
        return ""
    if is_categorical:
        told = [f"{text} ({number})" for text, number in Counter(map(describe_value, values)).most_common()]
        return cut_list(told, ", ", _MOST_CHOICES)
    return f"{min(values):.3g} to {max(values):.3g}"


def _describe_choices(trials: Sequence[FrozenTrial], key: str) -> str:
    by_choice: dict[str, list[float]] = {}
    for trial in trials:
        by_choice.setdefault(describe_value(trial.params[key]), []).append(trial.values[0])
    told = [f"{choice}: median {np.median(values):.4g} of {len(values)}" for choice, values in by_choice.items()]
    return cut_list(told, "; ", _MOST_CHOICES)


def _describe_direction(trials: Sequence[FrozenTrial], key: str, minimize: bool) -> str:
    """Say in which direction the value improves, by Spearman's rank correlation and its 95 % interval.

    The interval is that of D. G. Bonett and T. A. Wright, Sample size requirements for estimating Pearson, Kendall and
    Spearman correlations, 2000.
    """
    if len(trials) < FEWEST_TRIALS:
        return f"too few trials to say: at least {FEWEST_TRIALS} are needed"
    values = [trial.values[0] for trial in trials]
    if len(set(values)) == 1:
        return "all values are equal"
    correlation = float(stats.spearmanr([trial.params[key] for trial in trials], values).statistic)
    error = math.sqrt((1 + correlation**2 / 2) / (len(trials) - 3))
    centre = math.atanh(max(-0.9999, min(0.9999, correlation)))
    low, high = math.tanh(centre - 1.96 * error), math.tanh(centre + 1.96 * error)
    if low <= 0 <= high:
        direction = "no clear direction"
    else:
        direction = "smaller is better" if (correlation > 0) == minimize else "larger is better"
    return f"{direction}: rank correlation {correlation:+.2f} ({low:+.2f} to {high:+.2f})"


def describe_value(value: object) -> str:
    """Return a parameter's value as text, a float to four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else for_terminal(value)
