"""The role of a trial: it reports to the sweep's study and asks whether to go on."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from hydra.core.hydra_config import HydraConfig

from cnn_sweeps.data.images import Images, describe_images, load_images_once
from cnn_sweeps.errors import DataError
from cnn_sweeps.evaluation.per_image import FILES, PerImage, average, parse_csv
from cnn_sweeps.experiment import trial_folder
from cnn_sweeps.experiment.notes import (
    CONFIRMS,
    DATA,
    DATA_SET,
    DATA_TOLD,
    FOLDER,
    PER_IMAGE,
    PROGRAM,
    RECORD,
    VALUES,
    run_id_of,
    subfolder_of,
    values_of,
)
from cnn_sweeps.experiment.parts import RESULTS, average_metrics, clearly_loses, objective_values
from cnn_sweeps.experiment.roles import Role, output_dir, say
from cnn_sweeps.settings.schema import OBJECTIVES, RunConfig, of_one_run
from cnn_sweeps.sweep.application import TRIAL
from cnn_sweeps.sweep.console import rounded_overrides
from cnn_sweeps.sweep.space import by_setting
from cnn_sweeps.sweep.study.job_trial import JobTrial, current_trial
from cnn_sweeps.sweep.study.ledger import retry_of
from cnn_sweeps.text.commands import command_to_repeat, short_overrides
from cnn_sweeps.tracking.database.address import store_of
from cnn_sweeps.tracking.page import describe_data
from cnn_sweeps.tracking.record.entry import CONFIRMS_TAG, PARENT_TAG, STATE_TAG
from cnn_sweeps.tracking.views import link_to_view
from cnn_sweeps.training.progress import TrainingProgress

if TYPE_CHECKING:
    from cnn_sweeps.experiment.trained import TrainedNetwork
    from cnn_sweeps.tracking.live_run import LiveRun

log = logging.getLogger(__name__)


def join_trial(config: RunConfig) -> TrialRole | None:
    """Return the role of this job's trial; None under another sweeper."""
    if (trial := current_trial()) is None:
        return None
    is_further = CONFIRMS in trial.study.user_attrs
    return ConfirmingRole(trial, config) if is_further else TrialRole(trial, config)


class TrialRole(Role):
    """Reports the epochs of the first training and the objective of each training, and asks whether to go on."""

    is_trial = True
    max_share_of_time = 0.02  # SQLite and the disk take 50 ms, as long as a short epoch

    def __init__(self, trial: JobTrial, config: RunConfig) -> None:
        """Take the trial, and the configuration that all its trainings share."""
        super().__init__(config)
        self._trial = trial
        self._objective = config.objective[0]
        self.name = f"trial {trial.number}: {' '.join(short_overrides(rounded_overrides(trial.frozen)))}"
        self.params = by_setting(trial.frozen.params)  # also groups (`optimizer`), which are no settings
        self.goes_on = config.resume or retry_of(trial.frozen) is not None  # its first attempt may have a checkpoint

    def find_store(self) -> str:
        """Return the store without asking it: it answered when the sweep began, and if it is away, the record waits."""
        return store_of(self.config.tracking)

    def load_images(self) -> Images:
        """Return the images without test images; a process loads the same images only once.

        Raises:
            DataError: if they are not those of the study's other trials.
        """
        images, study = load_images_once(self.config), self._trial.study
        description = describe_images(images.dataset, images.split)
        say(description)
        fingerprint, known = images.dataset.fingerprint, study.user_attrs.get(DATA)
        if known is None:
            study.set_user_attr(DATA, fingerprint)
        elif known != fingerprint:
            raise DataError(
                f"data: the images in {images.dataset.source} have changed since the study {study.study_name} began; "
                "restore them, or choose another hydra.sweeper.study_name"
            )
        if DATA_TOLD not in study.user_attrs:  # the sweep's controller shows it, and its own run
            study.set_user_attr(DATA_SET, describe_data(images.dataset, images.counts).model_dump())
            study.set_user_attr(DATA_TOLD, description)
        return images.without_test()

    @cached_property
    def command(self) -> str:
        """The command that trains with the trial's configuration, without a sweep."""
        program = str(self._trial.study.user_attrs.get(PROGRAM, ""))
        return command_to_repeat(program, of_one_run(self.overrides))

    @cached_property
    def tags(self) -> dict[str, str]:
        """The tags of the trial's run, which is a child of the sweep's run."""
        tags = self._trial.tags | {"command": self.command, STATE_TAG: "RUNNING"}
        parent = run_id_of(self._trial.study.user_attrs)
        return tags | ({PARENT_TAG: parent} if parent else {})

    def link_to_others(self, experiment_id: str) -> str:
        """Return a link, in Markdown, to the sweep's trials."""
        if (parent := self.tags.get(PARENT_TAG)) is None:
            return super().link_to_others(experiment_id)
        return f"[The sweep's trials, ranked and drawn]({link_to_view(experiment_id, parent)})"

    def note_run(self, run: LiveRun) -> None:
        """Note the id of the trial's record, and the folder of its files below the sweep's folder."""
        hydra = HydraConfig.get()
        self._trial.note(RECORD, run.record.record_id)
        self._trial.note(FOLDER, os.path.relpath(hydra.runtime.output_dir, hydra.sweep.dir))

    def takes_over(self) -> bool:
        """Copy what the first training of a lost trial left in its folder; return whether it was still there.

        The sweep's end needs its weights for the test, and the study needs its epochs.
        """
        sweep = Path(HydraConfig.get().sweep.dir)
        for earlier in self._trial.earlier_attempts():
            if (progress := trial_folder.take_over(sweep / subfolder_of(earlier), output_dir())) is not None:
                self.begin(progress)
                return True
        return False

    def begin(self, progress: TrainingProgress) -> None:
        """Report the epochs that an earlier attempt of this trial has finished."""
        for epoch in range(1, progress.epochs_done + 1):
            self._report(progress, epoch)

    def after_epoch(self, progress: TrainingProgress) -> bool:
        """Report an epoch's objective; return whether to stop."""
        self.is_pruned = self._report(progress, progress.epochs_done)
        return self.is_pruned

    def _report(self, progress: TrainingProgress, epoch: int) -> bool:
        value = progress.history[epoch - 1].get(self._objective)
        return value is not None and self._trial.report(value, epoch)

    def finish(self, trained: TrainedNetwork, _run: LiveRun) -> dict[str, float]:
        """Measure the final weights on validation images; return the metrics.

        To save time, it measures training images and keeps weights only where the sweep may need them.
        """
        evaluation, final = trained.evaluate(on_test=False)
        needs_gap = bool(trained.part.name) or "generalization_gap" in self.config.objective
        if needs_gap:
            final = trained.measure_train(final)
        if trained.part.is_first and self._may_be_chosen(final):
            final = final if needs_gap else trained.measure_train(final)
            trial_folder.keep(output_dir(), trained, evaluation.threshold)
        is_shown = self.config.evaluation.pictures == "all"
        trained.record.log_metrics(final | (evaluation.intervals if is_shown else {}), 0)
        trained.log_outcome(evaluation)
        trained.keep_per_image(evaluation)
        if is_shown:
            for failure in trained.report(evaluation):
                log.warning("warning: %s", failure)
        return final

    def gives_up(self, finals: Sequence[dict[str, float]]) -> bool:
        """Note each part's objective; return whether the configuration is clearly worse than the best one."""
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

    def outcome(self, finals: Sequence[dict[str, float]]) -> float | tuple[float, ...]:
        """Note the trial's metrics in the study, and return the objectives.

        Raises:
            TrialPruned: if the trial is pruned.
        """
        if self.is_pruned:
            raise optuna.TrialPruned
        self._trial.note_final(average_metrics(finals))
        if trainings := list(_read_per_image(output_dir())):
            metrics = {"val_log_loss", *self.config.objective}
            self._trial.note_if_possible(PER_IMAGE, average(trainings).for_study(metrics))
        return super().outcome(finals)

    def _may_be_chosen(self, final: dict[str, float]) -> bool:
        """Return whether the sweep's end may need the first training's weights, since the trial is among the best."""
        config, value = self.config, objective_values(final, self.config)[0]
        if config.repeats * config.folds > 1 or config.prefer is not None:
            return True
        return self._trial.would_be_among_best(value, max(1, config.evaluate_best, config.confirm))


class ConfirmingRole(TrialRole):
    """Repeats a sweep's trial with another seed, without pruning; only its metrics are needed."""

    def __init__(self, trial: JobTrial, config: RunConfig) -> None:
        """Take a trial of the study of repeated trials, which stands beside the sweep's study."""
        super().__init__(trial, config)
        self._number = str(trial.frozen.params[TRIAL])
        self.name, self.params = f"trial {self._number} again, seed {config.seed}", {}

    @cached_property
    def tags(self) -> dict[str, str]:
        """The tags of the run, without its number in its own study, which would look like a number of the sweep."""
        study = str(self._trial.study.user_attrs[CONFIRMS])
        others = {key: text for key, text in super().tags.items() if key not in {*self._trial.tags, STATE_TAG}}
        return others | {"study": study, CONFIRMS_TAG: self._number}

    def takes_over(self) -> bool:
        """Return True: finished trainings have no files to copy."""
        return True

    def after_epoch(self, progress: TrainingProgress) -> bool:
        """Report an epoch's objective; go on."""
        self._report(progress, progress.epochs_done)
        return False

    def gives_up(self, _finals: Sequence[dict[str, float]]) -> bool:
        """Go on."""
        return False

    def _may_be_chosen(self, _final: dict[str, float]) -> bool:
        return False


def _read_per_image(folder: Path) -> Iterator[PerImage]:
    """Yield the results for each validation image, of each training of a trial."""
    file = Path(RESULTS, FILES["final_val"])
    for found in [folder / file] if (folder / file).exists() else sorted(folder.glob(f"*/{file}")):
        yield parse_csv(found.read_text(encoding="utf-8"))
