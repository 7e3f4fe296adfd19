"""What is done with the trials that a sweep has chosen: tested once, drawn, kept as models."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from omegaconf import OmegaConf

from cnn_sweeps.assembly import build_network, load_data_once, prepare_libraries
from cnn_sweeps.checkpoint import TrainingProgress
from cnn_sweeps.config import check_values
from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.data.split import Split
from cnn_sweeps.errors import DataError, ModelError
from cnn_sweeps.repeats import plan_trainings
from cnn_sweeps.schema import OBJECTIVES, RunConfig
from cnn_sweeps.stored_config import Trusted, parse_stored, trusted_values
from cnn_sweeps.tracking.store import find_store
from cnn_sweeps.whole_files import LogFile, replace_whole

if TYPE_CHECKING:
    import keras

    from cnn_sweeps.trained import TrainedNetwork

WEIGHTS_FILE = "final.weights.h5"
_HISTORY_FILE = "history.json"
_CONFIG_FILE = "config.yaml"


def keep(
    folder: Path, config: RunConfig, model: keras.Model, progress: TrainingProgress, threshold: float | None
) -> None:
    """Leave in a trial's folder what testing and retraining it later need."""
    OmegaConf.save(OmegaConf.create(config.resolved), folder / _CONFIG_FILE)
    (folder / _HISTORY_FILE).write_text(json.dumps([progress.history, progress.best_epoch, threshold]))
    model.save_weights(folder / WEIGHTS_FILE)


def take_over(earlier: Path, folder: Path) -> TrainingProgress | None:
    """Copy what `keep` left in the folder of an earlier attempt; give how that went, or None if nothing is there."""
    if not (earlier / WEIGHTS_FILE).exists():
        return None
    for name in (_CONFIG_FILE, _HISTORY_FILE, WEIGHTS_FILE):  # the weights last: where they are, the others are
        replace_whole(folder / name, (earlier / name).read_bytes())
    return _load_history(folder)[0]


def _load_history(folder: Path) -> tuple[TrainingProgress, float | None]:
    history, best_epoch, threshold = json.loads((folder / _HISTORY_FILE).read_text())
    return TrainingProgress(history, best_epoch), threshold


class KeptTrial(NamedTuple):
    """What `keep` left of a trial's first training, but for the weights; with the images, test images included.

    The threshold is the decision threshold, of two classes.
    """

    config: RunConfig
    dataset: ImageDataset
    split: Split
    progress: TrainingProgress
    threshold: float | None


def load_kept(folder: Path, number: int, data_fingerprint: str, trusted: Trusted) -> KeptTrial:
    """Read what a trial left in its folder, and load its images.

    Raises:
        ConfigError: if its configuration names anything that the sweep's own does not.
        DataError: if the images are others now, of which the test images may have been trained on.
    """
    what, text = f"{folder / _CONFIG_FILE}", (folder / _CONFIG_FILE).read_text(encoding="utf-8", errors="replace")
    tree = parse_stored(text, what)
    tree = {**tree, **trusted.groups} if isinstance(tree, dict) else tree
    config = check_values(trusted_values(tree, trusted, what, "the sweep's own configuration must name {}"), tree)
    dataset, split = load_data_once(config)
    if dataset.fingerprint != data_fingerprint:
        raise DataError(
            f"data: {dataset.source} holds other images than when trial {number} was trained; restore them to test it"
        )
    training = plan_trainings(config, dataset, split)[0]
    progress, threshold = _load_history(folder)
    return KeptTrial(training.config, dataset, training.split, progress, threshold)


def registered_name(config: RunConfig, dataset: ImageDataset) -> str:
    """Give the name under which a sweep registers its best model."""
    name = f"{config.tracking.experiment_name}-{dataset.name}"
    return config.tracking.registered_model or re.sub("[/:]", "-", name)  # which MLflow refuses


def evaluate_trial(
    folder: str,
    tags: dict[str, str],
    value: float,
    data_fingerprint: str,
    on_test: bool,
    keep_model: bool,
    trusted: Trusted,
) -> list[str]:
    """Measure a trial's kept weights on the test images, and keep its model as the champion; give what to say of it.

    With several trainings a trial, they are the first one's.

    Args:
        folder: of the trial.
        tags: `study`, `trial.number` and `trial.run_id`, of the run to which all is added; the model gets them, too.
        value: the trial's first objective.
        data_fingerprint: of the images that the trial was trained on.
        on_test: whether to measure on the test images.
        keep_model: whether to log and register the model.
        trusted: what the trial's configuration may name.

    Raises:
        DataError: if the images are others now, of which the test images may have been trained on.
    """
    prepare_libraries()
    with logged_to(Path(folder) / "evaluation.log"):
        from cnn_sweeps.tracking import runs

        trained = _load_trained(Path(folder), int(tags["trial.number"]), data_fingerprint, trusted)
        lines = []
        with runs.reopened_run(find_store(trained.config.tracking), tags["trial.run_id"]):
            evaluation, final = trained.evaluate(on_test=on_test)
            if on_test:
                tested = {name: value for name, value in (final | evaluation.intervals).items() if "test_" in name}
                if trained.config.repeats * trained.config.folds > 1 and evaluation.threshold is not None:
                    tested["decision_threshold"] = evaluation.threshold  # of the one training that is tested
                runs.log_metrics(tested, step=trained.progress.epochs_done)
                lines.append(f"trial {tags['trial.number']} on the test images, once: {describe_test(final)}")
            done, warnings = {"test.evaluated": "true"} if on_test else {}, []
            if keep_model:
                try:
                    model_uri = trained.log_model(evaluation.threshold, Path(folder) / "results")
                    assert model_uri is not None  # a run that is opened again lets nothing wait
                    lines.append(_register(trained, model_uri, tags, value))
                    done["registered.model"] = "true"
                except ModelError as error:
                    warnings.append(str(error))
            warnings += trained.report(Path(folder) / "results", evaluation)
            runs.set_tags(done)  # last, so that what is cut off is done again
    return [*lines, *(f"warning: trial {tags['trial.number']}: {warning}" for warning in warnings)]


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


def _load_trained(folder: Path, number: int, data_fingerprint: str, trusted: Trusted) -> TrainedNetwork:
    from cnn_sweeps.data.pipeline import image_tensor
    from cnn_sweeps.trained import TrainedNetwork

    config, dataset, split, progress, _ = load_kept(folder, number, data_fingerprint, trusted)
    network = build_network(config, dataset, len(split.train))
    network.model.load_weights(folder / WEIGHTS_FILE)
    return TrainedNetwork(
        config, dataset, split, network.model, partial(network.predict, image_tensor(dataset)), progress
    )


def _register(trained: TrainedNetwork, model_uri: str, tags: dict[str, str], value: float) -> str:
    from cnn_sweeps.tracking import models

    config, dataset = trained.config, trained.dataset
    _, whole_split = load_data_once(config)  # before it was divided into folds
    comparable = {
        "comparable.data": whole_split.fingerprint(dataset),
        "comparable.metric": describe_metric(config, len(dataset.class_names)),
    }
    name, minimize = registered_name(config, dataset), OBJECTIVES[config.objective[0]] == "minimize"
    return models.register_champion(name, model_uri, tags | comparable, value, minimize=minimize)


def describe_metric(config: RunConfig, num_classes: int) -> str:
    """Say what a trial's first objective is a value of; equal texts mean comparable values, on the same data."""
    metric = config.objective[0]
    if metric == "val_accuracy" and num_classes == 2:
        metric += f" at the threshold of the best {config.evaluation.threshold_metric}"
    return f"{metric}, mean of {config.folds} folds" if config.folds > 1 else metric


def describe_test(metrics: dict[str, float]) -> str:
    """Say what was measured on test images, at which threshold, and what naming the commonest class would give."""
    names = [name for name in ("test_log_loss", "test_accuracy", "test_roc_auc") if name in metrics]
    told = [f"{name.removeprefix('test_').replace('_', ' ')} {metrics[name]:.4f}" for name in names]
    for name, text in (
        ("test_accuracy_at_half", "{:.4f} at 0.5"),
        ("test_accuracy_of_commonest_class", "{:.4f} by naming the commonest class"),
        ("decision_threshold", "decision threshold {:g}"),
    ):
        told += [text.format(metrics[name])] if name in metrics else []
    return ", ".join(told)
