"""One run as a trial of a sweep: what it tells the study and learns from it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.core.hydra_config import HydraConfig
from optuna.trial import FrozenTrial

from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.errors import DataError
from cnn_sweeps.experiment.parts import clearly_loses, objective_values
from cnn_sweeps.settings.environment import job_overrides
from cnn_sweeps.settings.schema import OBJECTIVES, RunConfig
from cnn_sweeps.sweep.console import describe_params
from cnn_sweeps.sweep.space import by_setting
from cnn_sweeps.sweep.study.address import trial_subfolder
from cnn_sweeps.sweep.study.job_trial import JobTrial, current_trial
from cnn_sweeps.sweep.study.ledger import retry_of
from cnn_sweeps.text.commands import command_to_repeat
from cnn_sweeps.tracking.runs import PARENT_TAG, STATE_TAG
from cnn_sweeps.training.checkpoint import TrainingProgress

# What is kept with the study and its trials.
STUDY_RUN_ID, RUN_ID, FOLDER, VALUES = "mlflow.run_id", "mlflow.run_id", "folder", "objective_of_trainings"
_PLAIN_ID = re.compile(r"[\w-]{1,64}", re.ASCII)  # safe in a path and in a query
DATA, DATA_TOLD, PROGRAM, STORE = "data.fingerprint", "data.told", "program", "tracking.uri"


def run_id_of(attributes: Mapping[str, Any]) -> str | None:
    """Give the run that a study, or a trial, notes; None if it notes none, or what cannot be a run's id."""
    run_id = attributes.get(RUN_ID)
    return run_id if isinstance(run_id, str) and _PLAIN_ID.fullmatch(run_id) else None


def values_of(trial: FrozenTrial) -> list[float]:
    """Give the objective of each of a trial's trainings, as far as it notes them."""
    values: Any = trial.user_attrs.get(VALUES)
    are_numbers = isinstance(values, list) and all(isinstance(value, (int, float)) for value in values)
    return values if are_numbers else []


def senseless_notes(trial: FrozenTrial) -> list[str]:
    """Name the attributes of a trial that make no sense, of those that a run notes."""
    known = {
        RUN_ID: run_id_of(trial.user_attrs),
        FOLDER: subfolder_of(trial) == trial.user_attrs.get(FOLDER),
        VALUES: values_of(trial),
    }
    return [name for name, value in known.items() if not value and trial.user_attrs.get(name)]


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
        return retry_of(self._trial.frozen) is not None

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
        return command_to_repeat(str(self._trial.study.user_attrs.get(PROGRAM, "")), self.overrides)

    @property
    def overrides(self) -> list[str]:
        """The trial's overrides."""
        return job_overrides()

    @property
    def tags(self) -> dict[str, str]:
        """What tells the trial's run from others; it is a part of the sweep's."""
        tags = self._trial.tags | {"command": self.command, STATE_TAG: "RUNNING"}
        parent = run_id_of(self._trial.study.user_attrs)
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

    def tell_data(self, lines: Sequence[str]) -> None:
        """Have the sweep's controller say what there is to say of the images, unless another trial did."""
        if DATA_TOLD not in self._trial.study.user_attrs:
            self._trial.study.set_user_attr(DATA_TOLD, list(lines))

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
        return clearly_loses(values, values_of(best), minimize=OBJECTIVES[self._objective] == "minimize")

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
