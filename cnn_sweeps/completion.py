"""What is done with a network once it is trained: measured, recorded, drawn, kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import keras

from cnn_sweeps import chosen, results
from cnn_sweeps.checkpoint import TrainingProgress
from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.data.split import Split
from cnn_sweeps.models import plain_copy
from cnn_sweeps.results import Predict
from cnn_sweeps.schema import RunConfig
from cnn_sweeps.tracking import models, runs
from cnn_sweeps.trial_run import TrialRun


@dataclass(frozen=True)
class TrainedNetwork:
    """A training that has come to its end.

    Attributes:
        config: of the training.
        dataset: the images.
        split: which images were for what; without test images in a sweep.
        model: with its final weights.
        predict: gives its probabilities.
        progress: what the epochs measured.
    """

    config: RunConfig
    dataset: ImageDataset
    split: Split
    model: keras.Model
    predict: Predict
    progress: TrainingProgress

    def measure_validation(self) -> dict[str, float]:
        """Give how the training went and the final weights' metrics on validation images, which cost nothing."""
        return results.final_validation(self.model, self.progress, self.config.training)

    def measure_train(self, final: dict[str, float]) -> dict[str, float]:
        """Add the metrics on training images, and the gap, to those on validation images."""
        return final | results.evaluate_on_train(self.predict, self.dataset, self.split, final)


def finish_run(trained: TrainedNetwork, results_dir: Path) -> dict[str, float]:
    """Measure the final weights on all images, draw and keep the model; give the metrics."""
    config, dataset, split, progress = trained.config, trained.dataset, trained.split, trained.progress
    final, test_probabilities = trained.measure_train(trained.measure_validation()), None
    if len(split.test):
        measured, test_probabilities = results.evaluate_on_test(trained.predict, dataset, split)
        final |= measured
    runs.log_metrics(final, step=progress.epochs_done)
    results.write_pictures(results_dir, config, dataset, split, progress, test_probabilities)
    runs.log_files(results_dir)
    if config.tracking.log_model:
        record = models.ModelRecord(tuple(dataset.class_names), dataset.image_shape, decision_threshold=None)
        models.log_model(plain_copy(trained.model), record, dataset.images[split.train[:1]])
    return final


def finish_trial(trained: TrainedNetwork, trial: TrialRun, folder: Path, *, is_part: bool) -> dict[str, float]:
    """Give the final metrics; measure training images, and keep the weights in `folder`, only where that may matter."""
    final = trained.measure_validation()
    needs_gap = is_part or "generalization_gap" in trained.config.objective
    if needs_gap:
        final = trained.measure_train(final)
    if trial.may_be_chosen(final):
        final = final if needs_gap else trained.measure_train(final)
        chosen.keep(folder, trained.config, trained.model, trained.progress)
    runs.log_metrics(final, step=trained.progress.epochs_done)
    if not is_part:
        runs.set_tags({runs.STATE_TAG: "COMPLETE"})
    return final
