"""One of a run's trainings: its network, its epochs, its end, each recorded; and the whole that several make."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from cnn_sweeps.data.split import balanced_class_weights
from cnn_sweeps.errors import DiskError
from cnn_sweeps.evaluation.metrics import summarize
from cnn_sweeps.experiment.epoch_record import EpochRecord
from cnn_sweeps.experiment.parts import Part, average_metrics
from cnn_sweeps.experiment.recording import open_run, record_start
from cnn_sweeps.experiment.roles import Role, output_dir, results_dir
from cnn_sweeps.experiment.trained import TrainedNetwork
from cnn_sweeps.system.patience import patiently
from cnn_sweeps.tracking import runs
from cnn_sweeps.training import loop
from cnn_sweeps.training.batches import TrainingImages, image_tensor, training_images
from cnn_sweeps.training.checkpoint import (
    Checkpoint,
    FinishedPart,
    TrainingProgress,
    claim_checkpoint,
    remove_checkpoints_of,
)
from cnn_sweeps.training.network import Network
from cnn_sweeps.training.warm import build_network

log = logging.getLogger(__name__)


@dataclass
class Whole:
    """All parts of a run. Of several, those that are finished are kept until all are; of one there is nothing to keep.

    Attributes:
        role: of the run.
        store: the tracking URI.
        run_id: of the run above those of the parts; None if there is a single part.
        finished: parts that are finished.
    """

    role: Role
    store: str
    run_id: str | None = None
    finished: list[FinishedPart] = field(default_factory=list)
    _checkpoint: Checkpoint | None = None
    _is_resumed: bool = False

    @property
    def finals(self) -> list[dict[str, float]]:
        """The final metrics of the finished parts, in their order."""
        return [part.final for part in self.finished]

    def find_left(self, part: Part, checkpoint: Checkpoint) -> str | None:
        """Give the run of an unfinished part that an interrupted process has begun and that is to go on."""
        if self.run_id is None:
            return self.role.find_left(checkpoint)
        if not self._is_resumed:
            return None
        return patiently(partial(runs.find_part, self.run_id, part.name), log.warning)

    def keep(self, run_id: str, final: dict[str, float]) -> None:
        """Keep a finished part, so that it is not trained again if the run is interrupted."""
        if self._checkpoint is None or self.run_id is None:
            return
        self.finished.append(FinishedPart(run_id, final))
        try:
            self._checkpoint.save_parts(self.finished, self.run_id)
        except DiskError as error:
            log.warning("%s; what was trained is recorded, and would be trained again after an interruption", error)

    def record(self, finals: Sequence[dict[str, float]]) -> None:
        """Record the parts' means, and how the whole ended."""
        if self.run_id is None:
            return
        if finals:
            runs.log_metrics(average_metrics(finals), step=len(finals))
        runs.set_tags(self.role.ending())


@contextmanager
def open_whole(parts: Sequence[Part], role: Role, store: str) -> Iterator[Whole]:
    """Record what several parts have in common, whose runs in the block are below its own."""
    if len(parts) == 1:
        yield Whole(role, store)
        return
    part = replace(parts[0], name="")  # but for fold and seed they are alike
    config = part.config
    measured = {"evaluation.threshold_metric": config.evaluation.threshold_metric}
    with _claim(part, role, config.settings_of_result | measured | {"fold": "all"}) as checkpoint:
        finished, left = role.finished_parts(checkpoint), checkpoint.read_run_id()
        with open_run(part, role, store, role.find_left(checkpoint)) as run_id:
            role.note_run(run_id)
            if run_id != left:
                record_start(part, role, run_id)
                for each in finished:
                    runs.adopt(each.run_id, run_id, output_dir())
            if finished or config.resume:
                told = (
                    f"{len(finished)} of {len(parts)} trainings were finished before" if left else "nothing to resume"
                )
                log.info("%s", told)
            remove_checkpoints_of([each.run_id for each in finished], Path(config.training.checkpoint_dir))
            checkpoint.save_parts(finished, run_id)
            yield Whole(role, store, run_id, finished, checkpoint, run_id == left)


def run_part(part: Part, whole: Whole) -> dict[str, float] | None:
    """Train and record one network; give its final metrics, or None if the trial was pruned meanwhile."""
    role, config, is_whole = whole.role, part.config, whole.run_id is None
    fold = {"fold": part.name if config.folds > 1 else ""}
    with _claim(part, role, config.settings_of_weights | fold) as checkpoint:
        left = checkpoint.read_run_id()
        with open_run(part, role, whole.store, whole.find_left(part, checkpoint)) as run_id:
            network = build_network(config, part.images.dataset, len(part.images.split.train))
            progress = checkpoint.restore(network.model)
            if progress.epochs_done or (config.resume and is_whole):
                log.info(
                    f"resuming after epoch {progress.epochs_done}" if progress.epochs_done else "nothing to resume"
                )
            save_checkpoint = partial(checkpoint.save, network.model, progress, run_id)
            if run_id != left:
                record_start(part, role, whole.run_id or run_id, progress.history)
                save_checkpoint()
            if is_whole:
                role.note_run(run_id)
            role.begin(progress)
            trained = _train(part, role, network, progress, save_checkpoint)
            if role.is_pruned:
                log.info("pruned after epoch %d of %d", progress.epochs_done, config.training.epochs)
                runs.set_tags({runs.STATE_TAG: "PRUNED"} if is_whole else {})
                return None
            final = role.finish(trained, results_dir(part))
        whole.keep(run_id, final)
    return final


def _claim(part: Part, role: Role, settings: dict[str, Any]) -> AbstractContextManager[Checkpoint]:
    folder, fingerprint = Path(part.config.training.checkpoint_dir), part.images.dataset.fingerprint
    return claim_checkpoint(folder, settings, fingerprint, resume=role.goes_on, is_trial=role.is_trial)


def _train(
    part: Part, role: Role, network: Network, progress: TrainingProgress, save_checkpoint: Callable[[], None]
) -> TrainedNetwork:
    """Train the network from where `progress` stands, recording each epoch."""
    config, dataset, split = part.config, part.images.dataset, part.images.split
    predict = partial(network.predict, image_tensor(dataset))

    def validate() -> dict[str, float]:
        return summarize(predict(split.val), dataset.labels[split.val])

    with EpochRecord(save_checkpoint, role.max_share_of_time) as record:

        def record_epoch(metrics: dict[str, float]) -> bool:
            objectives = {name: metrics[name] for name in config.objective if name in metrics}
            record.add(objectives | metrics, progress.epochs_done)  # MLflow compares runs by what comes first
            return role.after_epoch(progress)

        loop.train(network, training_source(part), validate, config.training, progress, record_epoch)
    return TrainedNetwork(part, network.model, predict, progress)


def training_source(part: Part) -> TrainingImages:
    """Give what a part is trained on, weighted and in batches as its settings have it."""
    config, dataset, train = part.config, part.images.dataset, part.images.split.train
    is_balanced = config.training.class_weight == "balanced"
    class_weights = balanced_class_weights(dataset.labels[train]) if is_balanced else None
    numbers = {"seed": config.seed, "batch_size": config.training.batch_size}
    return training_images(image_tensor(dataset), dataset.labels, train, class_weights, **numbers)
