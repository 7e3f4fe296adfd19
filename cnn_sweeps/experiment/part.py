"""The main path of one training: network, training, evaluation, record."""

import logging
from functools import partial

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.evaluation.metrics import summarize
from cnn_sweeps.experiment.parts import Part
from cnn_sweeps.experiment.recording import EpochRecorder, Whole
from cnn_sweeps.experiment.roles import Role
from cnn_sweeps.experiment.trained import TrainedNetwork
from cnn_sweeps.settings.schema import OBJECTIVES, RunConfig
from cnn_sweeps.text.numbers import counted
from cnn_sweeps.tracking.live_run import LiveRun
from cnn_sweeps.tracking.record.entry import WEIGHTS_TAG, read_record
from cnn_sweeps.training import loop
from cnn_sweeps.training.inputs import Inputs
from cnn_sweeps.training.network import Network
from cnn_sweeps.training.progress import TrainingProgress
from cnn_sweeps.training.warm import build_network

log = logging.getLogger(__name__)


def run_part(part: Part, whole: Whole) -> bool:
    """Train, measure and record one network; return whether it finished: False if its trial was pruned."""
    role, config = whole.role, part.config
    settings = config.settings_of_weights | {"fold": part.name if config.folds > 1 else ""}
    with whole.open_run(part, settings) as (run, checkpoint):
        network = build_part(part, is_fine_tuned=checkpoint.is_of_fine_tuning())
        progress = checkpoint.restore(network.model)
        if progress.epochs_done:
            log.info("resuming after epoch %d", progress.epochs_done)
        elif config.resume and not part.name:
            log.info("nothing to resume")
        if network.backbone is not None:
            _name_weights(network.backbone.digest, run, part.config)
        save = partial(checkpoint.save, progress=progress, run=whole.left_by(run.record))
        save(network.model)  # so that a run interrupted in its first epoch resumes in this record
        for epoch in range(1, progress.epochs_done + 1):
            run.record.log_metrics(_recorded(progress, epoch, config), epoch)
        trained = train_part(part, role, network, progress, EpochRecorder(run, save, role.max_share_of_time))
        if role.is_pruned:
            log.info("pruned after epoch %d", progress.epochs_done)
            run.record.log_outcome(f"**PRUNED after epoch {progress.epochs_done}**{_last_value(progress, config)}")
            return False
        whole.finished[run.record.record_id] = role.finish(trained, run)
    return True


def _name_weights(digest: str, run: LiveRun, config: RunConfig) -> None:
    """Record the digest of the first weights; raise a ConfigError if a resumed run began with others."""
    recorded = read_record(run.record.folder)
    if recorded is not None and recorded.tags.get(WEIGHTS_TAG, digest) != digest:
        raise ConfigError(
            f"model.weights={config.model.get('weights')}: have changed since the run was interrupted; restore them, "
            "or start anew without resume=true"
        )
    run.record.log_tags({WEIGHTS_TAG: digest})


def build_part(part: Part, *, is_fine_tuned: bool = False) -> Network:
    """Build the network of a part, ready for training or for fine-tuning."""
    return build_network(part.config, part.images.dataset, len(part.images.split.train), is_fine_tuned=is_fine_tuned)


def train_part(
    part: Part, role: Role, network: Network, progress: TrainingProgress, keeper: EpochRecorder
) -> TrainedNetwork:
    """Train the network from where `progress` stands, and record each epoch; then fine-tune it if configured."""
    if part.is_first:
        role.begin(progress)
    inputs = _train(part, role, network, progress, keeper)
    if part.config.fine_tune and progress.fine_tuned_after is None and not role.is_pruned:
        layers = counted(part.config.fine_tune, "layer")
        log.info("from now on training also changes the last %s of the backbone", layers)
        head, network = network, build_part(part, is_fine_tuned=True)
        network.go_on_from(head)
        progress.begin_fine_tuning(network.model)
        inputs = _train(part, role, network, progress, keeper)
    return TrainedNetwork(part, network, inputs.predict, progress, keeper.run.record)


def _last_value(progress: TrainingProgress, config: RunConfig) -> str:
    value = progress.history[-1].get(config.objective[0])
    return "" if value is None else f": {config.objective[0]} {value:.4g}"


def _recorded(progress: TrainingProgress, epoch: int, config: RunConfig) -> dict[str, float]:
    """Return the metrics to record for an epoch, counted from 1; MLflow compares runs by the first one.

    If the weights of the best epoch are kept, the first one is the best value so far: the last epoch's own value would
    contradict the ranking.
    """
    metrics, objective = progress.history[epoch - 1], config.objective[0]
    first = {name: metrics[name] for name in config.objective if name in metrics}
    if config.training.restore_best_weights and config.training.monitor == objective and objective in metrics:
        best = min if OBJECTIVES[objective] == "minimize" else max
        first = {f"best_{objective}": best(each[objective] for each in progress.history[:epoch])} | first
    return first | metrics


def _train(part: Part, role: Role, network: Network, progress: TrainingProgress, keeper: EpochRecorder) -> Inputs:
    config, dataset, split = part.config, part.images.dataset, part.images.split
    inputs = Inputs(network, part.images, config)

    def validate() -> dict[str, float]:
        return summarize(inputs.predict(split.val), dataset.labels[split.val]) if len(split.val) else {}

    def add_epoch(_metrics: dict[str, float]) -> bool:
        epoch = progress.epochs_done
        keeper.add(_recorded(progress, epoch, config), epoch, network.model)
        return part.is_first and role.after_epoch(progress)

    loop.train(network, inputs.to_train(), validate, config.training, progress, add_epoch)
    return inputs
