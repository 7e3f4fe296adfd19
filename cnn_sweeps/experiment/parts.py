"""One configuration trained several times: with other seeds, on other folds; what their mean is worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtr

from cnn_sweeps.data.images import Images
from cnn_sweeps.data.split import split_into_folds
from cnn_sweeps.settings.schema import RunConfig

_LOSES_BELOW_P = 0.05


@dataclass(frozen=True, eq=False)
class Part:
    """One of a run's trainings; of a run with a single one, all of it.

    Attributes:
        config: with the training's own seed.
        images: with the training's own validation images.
        name: what tells it from the others; empty if there are none.
    """

    config: RunConfig
    images: Images
    name: str = ""


def plan_parts(config: RunConfig, images: Images) -> list[Part]:
    """Give every training: `config.repeats` seeds from `config.seed` on, each on `config.folds` folds.

    Raises:
        DataError: if a class has fewer different images than folds.
    """
    if config.repeats == config.folds == 1:
        return [Part(config, images)]
    dataset, split = images.dataset, images.split
    folds = [split] if config.folds == 1 else split_into_folds(dataset, split, config.folds, config.split.seed)
    return [
        Part(
            replace(config, seed=seed, resolved=config.resolved | {"seed": seed}),
            replace(images, split=fold),
            _name(seed, number, config.folds),
        )
        for seed in range(config.seed, config.seed + config.repeats)
        for number, fold in enumerate(folds, 1)
    ]


def _name(seed: int, fold: int, num_folds: int) -> str:
    return f"seed {seed}" if num_folds == 1 else f"seed {seed} fold {fold} of {num_folds}"


def average_metrics(finals: Sequence[dict[str, float]]) -> dict[str, float]:
    """Give the mean of each metric and, of several trainings, its standard error under the name with `_se`.

    Each training is measured at its own decision threshold; of several none is given, since their mean is nobody's. The
    error takes the trainings as independent, which folds, sharing training images, are not quite.
    """
    averaged = {}
    for name, values in _columns(finals):
        if name == "decision_threshold" and len(values) > 1:
            continue
        averaged[name] = float(values.mean())
        if len(values) > 1:
            averaged[f"{name}_se"] = float(values.std(ddof=1) / np.sqrt(len(values)))
    return averaged


def _columns(finals: Sequence[dict[str, float]]) -> Iterator[tuple[str, np.ndarray]]:
    for name in finals[0]:
        yield name, np.array([final[name] for final in finals])


def clearly_loses(values: Sequence[float], best_values: Sequence[float], *, minimize: bool) -> bool:
    """Tell whether trainings are worse than the best configuration's of the same seeds and folds, beyond chance.

    A one-sided paired t-test at the 5 % level; never after a single training. It is asked after each training without a
    correction for that, and folds share images: of equal configurations more than 5 % are taken to lose.
    """
    num_pairs = min(len(values), len(best_values))
    if num_pairs < 2:
        return False
    differences = np.array(values[:num_pairs]) - np.array(best_values[:num_pairs])
    worse = differences if minimize else -differences
    if np.ptp(worse) == 0:
        return bool(worse[0] > 0)
    # scipy.stats would test it, too, but takes a sweep's controller 0.3 s to import
    t = worse.mean() / (worse.std(ddof=1) / np.sqrt(num_pairs))
    return bool(stdtr(num_pairs - 1, -t) < _LOSES_BELOW_P)


def final_metric(objective: str) -> str:
    """Name the metric of a run's final weights that an objective is."""
    return objective if objective == "num_parameters" else f"final_{objective}"


def objective_values(final: dict[str, float], config: RunConfig) -> list[float]:
    """Give the objectives among a run's final metrics."""
    return [final[final_metric(name)] for name in config.objective]
