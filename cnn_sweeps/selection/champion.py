"""What is done with the trials that a sweep has chosen: tested once, drawn, kept as models."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.data.images import load_images_once
from cnn_sweeps.errors import ModelError, TrackingError
from cnn_sweeps.evaluation.metrics import describe_test
from cnn_sweeps.evaluation.results import Evaluation
from cnn_sweeps.experiment.kept import WEIGHTS_FILE, TrialFolder, load_kept
from cnn_sweeps.experiment.trained import TrainedNetwork
from cnn_sweeps.settings.schema import OBJECTIVES, RunConfig
from cnn_sweeps.system.files import LogFile
from cnn_sweeps.tracking import models
from cnn_sweeps.tracking.address import find_store
from cnn_sweeps.tracking.projection import project
from cnn_sweeps.tracking.record import Record
from cnn_sweeps.training.batches import image_tensor
from cnn_sweeps.training.warm import build_network


def registered_name(config: RunConfig, dataset: ImageDataset) -> str:
    """Give the name under which a sweep registers its best model."""
    name = f"{config.tracking.experiment_name}-{dataset.name}"
    return config.tracking.registered_model or re.sub("[/:]", "-", name)  # which MLflow refuses


def evaluate_trial(kept: TrialFolder, tags: dict[str, str], value: float, on_test: bool, keep_model: bool) -> list[str]:
    """Measure a trial's kept weights on the test images, and keep its model as the champion; give what to say of it.

    With several trainings a trial, they are the first one's.

    Args:
        kept: what the trial has left.
        tags: `study` and `trial.number`; the registered model gets them.
        value: the trial's first objective.
        on_test: whether to measure on the test images.
        keep_model: whether to log and register the model.

    Raises:
        DataError: if the images are others now, of which the test images may have been trained on.
        TrackingError: if the store cannot be used; to be called again then.
    """
    folder = Path(kept.path)
    with logged_to(folder / "evaluation.log"):
        trained = _load_trained(kept)
        config, record = trained.part.config, trained.record
        uri, lines, warnings = find_store(config.tracking), [], []
        record.again()
        try:
            evaluation, final = trained.evaluate(on_test=on_test)
            if on_test:
                trained.log(_tested(config, evaluation, final))
                lines.append(f"trial {kept.number} on the test images, once: {describe_test(final)}")
            done = {"test.evaluated": "true"} if on_test else {}
            if keep_model:
                try:
                    trained.log_model(evaluation.threshold)
                    lines.append(_register(trained, uri, tags, value))
                    done["registered.model"] = "true"
                except ModelError as error:
                    warnings.append(str(error))
            warnings += trained.report(evaluation)
            record.log_tags(done)  # last, so that what is cut off is done again
        finally:
            record.end("FINISHED")
        project(folder, uri)
    return [*lines, *(f"warning: trial {kept.number}: {warning}" for warning in warnings)]


def _tested(config: RunConfig, evaluation: Evaluation, final: dict[str, float]) -> dict[str, float]:
    tested = {name: value for name, value in (final | evaluation.intervals).items() if "test_" in name}
    if config.repeats * config.folds > 1 and evaluation.threshold is not None:
        tested["decision_threshold"] = evaluation.threshold  # of the one training that is tested
    return tested


@contextmanager
def logged_to(file: Path) -> Iterator[None]:
    """Have all that is logged in the block, from INFO on, go into a file alone."""
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


def _load_trained(kept: TrialFolder) -> TrainedNetwork:
    part, progress, _ = load_kept(kept)
    network = build_network(part.config, part.images.dataset, len(part.images.split.train))
    network.model.load_weights(Path(kept.path) / WEIGHTS_FILE)
    predict = partial(network.predict, image_tensor(part.images.dataset))
    return TrainedNetwork(part, network.model, predict, progress, Record(Path(kept.path)))


def _register(trained: TrainedNetwork, uri: str, tags: dict[str, str], value: float) -> str:
    config, dataset, folder = trained.part.config, trained.part.images.dataset, trained.record.folder
    run_id = project(folder, uri)
    if run_id is None:
        raise TrackingError(f"{folder}: somebody has deleted the run in MLflow; restore it there, or train it again")
    tags = tags | {"trial.run_id": run_id}
    whole_split = load_images_once(config).split  # before it was divided into folds
    comparable = {
        "comparable.data": whole_split.fingerprint(dataset),
        "comparable.metric": describe_metric(config, len(dataset.class_names)),
    }
    name, minimize = registered_name(config, dataset), OBJECTIVES[config.objective[0]] == "minimize"
    return models.register_champion(name, models.find_model(run_id), tags | comparable, value, minimize=minimize)


def describe_metric(config: RunConfig, num_classes: int) -> str:
    """Say what a trial's first objective is a value of; equal texts mean comparable values, on the same data."""
    metric = config.objective[0]
    if metric == "val_accuracy" and num_classes == 2:
        metric += f" at the threshold of the best {config.evaluation.threshold_metric}"
    return f"{metric}, mean of {config.folds} folds" if config.folds > 1 else metric
