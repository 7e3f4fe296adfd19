"""Work on the chosen trials of a sweep, in a worker: test them once, register the champion, retrain it.

Each function returns lines to show, and attributes for the study, by which the sweep knows that it is done.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.entities.model_registry import ModelVersion

from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.data.images import load_images_once
from cnn_sweeps.errors import TrackingError
from cnn_sweeps.evaluation import results
from cnn_sweeps.evaluation.metrics import describe_no_better, describe_test
from cnn_sweeps.experiment.notes import REGISTERED, REGISTERED_AS, REGISTERED_MODEL, RETRAINED, TESTED
from cnn_sweeps.experiment.part import build_part, train_part
from cnn_sweeps.experiment.parts import describe_mean
from cnn_sweeps.experiment.recording import EpochRecorder
from cnn_sweeps.experiment.roles import Role
from cnn_sweeps.experiment.trained import TrainedNetwork
from cnn_sweeps.experiment.trial_folder import WEIGHTS_FILE, TrialFolder, load_kept
from cnn_sweeps.settings.schema import OBJECTIVES, ReportConfig, RunConfig
from cnn_sweeps.system.files import LogFile
from cnn_sweeps.text.names import for_markdown
from cnn_sweeps.text.numbers import counted, probability_text
from cnn_sweeps.tracking import models
from cnn_sweeps.tracking.database.address import find_existing_store, store_of
from cnn_sweeps.tracking.live_run import LiveRun
from cnn_sweeps.tracking.page import describe_data
from cnn_sweeps.tracking.projection import project
from cnn_sweeps.tracking.record.entry import Recorded
from cnn_sweeps.tracking.record.process import run_tags
from cnn_sweeps.tracking.record.record import Record
from cnn_sweeps.training.inputs import Inputs
from cnn_sweeps.training.progress import TrainingProgress

Done = tuple[list[str], dict[str, Any]]


def evaluate_trial(
    kept: TrialFolder, tags: dict[str, str], value: float, on_test: bool, chosen: str, shown: ReportConfig
) -> Done:
    """Measure the weights that a trial has kept, and register its model.

    If the trial had several trainings, these are the weights of the first.

    Args:
        kept: the folder of the trial.
        tags: for the model.
        value: the trial's first objective, which is compared with that of the current champion.
        on_test: whether to measure on the test images, too.
        chosen: how the trial was chosen, in Markdown: its page and that of the model begin with it. The model is
            registered only if there is something to say.
        shown: the current settings of the report; those of the trial do not count.

    Raises:
        DataError: if the images have changed: the trial may have trained on what are test images now.
        TrackingError: if the store cannot be used; the caller tries again.
    """
    folder, done = Path(kept.path), dict[str, Any]()
    lines = list[str]()
    with logged_to(folder / "evaluation.log"):
        trained = _load_trained(kept, shown)
        record, uri = trained.record, find_existing_store(trained.part.config.tracking.uri)
        before = record.again()
        try:
            evaluation, final = trained.evaluate(on_test=on_test)
            if on_test:
                tested = {name: each for name, each in (final | evaluation.intervals).items() if "test_" in name}
                if evaluation.threshold is not None:
                    tested["decision_threshold"] = evaluation.threshold  # of the one training that is tested
                trained.record.log_metrics(tested, 0)
                lines.append(f"trial {kept.number} on the test images, once: {describe_test(tested)}")
                done[f"{TESTED}{kept.number}"] = {name: each for name, each in tested.items() if math.isfinite(each)}
            warnings = trained.log_model(evaluation.threshold) if chosen else []
            trained.log_outcome(evaluation, _describe_parts(trained.part.config, before), chosen)
            if chosen and not warnings:
                measured = f"{evaluation.held_out.title}: {evaluation.held_out.describe()}"
                version, alias = _register(trained, tags, value, f"{chosen}  \n{measured}")
                registered, model = (
                    f"registered as {version.name} version {version.version}",
                    models.address_of(version),
                )
                lines.append(registered + alias)
                done |= {REGISTERED: kept.number, REGISTERED_AS: registered, REGISTERED_MODEL: model}
            warnings += trained.report(evaluation)
        finally:
            record.end("FINISHED")
        project(folder, uri)
    return [*lines, *(f"warning: trial {kept.number}: {warning}" for warning in warnings)], done


@contextmanager
def logged_to(file: Path) -> Iterator[None]:
    """Log everything in the block, from INFO on, into a file only."""
    logger, handler = logging.getLogger(), LogFile(file)
    handlers, level = logger.handlers, logger.level
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers = handlers
        logger.setLevel(level)
        handler.close()


def _load_trained(kept: TrialFolder, shown: ReportConfig) -> TrainedNetwork:
    part, progress, _ = load_kept(kept)
    part = replace(part, config=replace(part.config, report=shown))
    network = build_part(part, is_fine_tuned=progress.fine_tuned_after is not None)
    network.model.load_weights(Path(kept.path) / WEIGHTS_FILE)
    predict = Inputs(network, part.images, part.config).predict
    return TrainedNetwork(part, network, predict, progress, Record(Path(kept.path)))


def _describe_parts(config: RunConfig, recorded: Recorded) -> str:
    """Describe the means over a trial's trainings; empty if it had only one."""
    if (num_parts := config.repeats * config.folds) == 1:
        return ""
    return describe_mean({name: each for name, each in recorded.newest.items() if "_val_" in name}, num_parts)


def _register(trained: TrainedNetwork, tags: dict[str, str], value: float, measured: str) -> tuple[ModelVersion, str]:
    config, dataset, folder = trained.part.config, trained.part.images.dataset, trained.record.folder
    if (run_id := project(folder, find_existing_store(config.tracking.uri))) is None:
        raise TrackingError(f"{folder}: somebody has deleted the run in MLflow; restore it there, or train again")
    tags = tags | {
        "trial.run_id": run_id,
        "comparable.data": load_images_once(config).split.fingerprint(dataset),  # without the division into folds
        "comparable.metric": _describe_metric(config, len(dataset.class_names)),
    }
    name, minimize = _registered_name(config, dataset), OBJECTIVES[config.objective[0]] == "minimize"
    return models.register_champion(name, models.find_model(run_id), tags, value, measured, minimize=minimize)


def _registered_name(config: RunConfig, dataset: ImageDataset) -> str:
    name = f"{config.tracking.experiment_name}-{dataset.name}"
    return config.tracking.registered_model or re.sub("[/:]", "-", name)  # MLflow refuses both letters


def _describe_metric(config: RunConfig, num_classes: int) -> str:
    """Describe a trial's first objective; on the same data, values with equal descriptions can be compared."""
    metric = config.objective[0]
    if metric == "val_accuracy" and num_classes == 2:
        metric += f" at the threshold of the best {config.evaluation.threshold_metric}"
    return f"{metric}, mean of {config.folds} folds" if config.folds > 1 else metric


def retrain_trial(kept: TrialFolder, tags: dict[str, str], on_test: bool, keep_model: bool) -> Done:
    """Train a trial's configuration on training and validation images, for as many epochs as its weights had.

    There are no validation images then, so the number of epochs and the decision threshold are those of the trial. The
    new run gets the tags, which name its parent.

    Raises:
        DataError: if the images have changed since the trial.
    """
    number, log_file = kept.number, Path(kept.path) / "retraining.log"
    with logged_to(log_file):
        part, progress, threshold = load_kept(kept)
        role, split = Retraining(part.config, progress), part.images.split
        both, config = np.sort(np.concatenate([split.train, split.val])), role.config
        images = replace(part.images, split=replace(split, train=both, val=split.val[:0]))
        part = replace(part, config=config, images=images)
        store = store_of(config.tracking)
        run, name = LiveRun(Path(kept.path) / "retrained", store), f"trial {number} retrained on train + validation"
        with run.ending(log_file):
            run.record.begin(config.tracking.experiment_name, name, store, run_tags(tags))
            run.record.log_params(config.settings)
            run.record.add(describe_data(images.dataset, images.counts))
            run.start(may_be_away=True)
            keeper = EpochRecorder(run, lambda _model: None, max_share_of_time=0.02)
            trained = train_part(part, role, build_part(part), TrainingProgress(), keeper)
            told = f"{len(both)} training and validation images, {counted(role.num_epochs, 'epoch')}"
            failures = trained.log_model(threshold) if keep_model else []
            lines = [f"trial {number} trained again on {told}"]
            outcome = [f"Trial {number} of the study {for_markdown(tags['study'])} trained again on {told}"]
            if on_test and len(split.test):
                test = results.measure_test(trained.predict, images.dataset, images.split, threshold)
                outcome.append(f"**Test images**: {test.describe()}")
                lines += _log_retrained_test(trained, number, test)
            run.record.log_outcome(*outcome)
            if keep_model and not failures:
                lines += _register_retrained(trained, number, run, "  \n".join(outcome))
    return [*lines, *(f"warning: retrained trial {number}: {failure}" for failure in failures)], {
        RETRAINED: str(number)
    }


class Retraining(Role):
    """Stops after as many epochs as led to a trial's weights; the learning rate's schedule is that of all epochs."""

    def __init__(self, config: RunConfig, progress: TrainingProgress) -> None:
        """Take a trial's settings and progress; fine-tuning is left out if it brought no better weights."""
        is_best, begun = config.training.restore_best_weights, progress.fine_tuned_after
        last = progress.best_epoch if is_best else progress.epochs_done
        self._before, self.num_epochs = last, last
        if begun is not None and last > begun:
            self._before = progress.best_epoch_before if is_best else begun
            self.num_epochs = self._before + last - begun
        elif config.fine_tune:
            config = replace(config, model=config.model | {"fine_tune": 0})
        super().__init__(config)

    def after_epoch(self, progress: TrainingProgress) -> bool:
        """Return whether the network has had all its epochs, before fine-tuning or with it."""
        return progress.epochs_done == (self._before if progress.fine_tuned_after is None else self.num_epochs)


def _log_retrained_test(trained: TrainedNetwork, number: int, test: results.Measured) -> list[str]:
    threshold = test.threshold
    at_threshold = {} if threshold is None else {"decision_threshold": threshold}
    trained.record.log_metrics(test.metrics | test.intervals | at_threshold, 0)
    at = "" if threshold is None else f", at trial {number}'s decision threshold {probability_text(threshold)}"
    no_better = describe_no_better(test.metrics)
    warnings = [f"warning: retrained trial {number}: {no_better}"] if no_better is not None else []
    return [f"retrained trial {number} on the test images, once: {test.describe()}{at}", *warnings]


def _register_retrained(trained: TrainedNetwork, number: int, run: LiveRun, told: str) -> list[str]:
    """Register the network beside the champion, under its own alias, with a description."""
    images = trained.part.images
    name = _registered_name(trained.part.config, images.dataset)
    if (run_id := run.brought_at_once()) is None:
        return [f"its run and model wait until the tracking store answers; then register the model as {name} yourself"]
    tags = {"trial.number": str(number), "retrained.images": str(len(images.split.train))}
    return [models.register_beside(name, models.find_model(run_id), tags, told, "retrained")]
