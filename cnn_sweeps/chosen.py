"""What is done with the trials that a sweep has chosen: tested once, drawn, kept as models."""

from __future__ import annotations

import json
import logging
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from omegaconf import DictConfig, OmegaConf

from cnn_sweeps.assembly import build_network, load_data_once, prepare_libraries
from cnn_sweeps.checkpoint import TrainingProgress
from cnn_sweeps.config import check_config
from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.data.split import Split
from cnn_sweeps.errors import DataError
from cnn_sweeps.repeats import plan_trainings
from cnn_sweeps.schema import OBJECTIVES, RunConfig
from cnn_sweeps.tracking.store import find_store

if TYPE_CHECKING:
    import keras

WEIGHTS_FILE = "final.weights.h5"
_HISTORY_FILE = "history.json"
_CONFIG_FILE = "config.yaml"


def keep(folder: Path, config: RunConfig, model: keras.Model, progress: TrainingProgress) -> None:
    """Leave in a trial's folder what testing it later needs."""
    OmegaConf.save(OmegaConf.create(config.resolved), folder / _CONFIG_FILE)
    (folder / _HISTORY_FILE).write_text(json.dumps([progress.history, progress.best_epoch]))
    model.save_weights(folder / WEIGHTS_FILE)


class KeptTrial(NamedTuple):
    """What `keep` left of a trial's first training, but for the weights; with the images, test images included."""

    config: RunConfig
    dataset: ImageDataset
    split: Split
    progress: TrainingProgress


def load_kept(folder: Path, number: int, data_fingerprint: str) -> KeptTrial:
    """Read what a trial left in its folder, and load its images.

    Raises:
        DataError: if the images are others now, of which the test images may have been trained on.
    """
    composed = OmegaConf.load(folder / _CONFIG_FILE)
    assert isinstance(composed, DictConfig)
    config = check_config(composed)
    dataset, split = load_data_once(config)
    if dataset.fingerprint != data_fingerprint:
        raise DataError(
            f"data: {dataset.source} holds other images than when trial {number} was trained; restore them to test it"
        )
    training = plan_trainings(config, dataset, split)[0]
    progress = TrainingProgress(*json.loads((folder / _HISTORY_FILE).read_text()))
    return KeptTrial(training.config, dataset, training.split, progress)


def registered_name(config: RunConfig, dataset: ImageDataset) -> str:
    """Give the name under which a sweep registers its best model."""
    name = f"{config.tracking.experiment_name}-{dataset.name}"
    return config.tracking.registered_model or re.sub("[/:]", "-", name)  # which MLflow refuses


def evaluate_trial(
    folder: str,
    number: int,
    run_id: str,
    value: float,
    study_name: str,
    data_fingerprint: str,
    on_test: bool,
    keep_model: bool,
) -> list[str]:
    """Measure a trial's kept weights on the test images, and keep its model as the champion; give what to say of it.

    With several trainings a trial, they are the first one's.

    Args:
        folder: of the trial.
        number: of the trial.
        run_id: of the trial's MLflow run, to which all is added.
        value: the trial's first objective.
        study_name: for the model's lineage.
        data_fingerprint: of the images that the trial was trained on.
        on_test: whether to measure on the test images.
        keep_model: whether to log and register the model.

    Raises:
        DataError: if the images are others now, of which the test images may have been trained on.
    """
    prepare_libraries()
    logging.basicConfig(force=True, level=logging.INFO, filename=Path(folder) / "evaluation.log")
    from cnn_sweeps.data.pipeline import image_tensor
    from cnn_sweeps.tracking import runs
    from cnn_sweeps.trained import TrainedNetwork

    kept = load_kept(Path(folder), number, data_fingerprint)
    dataset, split, config = kept.dataset, kept.split, kept.config
    network = build_network(config, dataset, len(split.train))
    network.model.load_weights(Path(folder) / WEIGHTS_FILE)
    predict = partial(network.predict, image_tensor(dataset))
    trained = TrainedNetwork(config, dataset, split, network.model, predict, kept.progress)
    lines = []
    with runs.reopened_run(find_store(config.tracking), run_id):
        evaluation, final = trained.evaluate(on_test=on_test)
        if on_test:
            tested = {name: value for name, value in (final | evaluation.intervals).items() if "test_" in name}
            runs.log_metrics(tested, step=kept.progress.epochs_done)
            lines.append(f"trial {number} on the test images, once: {describe_test(final)}")
        if config.evaluation.pictures != "none":
            trained.draw(Path(folder) / "results", evaluation)
        if keep_model:
            model_uri = trained.log_model(evaluation.threshold)
            assert model_uri is not None  # a run that is opened again lets nothing wait
            lines.append(_register(config, dataset, model_uri, number, run_id, value, study_name))
        done = {"test.evaluated": "true"} if on_test else {}
        done |= {"registered.model": "true"} if keep_model else {}
        runs.set_tags(done)  # last, so that what is cut off is done again
    return lines


def _register(
    config: RunConfig,
    dataset: ImageDataset,
    model_uri: str,
    number: int,
    run_id: str,
    value: float,
    study_name: str,
) -> str:
    from cnn_sweeps.tracking import models

    split = config.split
    tags = {
        "study": study_name,
        "trial.number": str(number),
        "trial.run_id": run_id,
        "comparable.objective": config.objective[0],
        "comparable.data": dataset.fingerprint,
        "comparable.split": f"{split.val_fraction} {split.test_fraction} {split.seed} folds {config.folds}",
    }
    minimize = OBJECTIVES[config.objective[0]] == "minimize"
    return models.register_champion(registered_name(config, dataset), model_uri, tags, value, minimize=minimize)


def describe_test(metrics: dict[str, float]) -> str:
    """Say what was measured on test images."""
    names = [name for name in ("test_log_loss", "test_accuracy", "test_roc_auc") if name in metrics]
    return ", ".join(f"{name.removeprefix('test_').replace('_', ' ')} {metrics[name]:.4f}" for name in names)
