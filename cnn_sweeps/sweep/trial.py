"""The trial that a job is, seen from the job: it reports what it reached and learns whether to go on."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import optuna
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState

from cnn_sweeps.sweep.ledger import ATTEMPT, DUPLICATE_OF, OWNER, RETRY_OF, SETTINGS_ID, has_settings
from cnn_sweeps.sweep.storage import open_storage
from cnn_sweeps.sweep.study import build_pruner

_SWEEPER = "hydra_plugins.cnn_sweeps.optuna_sweeper.OptunaSweeper"


def current_trial() -> JobTrial | None:
    """Give the trial that the running Hydra job is; None outside a sweep of this project's sweeper."""
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN or hydra.sweeper.get("_target_") != _SWEEPER:
        return None
    sweeper: dict[str, Any] = OmegaConf.to_container(hydra.sweeper, resolve=True)  # type: ignore[assignment]
    return JobTrial(sweeper["study_name"], sweeper["storage"], sweeper["pruner"], int(hydra.job.num))


class JobTrial:
    """One trial of a study, identified by its number, which is the Hydra job's."""

    def __init__(self, study_name: str, storage: str | dict[str, Any], pruner: dict[str, Any], number: int) -> None:
        """Open the study.

        Raises:
            StudyError: if its storage cannot be used.
        """
        self.study = optuna.load_study(
            study_name=study_name, storage=open_storage(storage), sampler=RandomSampler(), pruner=build_pruner(pruner)
        )
        self.number = number
        trial_id = self.study._storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)
        self._trial = optuna.Trial(self.study, trial_id)

    @cached_property
    def frozen(self) -> FrozenTrial:
        """The trial as it was when the job began."""
        return self.study._storage.get_trial(self._trial._trial_id)

    @cached_property
    def user_attrs(self) -> dict[str, Any]:
        """What was known of the trial when the job began."""
        return self.frozen.user_attrs

    @cached_property
    def tags(self) -> dict[str, str]:
        """What tells the trial from others in a record."""
        attributes = self.user_attrs
        tags = {"study": self.study.study_name, "trial.number": str(self.number)}
        if RETRY_OF in attributes:
            tags |= {"trial.retry_of": str(attributes[RETRY_OF]), "trial.attempt": str(attributes[ATTEMPT])}
        return tags

    def note(self, key: str, value: Any) -> None:
        """Keep something with the trial; JSON types."""
        self._trial.set_user_attr(key, value)

    def report(self, value: float, step: int) -> bool:
        """Report the objective after a step; tell whether the pruner would stop here. Never with several objectives."""
        if len(self.study.directions) > 1:
            return False
        self._trial.report(value, step)
        return self._trial.should_prune()

    def best_trial(self) -> FrozenTrial | None:
        """Give the best completed trial so far; None if there is none, or several objectives."""
        trials = self._completed()
        if not trials or len(self.study.directions) > 1:
            return None
        return min(trials, key=self._rank)

    def would_be_among_best(self, value: float, num_best: int) -> bool:
        """Tell whether an objective is among the best so far; True with several objectives."""
        if len(self.study.directions) > 1:
            return True
        mine = (self._sign * value, self.number)
        better = [
            trial
            for trial in self._completed()
            if DUPLICATE_OF not in trial.user_attrs and (self._rank(trial), trial.number) < mine
        ]
        return len(better) < num_best

    def _completed(self) -> list[FrozenTrial]:
        settings_id = self.user_attrs.get(OWNER, {}).get(SETTINGS_ID, "")
        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return [trial for trial in complete if has_settings(trial, settings_id)]

    @property
    def _sign(self) -> float:
        return 1.0 if self.study.direction == optuna.study.StudyDirection.MINIMIZE else -1.0

    def _rank(self, trial: FrozenTrial) -> float:
        assert trial.value is not None
        return self._sign * trial.value
