"""The trial that a job is, seen from the job: it reports what it reached and learns whether to go on."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, TypeVar

import optuna
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf
from optuna.samplers import RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from cnn_sweeps.errors import StudyOutageError
from cnn_sweeps.sweep.study import ledger
from cnn_sweeps.sweep.study.address import StudyAddress, parse_address
from cnn_sweeps.sweep.study.samplers import build_pruner
from cnn_sweeps.sweep.study.storage import open_patient_storage
from cnn_sweeps.system.patience import Backoff, patiently

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")
STUDY_OF_JOB = "CNN_SWEEPS_STUDY"
"""In `hydra.job.env_set`: the study of a job's trial, if that is not the sweep's, which Hydra lets no job change."""
_SWEEPER = "hydra_plugins.cnn_sweeps.optuna_sweeper.OptunaSweeper"


def current_trial() -> JobTrial | None:
    """Give the trial that the running Hydra job is; None outside a sweep of this project's sweeper."""
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN or hydra.sweeper.get("_target_") != _SWEEPER:
        return None
    sweeper: dict[str, Any] = OmegaConf.to_container(hydra.sweeper, resolve=True)  # type: ignore[assignment]
    name = hydra.job.env_set.get(STUDY_OF_JOB, sweeper["study_name"])
    return JobTrial(parse_address(sweeper["storage"], name), sweeper["pruner"], int(hydra.job.num))


class JobTrial:
    """One trial of a study, identified by its number, which is the Hydra job's."""

    def __init__(self, address: StudyAddress, pruner: dict[str, Any], number: int) -> None:
        """Open the study.

        Raises:
            StudyError: if its storage cannot be used, nor after some patience.
        """
        self._storage = patiently(partial(open_patient_storage, address), log.warning)
        self.study = optuna.load_study(
            study_name=address.name, storage=self._storage, sampler=RandomSampler(), pruner=build_pruner(pruner)
        )
        self._has_several_objectives = len(self.study.directions) > 1
        self._backoff = Backoff()
        self._untold: list[tuple[float, int]] = []
        self.number = number
        trial_id = self.study._storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)
        self._trial = optuna.Trial(self.study, trial_id)

    @cached_property
    def frozen(self) -> FrozenTrial:
        """The trial as it was when the job began."""
        return self.study._storage.get_trial(self._trial._trial_id)

    @property
    def tags(self) -> dict[str, str]:
        """What tells the trial from others in a record."""
        return ledger.trial_tags(self.study.study_name, self.number, self.frozen.user_attrs)

    def earlier_attempts(self) -> list[FrozenTrial]:
        """Give the trials that this one tries again, the last one first."""
        return ledger.earlier_attempts(self.frozen, self.study.get_trials(deepcopy=False))

    def note(self, key: str, value: Any) -> None:
        """Keep something with the trial, JSON types, that it cannot do without.

        Raises:
            StudyError: if that cannot be, nor after some patience.
        """
        self._trial.set_user_attr(key, value)

    # What follows is for a training that goes on, or is done: the storage being away must not end it.

    def note_if_possible(self, key: str, value: Any) -> None:
        """Keep something with the trial, JSON types, unless the storage is away."""
        self._unless_away(partial(self._trial.set_user_attr, key, value), None)

    def note_final(self, metrics: Mapping[str, float]) -> None:
        """Keep what the trial measured in the end, as `ledger.final_of` gives it, unless the storage is away.

        JSON knows neither NaN nor infinity, and PostgreSQL refuses them: such a metric is left out.
        """
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        self.note_if_possible(ledger.FINAL, finite)

    def report(self, value: float, step: int) -> bool:
        """Report the objective after a step; tell whether the pruner would stop here. Never with several objectives.

        While the storage is away it would not; what was not reported then follows with a later step.
        """
        if self._has_several_objectives:
            return False
        self._untold.append((value, step))
        return self._unless_away(self._report, otherwise=False)

    def _report(self) -> bool:
        while self._untold:
            self._trial.report(*self._untold[0])
            self._untold.pop(0)
        return self._trial.should_prune()

    def best_trial(self) -> FrozenTrial | None:
        """Give the best completed trial so far; None if none is known, or with several objectives."""
        if self._has_several_objectives:
            return None
        nothing_known: list[FrozenTrial] = []
        return min(self._unless_away(self._completed, nothing_known), key=self._rank, default=None)

    def would_be_among_best(self, value: float, num_best: int) -> bool:
        """Tell whether an objective is among the best so far; True with several objectives, or if that is not known."""
        if self._has_several_objectives:
            return True
        return self._unless_away(partial(self._is_among_best, value, num_best), otherwise=True)

    def _is_among_best(self, value: float, num_best: int) -> bool:
        if self._untold:
            self._report()
        others = [self._rank(trial) for trial in self._completed() if ledger.DUPLICATE_OF not in trial.user_attrs]
        return sum(other < (self._loss(value), self.number) for other in others) < num_best

    def _unless_away(self, act: Callable[[], Answer], otherwise: Answer) -> Answer:
        if not self._backoff.is_over:
            return otherwise
        try:
            with self._backoff.noting_outages(), self._storage.without_waiting():
                return act()
        except StudyOutageError as error:
            log.warning("%s; the trial trains on, and is not pruned meanwhile", str(error).rpartition(";")[0])
            return otherwise

    def _completed(self) -> list[FrozenTrial]:
        settings_id = ledger.owner_of(self.frozen).get(ledger.SETTINGS_ID, "")
        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return [trial for trial in complete if ledger.has_settings(trial, settings_id)]

    def _rank(self, trial: FrozenTrial) -> tuple[float, int]:
        assert trial.value is not None
        return self._loss(trial.value), trial.number

    def _loss(self, value: float) -> float:
        return value if self.study.direction == StudyDirection.MINIMIZE else -value
