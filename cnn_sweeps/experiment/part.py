"""The main path of one training: network, training, evaluation, record."""

import logging
from functools import partial

from cnn_sweeps.data.split import balanced_class_weights
from cnn_sweeps.evaluation.metrics import summarize
from cnn_sweeps.experiment.parts import Part
from cnn_sweeps.experiment.recording import EpochRecorder, Whole
from cnn_sweeps.experiment.roles import Role
from cnn_sweeps.experiment.trained import TrainedNetwork
from cnn_sweeps.training import loop
from cnn_sweeps.training.batches import TrainingImages, image_tensor, training_images
from cnn_sweeps.training.checkpoint import TrainingProgress
from cnn_sweeps.training.network import Network
from cnn_sweeps.training.warm import build_network

log = logging.getLogger(__name__)


def run_part(part: Part, whole: Whole) -> bool:
    """Train, measure and record one network; tell whether it came to its end, and its trial was not pruned before."""
    role, config = whole.role, part.config
    settings = config.settings_of_weights | {"fold": part.name if config.folds > 1 else ""}
    with whole.open_run(part, settings) as (run, checkpoint):
        network = build_network(config, part.images.dataset, len(part.images.split.train))
        progress = checkpoint.restore(network.model)
        if progress.epochs_done:
            log.info("resuming after epoch %d", progress.epochs_done)
        elif config.resume and not part.name:
            log.info("nothing to resume")
        save = partial(checkpoint.save, network.model, progress, whole.left_by(run.record))
        save()  # so that a run that ends in its first epoch goes on in this record
        for epoch, metrics in enumerate(progress.history, 1):
            run.record.log_metrics(metrics, epoch)
        trained = train_part(part, role, network, progress, EpochRecorder(run, save, role.max_share_of_time))
        if role.is_pruned:
            log.info("pruned after epoch %d of %d", progress.epochs_done, config.training.epochs)
            return False
        whole.finished[run.record.record_id] = role.finish(trained, run)
    return True


def train_part(
    part: Part, role: Role, network: Network, progress: TrainingProgress, keeper: EpochRecorder
) -> TrainedNetwork:
    """Train the network from where `progress` stands, recording each epoch."""
    config, dataset, split = part.config, part.images.dataset, part.images.split
    predict = partial(network.predict, image_tensor(dataset))

    def validate() -> dict[str, float]:
        return summarize(predict(split.val), dataset.labels[split.val]) if len(split.val) else {}

    def add_epoch(metrics: dict[str, float]) -> bool:
        objectives = {name: metrics[name] for name in config.objective if name in metrics}
        keeper.add(objectives | metrics, progress.epochs_done)  # MLflow compares runs by what comes first
        return part.is_first and role.after_epoch(progress)

    if part.is_first:
        role.begin(progress)
    loop.train(network, _training_source(part), validate, config.training, progress, add_epoch)
    return TrainedNetwork(part, network.model, predict, progress, keeper.run.record)


def _training_source(part: Part) -> TrainingImages:
    """Give what a part is trained on, weighted and in batches as its settings have it."""
    config, dataset, train = part.config, part.images.dataset, part.images.split.train
    is_balanced = config.training.class_weight == "balanced"
    class_weights = balanced_class_weights(dataset.labels[train]) if is_balanced else None
    numbers = {"seed": config.seed, "batch_size": config.training.batch_size}
    return training_images(image_tensor(dataset), dataset.labels, train, class_weights, **numbers)
