"""The standing of a sweep's completed trials: their rank by value, which are tied with the best, and the champion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from cnn_sweeps.evaluation.per_image import InStudy, in_study
from cnn_sweeps.experiment.notes import FOLDER, PER_IMAGE
from cnn_sweeps.selection.ranking import Configuration, Uncertainty, rank_configurations, rank_trials
from cnn_sweeps.settings.schema import OBJECTIVES, RunConfig
from cnn_sweeps.sweep.application import TRIAL, Ranked
from cnn_sweeps.sweep.study.ledger import DUPLICATE_OF
from cnn_sweeps.text.names import cut_list
from cnn_sweeps.text.numbers import counted, part_of

NUM_SEEDS = 3
"""Further trainings of each confirmed trial. For ten configurations of digits with six seeds each, a choice by three
seeds is as good as it can be (validation log loss with the other seeds: 0.0840; by two seeds 0.0845, by one 0.0861)."""
_SUGGESTED = 3  # trials to confirm
_REGULARIZERS = ("model.dropout", "model.l2", "optimizer.weight_decay")
_MOST_NAMED = 10


@dataclass(frozen=True)
class Standing:
    """How completed trials stand.

    Attributes:
        by_value: trials that ran, best first; duplicates did not run.
        uncertainty: of that ranking, if it is known.
        again: the objectives with other seeds, by the number of a confirmed trial.
        order: the same trials, the champion first.
        told: lines that explain the choice of the champion.
    """

    by_value: list[FrozenTrial]
    uncertainty: Uncertainty | None
    again: Mapping[int, list[float]]
    order: list[FrozenTrial]
    told: Sequence[str] = ()

    @property
    def tied(self) -> list[int]:
        """Numbers of the trials that are tied with the best by value, which is the first of them."""
        if self.uncertainty is None:
            return []
        pairs = zip(self.by_value, self.uncertainty.is_tied, strict=True)
        return [trial.number for trial, is_tied in pairs if is_tied]

    def rank(self, completed: Sequence[FrozenTrial]) -> list[Ranked]:
        """Rank and mark all completed trials, the champion first; a duplicate follows the trial that it repeats."""
        place = {trial.number: index for index, trial in enumerate(self.order)}

        def place_of(trial: FrozenTrial) -> int:
            return place.get(trial.user_attrs.get(DUPLICATE_OF, trial.number), len(place))

        marked = set(self.tied[1:])
        return [
            Ranked(trial, "~" if trial.number in marked else " ", self._remark(trial.number))
            for trial in sorted(completed, key=place_of)
        ]

    def _remark(self, number: int) -> str:
        return f"again: {_with_error(self.again[number])}" if number in self.again else ""


def stand(
    completed: Sequence[FrozenTrial],
    confirmed: Sequence[FrozenTrial],
    config: RunConfig,
    settings_of: Callable[[FrozenTrial], Mapping[str, Any]],
) -> Standing:
    """Work out the standing of completed trials.

    Args:
        completed: best value first.
        confirmed: the completed trainings of the best of them with other seeds.
        config: of the sweep.
        settings_of: returns the settings in a trial's record.
    """
    ran = [trial for trial in completed if FOLDER in trial.user_attrs]  # duplicates have no folder
    if len(config.objective) > 1 or not ran:
        return Standing(ran, None, {}, ran)
    minimize = OBJECTIVES[config.objective[0]] == "minimize"
    uncertainty = rank_trials(ran, config.objective[0], config.repeats, minimize=minimize)
    standing = Standing(ran, uncertainty, {}, ran)
    is_tied: Sequence[bool | None] = [False] * len(ran) if uncertainty is None else uncertainty.is_tied
    if config.confirm:
        standing, is_tied = _confirm(standing, confirmed, config, is_tied)
    tied = [trial for trial, each in zip(standing.order, is_tied, strict=False) if each]
    return _prefer(standing, tied, settings_of) if config.prefer is not None and len(tied) > 1 else standing


def _confirm(
    standing: Standing, confirmed: Sequence[FrozenTrial], config: RunConfig, is_tied: Sequence[bool | None]
) -> tuple[Standing, Sequence[bool | None]]:
    """Rank the best trials by their mean with other seeds; return, too, which of them are tied."""
    objective, minimize = config.objective[0], OBJECTIVES[config.objective[0]] == "minimize"
    by_seed = sorted(confirmed, key=lambda each: each.params["seed"])  # so that trials are compared seed by seed
    known = {
        trial.number: _mean_of(trainings, objective)
        for trial in standing.by_value[: config.confirm]
        if (trainings := [each for each in by_seed if each.params.get(TRIAL) == trial.number])
    }
    if len(known) < 2:
        told = "warning: too few of the best trials were trained with other seeds, so the best value is the champion"
        return replace(standing, told=[told]), is_tied
    sign = 1 if minimize else -1
    head = sorted(known, key=lambda number: sign * known[number].value)
    judged = rank_configurations([known[number] for number in head], minimize=minimize)
    again = {number: known[number].of_seeds for number in head}
    best, first = head[0], standing.by_value[0].number
    told = f"trial {best} is the best of {len(head)} that were trained again: {_with_error(again[best])}"
    if best != first and first in again:
        told += f"; trial {first}, which had the best value: {_with_error(again[first])}"
    place = {number: index for index, number in enumerate(head)}
    order = sorted(standing.order, key=lambda trial: place.get(trial.number, len(head)))
    standing = replace(standing, again=again, order=order, told=[told])
    return standing, [False] * len(head) if judged is None else judged.is_tied


def _mean_of(again: Sequence[FrozenTrial], objective: str) -> Configuration:
    values = [each.values[0] for each in again]
    known = [in_study(each.user_attrs.get(PER_IMAGE), objective) for each in again]
    first = known[0]
    same = [each.values for each in known if each is not None and first is not None and each.images == first.images]
    per_image = None
    if first is not None and len(same) == len(again):
        per_image = InStudy(first.images, np.mean(same, axis=0), first.num_images)
    return Configuration(float(np.mean(values)), per_image, values)


def _prefer(
    standing: Standing, tied: Sequence[FrozenTrial], settings_of: Callable[[FrozenTrial], Mapping[str, Any]]
) -> Standing:
    """Put the most regularized of the tied trials, best first, in front: the one with the greatest sum of ranks."""
    settings = [settings_of(trial) for trial in tied]
    strengths = np.array([[_number(each.get(key)) for key in _REGULARIZERS] for each in settings])
    is_more = strengths[:, np.newaxis] > strengths
    is_equal = strengths[:, np.newaxis] == strengths
    ranks = (is_more + is_equal / 2).sum(axis=(1, 2))
    if (index := int(ranks.argmax())) == 0:
        return standing
    chosen = tied[index]
    values = ", ".join(f"{key}={settings[index][key]}" for key in _REGULARIZERS if key in settings[index])
    told = f"trial {chosen.number} is preferred: it is the most regularized of those not clearly worse than the best"
    order = [chosen, *(trial for trial in standing.order if trial.number != chosen.number)]
    return replace(standing, order=order, told=[*standing.told, f"{told} ({values})"])


def _number(text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):  # the network has no such setting
        return 0.0


def _with_error(values: Sequence[float]) -> str:
    """Describe the mean with its standard error."""
    error = f" ± {np.std(values, ddof=1) / len(values) ** 0.5:.2g}" if len(values) > 1 else ""
    return f"{np.mean(values):.4g}{error}, mean of {counted(len(values), 'seed')}"


def describe_uncertainty(standing: Standing, config: RunConfig) -> list[str]:
    """Say which trials are tied with the best, and how much of the best value is luck."""
    uncertainty, num_trials = standing.uncertainty, len(standing.by_value)
    if uncertainty is None or num_trials < 2:
        return []
    best, champion = standing.by_value[0].number, standing.order[0].number
    which = "the best" if best == champion else f"trial {best}, which has the best value,"
    where = f"than {which} on these {uncertainty.num_images:,} validation images (95 %)"
    unknown = uncertainty.is_tied.count(None)
    told = f"all other {'compared' if unknown else 'completed'} trials are clearly worse {where}"
    if tied := standing.tied[1:]:
        named = cut_list([str(number) for number in tied], ", ", _MOST_NAMED)
        others = part_of(len(tied), num_trials - 1, "other completed trial")
        told = f"{others} not clearly worse {where}, marked ~: {named}"
    if unknown:
        told += f"; not compared: {unknown}, which kept no values of these images"
    if config.repeats == 1 and not standing.again and "seed" not in standing.by_value[0].params:
        trained = f"trains the best {_SUGGESTED} with {NUM_SEEDS} other seeds"
        told += f"; another seed may change that (confirm={_SUGGESTED} {trained})"
    if not uncertainty.luck:
        return [told]
    luck = f"about {uncertainty.luck:.2g} of the best value is luck: it was chosen as the best of {num_trials}"
    return [told, luck]
