"""One run as a trial of a sweep: what it tells the study and learns from it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.core.hydra_config import HydraConfig
from optuna.trial import FrozenTrial

from cnn_sweeps.checkpoint import TrainingProgress
from cnn_sweeps.commands import command_to_repeat
from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.errors import DataError
from cnn_sweeps.repeats import clearly_loses, objective_values
from cnn_sweeps.schema import OBJECTIVES, RunConfig
from cnn_sweeps.sweep.ledger import RETRY_OF
from cnn_sweeps.sweep.places import trial_subfolder
from cnn_sweeps.sweep.progress import describe_params
from cnn_sweeps.sweep.space import by_setting
from cnn_sweeps.sweep.trial import JobTrial, current_trial
from cnn_sweeps.tracking.runs import PARENT_TAG, STATE_TAG

# What is kept with the study and its trials.
STUDY_RUN_ID, RUN_ID, FOLDER, VALUES = "mlflow.run_id", "mlflow.run_id", "folder", "objective_of_trainings"
DATA, PROGRAM, STORE = "data.fingerprint", "program", "tracking.uri"


def subfolder_of(trial: FrozenTrial) -> str:
    """Give the folder of a trial's files, relative to the sweep's; always below that."""
    return trial_subfolder(trial.number, trial.user_attrs.get(FOLDER))


def join_trial(config: RunConfig) -> TrialRun | None:
    """Give the trial that this job is; None under another sweeper."""
    trial = current_trial()
    return None if trial is None else TrialRun(trial, config)


class TrialRun:
    """Reports epochs of the first training and the objective of each, and asks whether to go on."""

    def __init__(self, trial: JobTrial, config: RunConfig) -> None:
        """Of a trial, with the configuration that all its trainings share."""
        self._trial, self._config = trial, config
        self._objective = config.objective[0]
        self._num_trainings = 0
        self.is_pruned = False

    @property
    def is_retry(self) -> bool:
        """Whether an earlier trial of the same configuration was lost, so that its checkpoint may be there."""
        return RETRY_OF in self._trial.user_attrs

    @property
    def name(self) -> str:
        """What the trial is called in the record."""
        return f"trial {self._trial.number}: {describe_params(self._trial.frozen)}"

    @property
    def params(self) -> dict[str, Any]:
        """What is searched, by setting: also groups (`optimizer`), which are no settings."""
        return by_setting(self._trial.frozen.params)

    @property
    def command(self) -> str:
        """The command that runs the trial's configuration by itself."""
        return command_to_repeat(self._trial.study.user_attrs.get(PROGRAM, ""), self.overrides)

    @property
    def overrides(self) -> list[str]:
        """The trial's overrides."""
        return list(HydraConfig.get().overrides.task)

    @property
    def tags(self) -> dict[str, str]:
        """What tells the trial's run from others; it is a part of the sweep's."""
        tags = self._trial.tags | {"command": self.command, STATE_TAG: "RUNNING"}
        parent = self._trial.study.user_attrs.get(STUDY_RUN_ID)
        return tags | ({PARENT_TAG: parent} if parent else {})

    def note_run(self, run_id: str) -> None:
        """Note which run records the trial, and which folder below the sweep's holds its files."""
        hydra = HydraConfig.get()
        self._trial.note(RUN_ID, run_id)
        self._trial.note(FOLDER, os.path.relpath(hydra.runtime.output_dir, hydra.sweep.dir))

    def earlier_folders(self) -> list[Path]:
        """Give the folders of the lost trials that this one tries again, the last one first."""
        sweep = Path(HydraConfig.get().sweep.dir)
        return [sweep / subfolder_of(trial) for trial in self._trial.earlier_attempts()]

    def check_data(self, dataset: ImageDataset) -> None:
        """See that the images are those of the study's other trials.

        Raises:
            DataError: if they are not.
        """
        known = self._trial.study.user_attrs.get(DATA)
        if known is None:
            self._trial.study.set_user_attr(DATA, dataset.fingerprint)
        elif known != dataset.fingerprint:
            raise DataError(
                f"data: {dataset.source} holds other images than when the study {self._trial.study.study_name} began; "
                "choose another hydra.sweeper.study_name"
            )

    def begin_training(self, progress: TrainingProgress) -> bool:
        """Tell whether this training's epochs are to be reported: those of the first one, as of every other trial."""
        self._num_trainings += 1
        if self._num_trainings > 1:
            return False
        for epoch in range(1, progress.epochs_done + 1):  # of the lost trial that this one goes on with
            self._report(progress, epoch)
        return True

    def report_epoch(self, progress: TrainingProgress) -> bool:
        """Report an epoch's objective; tell whether to stop."""
        self.is_pruned = self._report(progress, progress.epochs_done)
        return self.is_pruned

    def _report(self, progress: TrainingProgress, epoch: int) -> bool:
        value = progress.history[epoch - 1].get(self._objective)
        return value is not None and self._trial.report(value, epoch)

    def clearly_loses(self, finals: Sequence[dict[str, float]]) -> bool:
        """Note each training's objective; tell whether the configuration is worse than the best, beyond chance."""
        values = [objective_values(final, self._config)[0] for final in finals]
        self._trial.note_if_possible(VALUES, values)
        best = self._trial.best_trial()
        if best is None or len(finals) == self._config.repeats * self._config.folds:
            return False
        return clearly_loses(
            values, best.user_attrs.get(VALUES, []), minimize=OBJECTIVES[self._objective] == "minimize"
        )

    def may_be_chosen(self, final: dict[str, float]) -> bool:
        """Tell whether this training's weights may be asked for at the sweep's end: the first ones of a good trial."""
        if self._num_trainings > 1:
            return False
        value = objective_values(final, self._config)[0]
        return self._config.repeats * self._config.folds > 1 or self._trial.would_be_among_best(
            value, max(1, self._config.evaluate_best)
        )

    def prune(self) -> None:
        """End the job as a pruned trial."""
        raise optuna.TrialPruned
