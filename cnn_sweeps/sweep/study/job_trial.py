"""A job's view of its trial: it reports values, and asks whether to go on."""

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
"""Key in `hydra.job.env_set` for the study of a job, if it is not the sweep's; Hydra lets no job change the sweeper."""
_SWEEPER = "hydra_plugins.cnn_sweeps.optuna_sweeper.OptunaSweeper"


def current_trial() -> JobTrial | None:
    """Return the trial of the running Hydra job; None outside a sweep of this project's sweeper."""
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN or hydra.sweeper.get("_target_") != _SWEEPER:
        return None
    sweeper: dict[str, Any] = OmegaConf.to_container(hydra.sweeper, resolve=True)  # type: ignore[assignment]
    name = hydra.job.env_set.get(STUDY_OF_JOB, sweeper["study_name"])
    return JobTrial(parse_address(sweeper["storage"], name), sweeper["pruner"], int(hydra.job.num))


class JobTrial:
    """One trial of a study; its number is that of the Hydra job."""

    def __init__(self, address: StudyAddress, pruner: dict[str, Any], number: int) -> None:
        """Open the study.

        Raises:
            StudyError: if its storage cannot be used, even after some waiting.
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
        """The tags that name the trial in a record."""
        return ledger.trial_tags(self.study.study_name, self.number, self.frozen.user_attrs)

    def earlier_attempts(self) -> list[FrozenTrial]:
        """Return the trials that this one repeats, the last one first."""
        return ledger.earlier_attempts(self.frozen, self.study.get_trials(deepcopy=False))

    def note(self, key: str, value: Any) -> None:
        """Set a user attribute of the trial, of JSON types.

        Raises:
            StudyError: if the storage cannot be used, even after some waiting.
        """
        self._trial.set_user_attr(key, value)

    # The methods below are for a training that is running or done: an outage of the storage must not end it.

    def note_if_possible(self, key: str, value: Any) -> None:
        """Set a user attribute of the trial, of JSON types, unless the storage is away."""
        self._unless_away(partial(self._trial.set_user_attr, key, value), None)

    def note_final(self, metrics: Mapping[str, float]) -> None:
        """Note the trial's final metrics, for `ledger.final_of`, unless the storage is away.

        NaN and infinity are left out: JSON does not know them, and PostgreSQL refuses them.
        """
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        self.note_if_possible(ledger.FINAL, finite)

    def report(self, value: float, step: int) -> bool:
        """Report the objective after a step; return whether the pruner stops the trial here.

        It never does with several objectives, or while the storage is away; a later step reports the missing values.
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
        """Return the best completed trial so far; None if none is known, or with several objectives."""
        if self._has_several_objectives:
            return None
        nothing_known: list[FrozenTrial] = []
        return min(self._unless_away(self._completed, nothing_known), key=self._rank, default=None)

    def would_be_among_best(self, value: float, num_best: int) -> bool:
        """Return whether a value is among the best so far; True with several objectives, or if that is not known."""
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
            log.warning("%s; the trial goes on, without pruning for now", str(error).rpartition(";")[0])
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
