"""One of a run's trainings: its network, its epochs, its end, each recorded; and the whole that several make."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from cnn_sweeps.data.split import balanced_class_weights
from cnn_sweeps.errors import DiskError
from cnn_sweeps.evaluation.metrics import summarize
from cnn_sweeps.experiment.parts import Part, average_metrics
from cnn_sweeps.experiment.recording import Keeper, open_run, record_start
from cnn_sweeps.experiment.roles import Role, output_dir
from cnn_sweeps.experiment.trained import TrainedNetwork
from cnn_sweeps.tracking.entry import RECORD_FILE, STATE_TAG, Moved, read_run
from cnn_sweeps.tracking.live_run import LiveRun
from cnn_sweeps.tracking.record import Record, short_path
from cnn_sweeps.training import loop
from cnn_sweeps.training.batches import TrainingImages, image_tensor, training_images
from cnn_sweeps.training.checkpoint import (
    Checkpoint,
    FinishedPart,
    RunLeft,
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
        run: above those of the parts; None if there is a single part.
        finished: parts that are finished.
    """

    role: Role
    store: str
    run: LiveRun | None = None
    finished: list[FinishedPart] = field(default_factory=list)
    _checkpoint: Checkpoint | None = None
    _is_resumed: bool = False

    @property
    def finals(self) -> list[dict[str, float]]:
        """The final metrics of the finished parts, in their order."""
        return [part.final for part in self.finished]

    def place_of(self, part: Part, checkpoint: Checkpoint) -> tuple[Path, bool]:
        """Give the folder of a part's record, and whether it goes on with what an interrupted process has left there.

        Of several parts it is below the folder of the whole run.
        """
        if self.run is None:
            left = self.role.find_left(checkpoint)
            return left or output_dir(), left is not None
        folder = _folder_of(part.name, self.run.record.folder)
        return folder, self._is_resumed and read_run(folder) is not None

    def left_by(self, record: Record) -> RunLeft:
        """Give what a checkpoint says of the run of a part, or of the whole."""
        whole = record if self.run is None else self.run.record
        return RunLeft(record.record_id, str(short_path(record.folder)), whole.record_id)

    def keep(self, record: Record, final: dict[str, float]) -> None:
        """Keep a finished part, so that it is not trained again if the run is interrupted."""
        if self._checkpoint is None or self.run is None:
            return
        self.finished.append(FinishedPart(record.record_id, final))
        try:
            self._checkpoint.save_parts(self.finished, self.left_by(self.run.record))
        except DiskError as error:
            log.warning("%s; what was trained is recorded, and would be trained again after an interruption", error)

    def record(self, finals: Sequence[dict[str, float]]) -> None:
        """Record the parts' means, and how the whole ended."""
        if self.run is None:
            return
        if finals:
            self.run.record.log_metrics(average_metrics(finals), len(finals))
        if ending := self.role.ending():
            self.run.record.log_tags(ending)


def _folder_of(name: str, whole: Path) -> Path:
    return whole / name.replace(" ", "_")


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
        finished, left = role.finished_parts(checkpoint), role.find_left(checkpoint)
        with open_run(part, role, store, left or output_dir(), is_left=left is not None) as run:
            whole = Whole(role, store, run, finished, checkpoint, left is not None)
            role.note_run(run)
            if left is None:
                record_start(part, role, run)
                _move_here([each.name for each in parts[: len(finished)]], checkpoint, run.record.folder)
            if finished or config.resume:
                told = f"{len(finished)} of {len(parts)} trainings were finished before"
                log.info("%s", told if checkpoint.read_run() else "nothing to resume")
            remove_checkpoints_of([each.record for each in finished], Path(config.training.checkpoint_dir))
            checkpoint.save_parts(finished, whole.left_by(run.record))
            yield whole


def _move_here(names: Sequence[str], checkpoint: Checkpoint, folder: Path) -> None:
    """Make the finished parts of a lost trial those of the one that tries it again."""
    if (left := checkpoint.read_run()) is None:
        return
    for name in names:
        before, now = _folder_of(name, Path(left.folder)), _folder_of(name, folder)
        if (before / RECORD_FILE).exists() and not now.exists():
            shutil.move(before, now)
            Record(now).add(Moved())


def run_part(part: Part, whole: Whole) -> dict[str, float] | None:
    """Train and record one network; give its final metrics, or None if the trial was pruned meanwhile."""
    role, config, is_whole = whole.role, part.config, whole.run is None
    fold = {"fold": part.name if config.folds > 1 else ""}
    with _claim(part, role, config.settings_of_weights | fold) as checkpoint:
        folder, is_left = whole.place_of(part, checkpoint)
        with open_run(part, role, whole.store, folder, is_left=is_left) as run:
            network = build_network(config, part.images.dataset, len(part.images.split.train))
            progress = checkpoint.restore(network.model)
            if progress.epochs_done or (config.resume and is_whole):
                log.info(
                    f"resuming after epoch {progress.epochs_done}" if progress.epochs_done else "nothing to resume"
                )
            save_checkpoint = partial(checkpoint.save, network.model, progress, whole.left_by(run.record))
            if not (is_left and checkpoint.read_run()):
                record_start(part, role, run)
                save_checkpoint()
            for epoch, metrics in enumerate(progress.history, 1):
                run.record.log_metrics(metrics, epoch)
            if is_whole:
                role.note_run(run)
            role.begin(progress)
            trained = train_part(part, role, network, progress, Keeper(run, save_checkpoint, role.max_share_of_time))
            if role.is_pruned:
                log.info("pruned after epoch %d of %d", progress.epochs_done, config.training.epochs)
                if is_whole:
                    run.record.log_tags({STATE_TAG: "PRUNED"})
                return None
            final = role.finish(trained, run)
        whole.keep(run.record, final)
    return final


def _claim(part: Part, role: Role, settings: dict[str, Any]) -> AbstractContextManager[Checkpoint]:
    folder, fingerprint = Path(part.config.training.checkpoint_dir), part.images.dataset.fingerprint
    return claim_checkpoint(folder, settings, fingerprint, resume=role.goes_on, is_trial=role.is_trial)


def train_part(part: Part, role: Role, network: Network, progress: TrainingProgress, keeper: Keeper) -> TrainedNetwork:
    """Train the network from where `progress` stands, recording each epoch."""
    config, dataset, split = part.config, part.images.dataset, part.images.split
    predict = partial(network.predict, image_tensor(dataset))

    def validate() -> dict[str, float]:
        return summarize(predict(split.val), dataset.labels[split.val]) if len(split.val) else {}

    def keep_epoch(metrics: dict[str, float]) -> bool:
        objectives = {name: metrics[name] for name in config.objective if name in metrics}
        keeper.add(objectives | metrics, progress.epochs_done)  # MLflow compares runs by what comes first
        return role.after_epoch(progress)

    loop.train(network, training_source(part), validate, config.training, progress, keep_epoch)
    return TrainedNetwork(part, network.model, predict, progress, keeper.run.record)


def training_source(part: Part) -> TrainingImages:
    """Give what a part is trained on, weighted and in batches as its settings have it."""
    config, dataset, train = part.config, part.images.dataset, part.images.split.train
    is_balanced = config.training.class_weight == "balanced"
    class_weights = balanced_class_weights(dataset.labels[train]) if is_balanced else None
    numbers = {"seed": config.seed, "batch_size": config.training.batch_size}
    return training_images(image_tensor(dataset), dataset.labels, train, class_weights, **numbers)
