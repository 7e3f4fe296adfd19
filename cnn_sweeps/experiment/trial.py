"""One run as a trial of a sweep: what it tells the study and learns from it."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from hydra.core.hydra_config import HydraConfig
from optuna.trial import FrozenTrial

from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.data.images import Images, describe_images, load_images_once
from cnn_sweeps.errors import DataError
from cnn_sweeps.experiment import kept
from cnn_sweeps.experiment.parts import average_metrics, clearly_loses, objective_values
from cnn_sweeps.experiment.roles import Role, output_dir
from cnn_sweeps.settings.schema import OBJECTIVES, RunConfig
from cnn_sweeps.sweep.console import describe_params
from cnn_sweeps.sweep.space import by_setting
from cnn_sweeps.sweep.study.address import trial_subfolder
from cnn_sweeps.sweep.study.job_trial import JobTrial, current_trial
from cnn_sweeps.sweep.study.ledger import retry_of
from cnn_sweeps.text.commands import command_to_repeat
from cnn_sweeps.tracking.address import store_of
from cnn_sweeps.tracking.entry import PARENT_TAG, STATE_TAG
from cnn_sweeps.training.checkpoint import Checkpoint, FinishedPart, TrainingProgress

if TYPE_CHECKING:
    from cnn_sweeps.experiment.trained import TrainedNetwork
    from cnn_sweeps.tracking.live_run import LiveRun

log = logging.getLogger(__name__)

# What is kept with the study and its trials.
STUDY_RUN_ID, RECORD, FOLDER, VALUES = "mlflow.run_id", "record", "folder", "objective_of_trainings"
_PLAIN_ID = re.compile(r"[\w-]{1,64}", re.ASCII)  # safe in a path and in a query
DATA, DATA_TOLD, PROGRAM, STORE = "data.fingerprint", "data.told", "program", "tracking.uri"
ABOUT_RUN = "sweep.run"  # what the sweep's own run is to say beside what the trials come to
# What was done at the sweep's end, noted once it is done: what a trial, whose number follows, measured on test images;
# the numbers of the trials that were registered and retrained last.
TESTED, REGISTERED, RETRAINED = "tested.", "registered", "retrained.trial"


def run_id_of(attributes: Mapping[str, Any]) -> str | None:
    """Give the sweep's run that a study notes; None if it notes none, or what cannot be a run's id."""
    return _plain_id(attributes.get(STUDY_RUN_ID))


def record_of(trial: FrozenTrial) -> str | None:
    """Give the id of the record that a trial notes; None if it notes none, or what cannot be one."""
    return _plain_id(trial.user_attrs.get(RECORD))


def _plain_id(noted: Any) -> str | None:
    return noted if isinstance(noted, str) and _PLAIN_ID.fullmatch(noted) else None


def values_of(trial: FrozenTrial) -> list[float]:
    """Give the objective of each of a trial's trainings, as far as it notes them."""
    values: Any = trial.user_attrs.get(VALUES)
    are_numbers = isinstance(values, list) and all(isinstance(value, (int, float)) for value in values)
    return values if are_numbers else []


def senseless_notes(trial: FrozenTrial) -> list[str]:
    """Name the attributes of a trial that make no sense, of those that a run notes."""
    known = {
        RECORD: record_of(trial),
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


class TrialRun(Role):
    """Reports epochs of the first training and the objective of each, and asks whether to go on."""

    is_trial = True
    is_named_by_user = False
    max_share_of_time = 0.02  # SQLite and the disk take 50 ms, as long as many a short epoch

    def __init__(self, trial: JobTrial, config: RunConfig) -> None:
        """Of a trial, with the configuration that all its trainings share."""
        super().__init__(config)
        self._trial = trial
        self._objective = config.objective[0]
        self._num_trainings = 0

    def find_store(self) -> str:
        """Give the store, which was there when the sweep began; if it is away, the record waits for it."""
        return store_of(self.config.tracking)

    def load_images(self) -> Images:
        """Give the images of the trial before, unless they are others, without those to test on."""
        images = load_images_once(self.config)
        told = describe_images(images.dataset, images.split)
        self.tell(told)
        self._check_images(images.dataset)
        if DATA_TOLD not in self._trial.study.user_attrs:  # which the sweep's controller says
            self._trial.study.set_user_attr(DATA_TOLD, told)
        return images.without_test()

    @property
    def goes_on(self) -> bool:
        """Whether an earlier trial of the same configuration was lost, so that its checkpoint may be there."""
        return self.config.resume or retry_of(self._trial.frozen) is not None

    def find_left(self, _checkpoint: Checkpoint) -> None:
        """Each trial has a run of its own."""

    def finished_parts(self, checkpoint: Checkpoint) -> list[FinishedPart]:
        """Give the parts that a lost trial has finished, if what the first one left in its folder is still there.

        Those are the weights to be tested at the sweep's end, and the epochs that the study is to know.
        """
        finished = super().finished_parts(checkpoint)
        for folder in self._earlier_folders() if finished else []:
            if (progress := kept.take_over(folder, output_dir())) is not None:
                self.begin(progress)
                return finished
        return []

    def name(self, _images: Images) -> str:
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
    def tags(self) -> dict[str, str]:
        """What tells the trial's run from others; it is a part of the sweep's."""
        tags = self._trial.tags | {"command": self.command, STATE_TAG: "RUNNING"}
        parent = run_id_of(self._trial.study.user_attrs)
        return tags | ({PARENT_TAG: parent} if parent else {})

    def note_run(self, run: LiveRun) -> None:
        """Note the trial's record, and which folder below the sweep's holds its files."""
        hydra = HydraConfig.get()
        self._trial.note(RECORD, run.record.record_id)
        self._trial.note(FOLDER, os.path.relpath(hydra.runtime.output_dir, hydra.sweep.dir))

    def _earlier_folders(self) -> list[Path]:
        """Give the folders of the lost trials that this one tries again, the last one first."""
        sweep = Path(HydraConfig.get().sweep.dir)
        return [sweep / subfolder_of(trial) for trial in self._trial.earlier_attempts()]

    def _check_images(self, dataset: ImageDataset) -> None:
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

    def begin(self, progress: TrainingProgress) -> None:
        """Report the epochs of the lost trial that this one goes on with: of its first training, as of every trial."""
        self._num_trainings += 1
        if self._num_trainings == 1:
            for epoch in range(1, progress.epochs_done + 1):
                self._report(progress, epoch)

    def after_epoch(self, progress: TrainingProgress) -> bool:
        """Report an epoch's objective, of the first training; tell whether to stop."""
        if self._num_trainings == 1:
            self.is_pruned = self._report(progress, progress.epochs_done)
        return self.is_pruned

    def _report(self, progress: TrainingProgress, epoch: int) -> bool:
        value = progress.history[epoch - 1].get(self._objective)
        return value is not None and self._trial.report(value, epoch)

    def finish(self, trained: TrainedNetwork, _run: LiveRun) -> dict[str, float]:
        """Measure the final weights on validation images; give the metrics.

        Training images are measured, and the weights kept in the trial's folder, only where that may matter.
        """
        evaluation, final = trained.evaluate(on_test=False)
        is_part = bool(trained.part.name)
        needs_gap = is_part or "generalization_gap" in self.config.objective
        if needs_gap:
            final = trained.measure_train(final)
        if self.may_be_chosen(final):
            final = final if needs_gap else trained.measure_train(final)
            kept.keep(output_dir(), trained.part.config, trained.model, trained.progress, evaluation.threshold)
        is_shown = self.config.evaluation.pictures == "all"
        trained.log(final | (evaluation.intervals if is_shown else {}))
        if is_shown:
            for failure in trained.report(evaluation):
                log.warning("warning: %s", failure)
        if not is_part:
            trained.record.log_tags({STATE_TAG: "COMPLETE"})
        return final

    def gives_up(self, finals: Sequence[dict[str, float]]) -> bool:
        """Note each part's objective; tell whether the configuration is worse than the best, beyond chance."""
        num_parts = self.config.repeats * self.config.folds
        if num_parts == 1 or not finals:
            return False
        values = [objective_values(final, self.config)[0] for final in finals]
        self._trial.note_if_possible(VALUES, values)
        best = self._trial.best_trial()
        if best is None or len(finals) == num_parts:
            return False
        minimize = OBJECTIVES[self._objective] == "minimize"
        self.is_pruned = clearly_loses(values, values_of(best), minimize=minimize)
        return self.is_pruned

    def ending(self) -> dict[str, str]:
        """Say how the trial ended."""
        return {STATE_TAG: "PRUNED" if self.is_pruned else "COMPLETE"}

    def outcome(self, finals: Sequence[dict[str, float]]) -> float | tuple[float, ...]:
        """Note what the trial measured, and give the objectives.

        Raises:
            TrialPruned: if the trial is not worth going on with.
        """
        if self.is_pruned:
            raise optuna.TrialPruned
        self._trial.note_final(average_metrics(finals))
        return super().outcome(finals)

    def may_be_chosen(self, final: dict[str, float]) -> bool:
        """Tell whether this training's weights may be asked for at the sweep's end: the first ones of a good trial."""
        if self._num_trainings > 1:
            return False
        value = objective_values(final, self.config)[0]
        return self.config.repeats * self.config.folds > 1 or self._trial.would_be_among_best(
            value, max(1, self.config.evaluate_best)
        )
