"""One run, from the configuration to the record; in a sweep, one trial."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.data.images import describe_data, load_data, load_data_once
from cnn_sweeps.data.split import Split, balanced_class_weights, without_test_images
from cnn_sweeps.experiment import kept
from cnn_sweeps.experiment.parts import Training, average_metrics, objective_values, plan_trainings
from cnn_sweeps.experiment.recording import Group, Role, open_group, open_run, output_dir, record_group, record_start
from cnn_sweeps.settings.schema import RunConfig
from cnn_sweeps.system.libraries import native_messages_off, prepare_libraries
from cnn_sweeps.system.patience import patiently
from cnn_sweeps.tracking.store import find_store
from cnn_sweeps.training.checkpoint import Checkpoint, FinishedPart, TrainingProgress, claim_checkpoint

if TYPE_CHECKING:
    from cnn_sweeps.experiment.epoch_record import EpochRecord
    from cnn_sweeps.experiment.reproduction import Reproduction
    from cnn_sweeps.experiment.trained import TrainedNetwork
    from cnn_sweeps.experiment.trial import TrialRun
    from cnn_sweeps.training.network import Network


log = logging.getLogger(__name__)

# A trial's epochs are kept as often as takes this share of its time: SQLite and the disk take 50 ms, as long as many a
# short epoch.
_SHARE_OF_KEEPING = 0.02


def run_experiment(config: RunConfig, reproduction: Reproduction | None = None) -> float | tuple[float, ...]:
    """Load, split, build, train, evaluate, record; return the objective, or objectives, of the final weights.

    A pruned trial that is reproduced has none.

    Raises:
        UserError: for whatever the user can fix.
        optuna.TrialPruned: in a sweep, if the trial is not worth going on with.
    """
    prepare_libraries()
    trial, look_for_store = _join_trial(config), partial(find_store, config.tracking)
    store = look_for_store() if trial is None else patiently(look_for_store, log.warning)
    role = trial or reproduction
    dataset, split = load_data(config) if trial is None else load_data_once(config)
    told = describe_data(dataset, split)
    for line in told:
        log.info("%s", line)
    counts = split.counts(dataset)
    if role is not None:
        role.check_data(dataset)
    if trial is not None:
        trial.tell_data(told)
    if trial is not None or (reproduction is not None and not reproduction.is_tested):
        dataset, split = without_test_images(dataset, split)
    trainings = plan_trainings(config, dataset, split)
    with ExitStack() as contexts:
        group: Group | None = None
        if len(trainings) > 1:
            checkpoint = contexts.enter_context(_claim_checkpoint_of_group(config, dataset, trial))
            finished = _finished_parts(checkpoint, trial)
            group = contexts.enter_context(
                open_group(store, config, dataset, split, counts, role, checkpoint, finished)
            )
        finals = group.finals if group is not None else []
        while not (group and trial and finals and trial.clearly_loses(finals)) and len(finals) < len(trainings):
            final = _run_training(trainings[len(finals)], dataset, counts, store, trial, role, group)
            if final is None:
                break
            finals.append(final)
        is_pruned = len(finals) < len(trainings)
        if group is not None:
            record_group(finals, trial, is_pruned=is_pruned)
    if trial is not None and is_pruned:
        trial.prune()
    objectives = objective_values(average_metrics(finals), config) if finals else []
    return objectives[0] if len(objectives) == 1 else tuple(objectives)


def _join_trial(config: RunConfig) -> TrialRun | None:
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    from cnn_sweeps.experiment.trial import join_trial

    return join_trial(config)


def _finished_parts(checkpoint: Checkpoint, trial: TrialRun | None) -> list[FinishedPart]:
    """Give the parts that an ended process has finished.

    Of a trial they count only if what the first one left in the folder of a lost trial is still there: the weights to
    be tested at the sweep's end, and the epochs that the study is to know.
    """
    finished = checkpoint.read_parts()
    if trial is None or not finished:
        return finished
    for folder in trial.earlier_folders():
        if (progress := kept.take_over(folder, output_dir())) is not None:
            trial.begin_training(progress)
            return finished
    return []


def _run_training(
    training: Training,
    dataset: ImageDataset,
    counts: dict[str, dict[str, int]],
    store: str,
    trial: TrialRun | None,
    role: Role,
    group: Group | None,
) -> dict[str, float] | None:
    """Train and record one network; give its final metrics, or None if the trial was pruned meanwhile."""
    with _claim_checkpoint(training, dataset, trial) as checkpoint:
        run_id, final = _record_training(training, dataset, counts, store, trial, role, group, checkpoint)
        if group is not None and final is not None:
            group.keep(run_id, final)
    return final


def _record_training(
    training: Training,
    dataset: ImageDataset,
    counts: dict[str, dict[str, int]],
    store: str,
    trial: TrialRun | None,
    role: Role,
    group: Group | None,
    checkpoint: Checkpoint,
) -> tuple[str, dict[str, float] | None]:
    """Do what `_run_training` does, and give the id of the run, too."""
    config, split, is_part = training.config, training.split, group is not None
    results_dir = output_dir() / "results" / (training.name.replace(" ", "_") if is_part else "")
    with ExitStack() as contexts:
        part = training.name if is_part else ""
        recorded = checkpoint.read_run_id()
        left = group.find_left(part) if group is not None else recorded if trial is None else None
        run_id = contexts.enter_context(open_run(store, config, dataset, role, part, left))
        with native_messages_off():
            from cnn_sweeps.experiment import completion
            from cnn_sweeps.experiment.epoch_record import EpochRecord
            from cnn_sweeps.tracking import runs
            from cnn_sweeps.training.warm import build_network

        network = build_network(config, dataset, len(split.train))
        progress = checkpoint.restore(network.model)
        if progress.epochs_done or (config.resume and not is_part):
            log.info(f"resuming after epoch {progress.epochs_done}" if progress.epochs_done else "nothing to resume")
        save_checkpoint = partial(checkpoint.save, network.model, progress, run_id)
        if run_id != recorded:
            whole_id = group.run_id if group is not None else run_id
            record_start(config, dataset, split, counts, role, results_dir, whole_id, part, progress.history)
            save_checkpoint()
        if role is not None and not is_part:
            role.note_run(run_id)
        reporting = role if role is not None and role.begin_training(progress) else None
        with EpochRecord(save_checkpoint, max_share_of_time=None if trial is None else _SHARE_OF_KEEPING) as record:
            trained = _train(config, dataset, split, network, progress, reporting, record)
        if reporting is not None and reporting.is_pruned:
            log.info("pruned after epoch %d of %d", progress.epochs_done, config.training.epochs)
            runs.set_tags({} if is_part else {runs.STATE_TAG: "PRUNED"})
            return run_id, None
        if trial is None:
            return run_id, completion.finish_run(trained, results_dir)
        return run_id, completion.finish_trial(trained, trial, output_dir(), is_part=is_part)


def _claim_checkpoint(
    training: Training, dataset: ImageDataset, trial: TrialRun | None
) -> AbstractContextManager[Checkpoint]:
    fold = {"fold": training.name if training.config.folds > 1 else ""}
    return _claim(training.config, training.config.settings_of_weights | fold, dataset, trial)


def _claim_checkpoint_of_group(
    config: RunConfig, dataset: ImageDataset, trial: TrialRun | None
) -> AbstractContextManager[Checkpoint]:
    measured = {"evaluation.threshold_metric": config.evaluation.threshold_metric}
    return _claim(config, config.settings_of_result | measured | {"fold": "all"}, dataset, trial)


def _claim(
    config: RunConfig, settings: dict[str, Any], dataset: ImageDataset, trial: TrialRun | None
) -> AbstractContextManager[Checkpoint]:
    return claim_checkpoint(
        Path(config.training.checkpoint_dir),
        settings,
        dataset.fingerprint,
        resume=config.resume or (trial is not None and trial.is_retry),
        is_trial=trial is not None,
    )


def _train(
    config: RunConfig,
    dataset: ImageDataset,
    split: Split,
    network: Network,
    progress: TrainingProgress,
    reporting: Role,
    record: EpochRecord,
) -> TrainedNetwork:
    """Train the network from where `progress` stands, recording each epoch."""
    from cnn_sweeps.evaluation.metrics import summarize
    from cnn_sweeps.experiment.trained import TrainedNetwork
    from cnn_sweeps.training import loop
    from cnn_sweeps.training.batches import image_tensor, training_images

    images = image_tensor(dataset)
    balanced = config.training.class_weight == "balanced"
    class_weights = balanced_class_weights(dataset.labels[split.train]) if balanced else None
    source = training_images(images, dataset.labels, split.train, class_weights)
    predict = partial(network.predict, images)

    def record_epoch(metrics: dict[str, float]) -> bool:
        objectives = {name: metrics[name] for name in config.objective if name in metrics}
        record.add(objectives | metrics, progress.epochs_done)  # MLflow compares runs by what comes first
        return reporting is not None and reporting.report_epoch(progress)

    def validate() -> dict[str, float]:
        return summarize(predict(split.val), dataset.labels[split.val])

    loop.train(network, source, config.seed, validate, config.training, progress, record_epoch)
    return TrainedNetwork(config, dataset, split, network.model, predict, progress)
