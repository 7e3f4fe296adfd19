"""Which trials are not clearly worse than the best on the validation images, and how much of its value is luck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial

from cnn_sweeps.evaluation.metrics import Floats
from cnn_sweeps.evaluation.per_image import InStudy, in_study
from cnn_sweeps.experiment.notes import PER_IMAGE, values_of

_NUM_RESAMPLES = 1000
_LEVEL = 0.95
_CLEARLY = 6.0  # standard errors; no resample reaches this by chance
_FEWEST_IMAGES = 10
_MOST_TRIALS = 1000  # they take three seconds


@dataclass(frozen=True, eq=False)
class Competitors:
    """The values of k trials to compare, best first; lower is better.

    Attributes:
        values: (k,), the objectives.
        per_image: (k, n), the objective on each of n images.
        num_images: the objectives are means over this many images; the n images are a random part of them.
        of_seeds: (k, s), the objectives with each of s seeds, which are the same for all trials.
    """

    values: Floats
    per_image: Floats
    num_images: int
    of_seeds: Floats


class Uncertainty(NamedTuple):
    """How certain a ranking is.

    Attributes:
        is_tied: for each trial, best first, whether it is not clearly worse than the best; true for the best itself.
            None: it was not compared.
        luck: how much worse than its value the best trial is likely to be on new images, at least 0.
        num_images: number of images that the trials are compared on.
    """

    is_tied: list[bool | None]
    luck: float
    num_images: int


class Configuration(NamedTuple):
    """A configuration's objective, on all images, on each image, and with each seed."""

    value: float
    per_image: InStudy | None
    of_seeds: list[float]


def rank_trials(
    ranking: Sequence[FrozenTrial], objective: str, num_seeds: int, *, minimize: bool
) -> Uncertainty | None:
    """Judge completed trials, best first, by the values that each notes per validation image and per seed."""
    known = [
        Configuration(
            trial.values[0], in_study(trial.user_attrs.get(PER_IMAGE), objective), _by_seed(values_of(trial), num_seeds)
        )
        for trial in ranking
    ]
    return rank_configurations(known, minimize=minimize)


def _by_seed(values: list[float], num_seeds: int) -> list[float]:
    """Return the mean over the folds for each seed, from the values of all trainings; empty if some are missing."""
    if not values or len(values) % num_seeds:
        return []
    means: list[float] = np.reshape(values, (num_seeds, -1)).mean(axis=1).tolist()
    return means


def rank_configurations(ranking: Sequence[Configuration], *, minimize: bool) -> Uncertainty | None:
    """Judge configurations, best first.

    Returns None if the best one has no values per image: the objective is no mean over images, or the trial is of an
    earlier version. A configuration is not compared if it lacks the values of these images, or is not among the best
    thousand.
    """
    best = ranking[0].per_image if ranking else None
    if best is None or len(best.values) < _FEWEST_IMAGES:
        return None
    known = {
        index: each.per_image.values
        for index, each in enumerate(ranking[:_MOST_TRIALS])
        if each.per_image is not None
        and (each.per_image.images, len(each.per_image.values)) == (best.images, len(best.values))
    }
    of_seeds = [ranking[index].of_seeds for index in known]
    if len(set(map(len, of_seeds))) > 1 or not of_seeds[0]:
        of_seeds = [[ranking[index].value] for index in known]
    sign = 1.0 if minimize else -1.0
    judged = judge(
        Competitors(
            values=sign * np.array([ranking[index].value for index in known]),
            per_image=sign * np.stack([*known.values()]),
            num_images=best.num_images,
            of_seeds=sign * np.array(of_seeds),
        )
    )
    is_tied = dict(zip(known, judged.is_tied, strict=True))
    return judged._replace(is_tied=[is_tied.get(index) for index in range(len(ranking))])


def judge(trials: Competitors) -> Uncertainty:
    """Judge trials, at least one, by resampling the images and, independently, the seeds, always in the same way.

    A trial is clearly worse than the best if its greatest difference from any other trial, in standard errors of the
    paired difference, is above the 95 % quantile of this greatest difference in the resamples (comparisons with the
    best: Hsu, Multiple Comparisons, 1996, chapter 4). So in 95 % of cases the truly best trial is among the tied ones,
    whatever their number; comparisons of single pairs would miss it more often. A few seeds say little about the effect
    of seeds, and a single one says nothing.

    The luck follows Tsamardinos, Greasidou and Borboudakis, Bootstrapping the out-of-sample predictions for efficient
    and accurate cross-validation, 2018: how much worse the winner of a resample is than the best trial, on the images
    that are not in the resample. This is the luck of choosing among these networks; the luck of a seed adds to it.
    """
    num_kept, num_seeds = trials.per_image.shape[1], trials.of_seeds.shape[1]
    random, share = np.random.default_rng(0), num_kept / trials.num_images
    drawn = random.multinomial(num_kept, np.full(num_kept, 1 / num_kept), size=_NUM_RESAMPLES)
    resampled = drawn @ trials.per_image.T / num_kept  # (resamples, trials)
    deviations = (resampled - trials.per_image.mean(axis=1)) * share**0.5
    covariance = np.atleast_2d(np.cov(trials.per_image)) / trials.num_images
    if num_seeds > 1:
        seeds = random.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=_NUM_RESAMPLES)
        around = trials.of_seeds - trials.of_seeds.mean(axis=1, keepdims=True)
        deviations += seeds @ around.T / num_seeds * (num_seeds / (num_seeds - 1)) ** 0.5  # as wide as the covariance
        covariance += np.atleast_2d(np.cov(trials.of_seeds)) / num_seeds
    is_tied = _may_be_best(trials.values, deviations, covariance)
    is_tied[0] = True
    luck = _luck(trials.per_image, drawn == 0, resampled.argmin(axis=1))
    return Uncertainty(is_tied.tolist(), luck * share**0.5, trials.num_images)


def _may_be_best(values: Floats, deviations: Floats, covariance: Floats) -> NDArray[np.bool_]:
    """Return for each trial, (k,), whether it may be the best, from the deviations of r resamples, (r, k)."""
    variances = covariance.diagonal()
    errors = np.sqrt(np.maximum(variances + variances[:, np.newaxis] - 2 * covariance, 0))
    errors[errors <= 1e-6 * np.sqrt(variances.max())] = np.inf  # trials that are equal on every image
    greatest = ((values[:, np.newaxis] - values) / errors).max(axis=1)
    may_be: NDArray[np.bool_] = greatest < _CLEARLY
    for one in np.flatnonzero(may_be):
        by_chance = ((deviations[:, [one]] - deviations) / errors[one]).max(axis=1)
        may_be[one] = greatest[one] <= np.quantile(by_chance, _LEVEL)
    return may_be


def _luck(per_image: Floats, is_left_out: NDArray[np.bool_], winners: NDArray[np.int64]) -> float:
    """Return how much worse the winners of resamples, (r,), are than the best on the left-out images, (r, n); >= 0."""
    worse = (per_image[winners] - per_image[0]) * is_left_out
    of_resamples = worse.sum(axis=1) / np.maximum(is_left_out.sum(axis=1), 1)
    return max(0.0, float(of_resamples.mean()))
