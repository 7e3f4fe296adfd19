"""The best configuration of a sweep, trained again on training and validation images together."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from cnn_sweeps.errors import ModelError
from cnn_sweeps.evaluation import results
from cnn_sweeps.evaluation.metrics import describe_no_better
from cnn_sweeps.experiment.kept import KeptTrial, TrialFolder, load_kept
from cnn_sweeps.experiment.part import training_source
from cnn_sweeps.experiment.trained import TrainedNetwork
from cnn_sweeps.selection.champion import logged_to, registered_name
from cnn_sweeps.tracking import models
from cnn_sweeps.tracking.address import store_of
from cnn_sweeps.tracking.live_run import LiveRun
from cnn_sweeps.tracking.process import run_tags
from cnn_sweeps.training.batches import image_tensor
from cnn_sweeps.training.loop import check_finite, train_epoch, train_metrics
from cnn_sweeps.training.warm import build_network

ALIAS = "retrained"
"""Of the registered model's newest version that was made here; it stands beside the champion."""


def retrain_trial(kept: TrialFolder, tags: dict[str, str], on_test: bool, keep_model: bool) -> list[str]:
    """Train a trial's configuration on training and validation images, for as many epochs as its weights had.

    Nothing is left to validate on, so neither an epoch nor a decision threshold is chosen: both are those of the trial,
    which is what is measured and kept. The learning rate goes as it did over the epochs.

    Args:
        kept: what the trial has left.
        tags: of the new run, which name its parent.
        on_test: whether to measure the network on the test images, once.
        keep_model: whether to log and register it.

    Returns:
        What to say of it.

    Raises:
        DataError: if the images are others now.
    """
    folder = Path(kept.path) / "retrained"
    log_file = Path(kept.path) / "retraining.log"
    with logged_to(log_file):
        trial = load_kept(kept)
        config, store = trial.part.config, store_of(trial.part.config.tracking)
        name = f"trial {kept.number} retrained on train + validation"
        run = LiveRun(folder, store)
        with run.ending(log_file):
            run.record.begin(config.tracking.experiment_name, name, store, run_tags(tags))
            run.record.log_params(config.settings)
            run.start(may_be_away=True)
            return _retrain(trial, kept.number, run, on_test=on_test, keep_model=keep_model)


def _retrain(kept: KeptTrial, number: int, run: LiveRun, *, on_test: bool, keep_model: bool) -> list[str]:
    config, split = kept.part.config, kept.part.images.split
    num_epochs = kept.progress.best_epoch if config.training.restore_best_weights else kept.progress.epochs_done
    both = np.sort(np.concatenate([split.train, split.val]))
    part = replace(kept.part, images=replace(kept.part.images, split=replace(split, train=both, val=split.val[:0])))
    source, network = training_source(part), build_network(config, part.images.dataset, len(both))
    for epoch in range(1, num_epochs + 1):
        train_epoch(network, source, epoch, num_epochs)
        metrics = train_metrics(network.model)
        check_finite(metrics, epoch)
        run.record.log_metrics(metrics, epoch)
        run.catch_up()
    network.measure_batch_statistics(source)
    predict = partial(network.predict, image_tensor(part.images.dataset))
    trained = TrainedNetwork(part, network.model, predict, kept.progress, run.record)
    lines = [f"trial {number} trained again on {len(both)} training and validation images, {num_epochs} epochs"]
    if on_test and len(split.test):
        lines += _test(trained, number, kept.threshold, num_epochs)
    return [*lines, *_keep_model(trained, number, kept.threshold, run)] if keep_model else lines


def _test(trained: TrainedNetwork, number: int, threshold: float | None, num_epochs: int) -> list[str]:
    images = trained.part.images
    test = results.measure_test(trained.predict, images.dataset, images.split, threshold)
    beside = {} if threshold is None else {"decision_threshold": threshold}
    trained.record.log_metrics(test.metrics | test.intervals | beside, num_epochs)
    at = "" if threshold is None else f", decision threshold {threshold:g} as chosen for trial {number}"
    lines = [f"retrained trial {number} on the test images, once: {test.describe()}{at}"]
    if (no_better := describe_no_better(test.metrics)) is not None:
        lines.append(f"warning: retrained trial {number}: {no_better}")
    return lines


def _keep_model(trained: TrainedNetwork, number: int, threshold: float | None, run: LiveRun) -> list[str]:
    images = trained.part.images
    name = registered_name(trained.part.config, images.dataset)
    tags = {"trial.number": str(number), "retrained.images": str(len(images.split.train))}
    try:
        trained.log_model(threshold)
    except ModelError as error:
        return [f"warning: retrained trial {number}: {error}"]
    if (run_id := run.brought_at_once()) is None:
        return [f"its model waits for the tracking store with its run; register it as {name} yourself"]
    return [models.register_beside(name, models.find_model(run_id), tags, ALIAS)]
