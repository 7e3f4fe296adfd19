"""One run, from the configuration to the record; in a sweep, one trial."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from cnn_sweeps.assembly import build_network, load_data, load_data_once, prepare_libraries
from cnn_sweeps.checkpoint import Checkpoint, TrainingProgress, claim_checkpoint
from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.data.split import Split, balanced_class_weights, without_test_images
from cnn_sweeps.repeats import Training, average_metrics, objective_values, plan_trainings
from cnn_sweeps.schema import RunConfig
from cnn_sweeps.tracking.runs import tracked_run
from cnn_sweeps.tracking.store import find_store

if TYPE_CHECKING:
    from cnn_sweeps.completion import TrainedNetwork
    from cnn_sweeps.epoch_record import EpochRecord
    from cnn_sweeps.network import Network
    from cnn_sweeps.trial_run import TrialRun


log = logging.getLogger(__name__)

# A trial's epochs are kept as often as takes this share of its time: SQLite and the disk take 50 ms, as long as many a
# short epoch.
_SHARE_OF_KEEPING = 0.02


def run_experiment(config: RunConfig) -> float | tuple[float, ...]:
    """Load, split, build, train, evaluate, record; return the objective, or objectives, of the final weights.

    Raises:
        UserError: for whatever the user can fix.
        optuna.TrialPruned: in a sweep, if the trial is not worth going on with.
    """
    prepare_libraries()
    store, trial = find_store(config.tracking), _join_trial(config)
    dataset, split = load_data(config) if trial is None else load_data_once(config)
    _tell_data(dataset, split)
    counts = split.counts(dataset)
    if trial is not None:
        trial.check_data(dataset)
        dataset, split = without_test_images(dataset, split)
    finals: list[dict[str, float]] = []
    trainings = plan_trainings(config, dataset, split)
    is_group = len(trainings) > 1
    with _group_run(store, config, dataset, trial) if is_group else nullcontext():
        for training in trainings:
            if (final := _run_training(training, dataset, counts, store, trial, is_part=is_group)) is None:
                break
            finals.append(final)
            if trial is not None and is_group and trial.clearly_loses(finals):
                break
        is_pruned = len(finals) < len(trainings)
        if is_group:
            _record_group(finals, trial, is_pruned=is_pruned)
    if trial is not None and is_pruned:
        trial.prune()
    objectives = objective_values(average_metrics(finals), config)
    return tuple(objectives) if len(objectives) > 1 else objectives[0]


def _join_trial(config: RunConfig) -> TrialRun | None:
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    from cnn_sweeps.trial_run import join_trial

    return join_trial(config)


@contextmanager
def _native_messages_off() -> Iterator[None]:
    """Keep off the terminal what TensorFlow's libraries write to it while loading, which no setting of theirs does."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _tell_data(dataset: ImageDataset, split: Split) -> None:
    counts = {name: f"{len(getattr(split, name))} {name}" for name in ("train", "val", "test")}
    log.info("%s: %s images of %d classes", dataset.name, ", ".join(counts.values()), len(dataset.class_names))
    if split.num_duplicates:
        log.info("%d images repeat another one; equal images are in one split", split.num_duplicates)
    for names, what in (
        (dataset.skipped_files, "files are no usable images and were skipped"),
        (split.left_out, "images equal one in a later split and are left out"),
        (split.conflicts, "groups of equal images have different classes"),
    ):
        if names:
            log.warning("%d %s: %s", len(names), what, "; ".join(names))


def _run_training(
    training: Training,
    dataset: ImageDataset,
    counts: dict[str, dict[str, int]],
    store: str,
    trial: TrialRun | None,
    *,
    is_part: bool,
) -> dict[str, float] | None:
    """Train and record one network; give its final metrics, or None if the trial was pruned meanwhile."""
    config, split = training.config, training.split
    results_dir = _output_dir() / "results" / (training.name.replace(" ", "_") if is_part else "")
    with ExitStack() as contexts:
        checkpoint = contexts.enter_context(_claim_checkpoint(training, dataset, trial))
        resumed = None if trial is not None or is_part else checkpoint.read_run_id()
        part = training.name if is_part else ""
        run_id = contexts.enter_context(_run(store, config, dataset, trial, part=part, resumed=resumed))
        with _native_messages_off():
            from cnn_sweeps import completion, results
            from cnn_sweeps.epoch_record import EpochRecord
            from cnn_sweeps.tracking import runs

        network = build_network(config, dataset, len(split.train))
        progress = checkpoint.restore(network.model)
        if progress.epochs_done or config.resume:
            log.info(f"resuming after epoch {progress.epochs_done}" if progress.epochs_done else "nothing to resume")
        save_checkpoint = partial(checkpoint.save, network.model, progress, run_id)
        if run_id != resumed:
            results.write_settings(results_dir, config, dataset, split)
            _record_start(dataset, counts, progress, results_dir)
            save_checkpoint()
        if trial is not None and not is_part:
            trial.note_run(run_id)
        reporting = trial if trial is not None and trial.begin_training(progress) else None
        with EpochRecord(save_checkpoint, max_share_of_time=None if trial is None else _SHARE_OF_KEEPING) as record:
            trained = _train(config, dataset, split, network, progress, reporting, record)
        if reporting is not None and reporting.is_pruned:
            log.info("pruned after epoch %d of %d", progress.epochs_done, config.training.epochs)
            runs.set_tags({} if is_part else {runs.STATE_TAG: "PRUNED"})
            return None
        if trial is None:
            return completion.finish_run(trained, results_dir)
        return completion.finish_trial(trained, trial, _output_dir(), is_part=is_part)


def _claim_checkpoint(
    training: Training, dataset: ImageDataset, trial: TrialRun | None
) -> AbstractContextManager[Checkpoint]:
    config = training.config
    return claim_checkpoint(
        Path(config.training.checkpoint_dir),
        config.settings_of_weights | {"fold": training.name if config.folds > 1 else ""},
        dataset.fingerprint,
        resume=config.resume or (trial is not None and trial.is_retry),
        is_trial=trial is not None,
    )


def _output_dir() -> Path:
    return Path(HydraConfig.get().runtime.output_dir)


def _run(
    store: str, config: RunConfig, dataset: ImageDataset, trial: TrialRun | None, *, part: str, resumed: str | None
) -> AbstractContextManager[str]:
    name = part or (trial.name if trial is not None else _run_name(config, dataset))
    tags = {} if trial is None else {"command": trial.command} if part else trial.tags
    settings = config.settings if trial is None else trial.params | config.settings
    is_named_by_user = trial is None and not part
    tracking = config.tracking if is_named_by_user else replace(config.tracking, run_name=None)
    return tracked_run(store, tracking, name, settings, _log_file(), resumed_run_id=resumed, tags=tags)


@contextmanager
def _group_run(store: str, config: RunConfig, dataset: ImageDataset, trial: TrialRun | None) -> Iterator[None]:
    """Record what several trainings have in common; each is a child of it."""
    with _run(store, config, dataset, trial, part="", resumed=None) as run_id:
        if trial is not None:
            trial.note_run(run_id)
        yield


def _record_group(finals: list[dict[str, float]], trial: TrialRun | None, *, is_pruned: bool) -> None:
    from cnn_sweeps.tracking import runs

    if finals:
        runs.log_metrics(average_metrics(finals), step=len(finals))
    if trial is not None:
        runs.set_tags({runs.STATE_TAG: "PRUNED" if is_pruned else "COMPLETE"})


def _run_name(config: RunConfig, dataset: ImageDataset) -> str:
    network = str(config.model["_target_"]).rpartition(".")[2].removeprefix("build_")
    return f"{dataset.name} {network} seed {config.seed}"


def _log_file() -> Path:
    return _output_dir() / f"{HydraConfig.get().job.name}.log"


def _record_start(
    dataset: ImageDataset, counts: dict[str, dict[str, int]], progress: TrainingProgress, results_dir: Path
) -> None:
    """Record what is known before training, and the epochs of a resumed run that the store does not have."""
    from cnn_sweeps.tracking import runs

    runs.log_files(results_dir)
    runs.log_data(dataset, counts)
    for epoch, metrics in enumerate(progress.history, 1):
        runs.log_metrics(metrics, step=epoch)


def _train(
    config: RunConfig,
    dataset: ImageDataset,
    split: Split,
    network: Network,
    progress: TrainingProgress,
    trial: TrialRun | None,
    record: EpochRecord,
) -> TrainedNetwork:
    """Train the network from where `progress` stands, recording each epoch."""
    from cnn_sweeps import training
    from cnn_sweeps.completion import TrainedNetwork
    from cnn_sweeps.data.pipeline import image_tensor, training_images
    from cnn_sweeps.evaluation.metrics import summarize

    images = image_tensor(dataset)
    balanced = config.training.class_weight == "balanced"
    class_weights = balanced_class_weights(dataset.labels[split.train]) if balanced else None
    source = training_images(images, dataset.labels, split.train, class_weights)
    predict = partial(network.predict, images)

    def record_epoch(metrics: dict[str, float]) -> bool:
        objectives = {name: metrics[name] for name in config.objective if name in metrics}
        record.add(objectives | metrics, progress.epochs_done)  # MLflow compares runs by what comes first
        return trial is not None and trial.report_epoch(progress)

    def validate() -> dict[str, float]:
        return summarize(predict(split.val), dataset.labels[split.val])

    training.train(network, source, config.seed, validate, config.training, progress, record_epoch)
    return TrainedNetwork(config, dataset, split, network.model, predict, progress)
