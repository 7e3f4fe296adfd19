"""Records a run in any role: each of its parts, and the whole if there are several parts."""

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
from hydra.core.hydra_config import HydraConfig

from cnn_sweeps.errors import DiskError
from cnn_sweeps.evaluation import texts
from cnn_sweeps.experiment.parts import RESULTS, Part, average_metrics, describe_mean, folder_of_part
from cnn_sweeps.experiment.roles import Role, output_dir, say
from cnn_sweeps.experiment.written import write_whole
from cnn_sweeps.system.machine_load import MachineLoad
from cnn_sweeps.tracking.live_run import LiveRun
from cnn_sweeps.tracking.page import describe_data, describe_run
from cnn_sweeps.tracking.projection import EXPERIMENT_ID, RUN_ID
from cnn_sweeps.tracking.record.entry import NOTE_TAG, RECORD_FILE, STATE_TAG, Moved, read_record
from cnn_sweeps.tracking.record.process import run_tags
from cnn_sweeps.tracking.record.record import Record, short_path
from cnn_sweeps.training.checkpoint import (
    Checkpoint,
    RunLeft,
    claim_checkpoint,
    left_checkpoints,
    remove_checkpoint,
)

log = logging.getLogger(__name__)


@dataclass
class Whole:
    """All parts of a run. If there are several, each has a record of its own, in a folder below the whole's."""

    role: Role
    store: str  # the tracking URI
    finished: dict[str, dict[str, float]] = field(default_factory=dict)  # final metrics by the id of a part's record
    run: LiveRun | None = None  # of the whole; None if there is only one part
    _checkpoint: Checkpoint | None = None
    _is_resumed: bool = False

    @property
    def finals(self) -> list[dict[str, float]]:
        """The final metrics of the finished parts, in order."""
        return list(self.finished.values())

    def left_by(self, record: Record) -> RunLeft:
        """Return what a checkpoint notes about the run of a part, or of the whole."""
        whole = record if self.run is None else self.run.record
        return RunLeft(record.record_id, str(short_path(record.folder)), whole.record_id)

    @contextmanager
    def open_run(self, part: Part, settings: dict[str, Any]) -> Iterator[tuple[LiveRun, Checkpoint]]:
        """Record the block as the run of a part, or of the whole, and hold its checkpoint, identified by `settings`.

        A run that was interrupted is resumed, if the role says so.

        Raises:
            ConfigError: if the checkpoint cannot be claimed.
            TrackingError: if the store refuses the run, or is away when a run on its own begins.
        """
        role, checkpoints = self.role, Path(part.config.training.checkpoint_dir)
        is_part, fingerprint = self.run is not None, part.images.dataset.fingerprint
        is_on_its_own = not (is_part or role.is_trial)
        log_file = output_dir() / f"{HydraConfig.get().job.name}.log"
        with claim_checkpoint(
            checkpoints, settings, fingerprint, resume=role.goes_on, is_trial=role.is_trial
        ) as checkpoint:
            folder, is_left = self._place_of(part, checkpoint)
            run = LiveRun(folder, self.store)
            with (
                _showing_how_to_resume(role if is_on_its_own else None),
                run.ending(log_file, is_trial=role.is_trial and not is_part),
            ):
                if is_left:
                    run.record.again()
                else:
                    tags = run_tags({"command": role.command} | ({} if is_part else role.tags))
                    name = part.name or role.name or role.short_name or _describe(part)
                    run.record.begin(part.config.tracking.experiment_name, name, self.store, tags, is_part=is_part)
                run.record.log_params(role.params | part.config.settings)
                run.start(may_be_away=not is_on_its_own, closes_others=is_on_its_own)
                if not is_part:
                    role.note_run(run)
                if not (is_left and checkpoint.read_left()):
                    record_start(part, role, run)
                yield run, checkpoint
                if not is_part and (role.is_trial or role.is_pruned):
                    run.record.log_tags({STATE_TAG: "PRUNED" if role.is_pruned else "COMPLETE"})
            if is_part:
                self.keep()  # before the part's own checkpoint is removed

    def _place_of(self, part: Part, checkpoint: Checkpoint) -> tuple[Path, bool]:
        """Return the folder of a record, and whether a record that an interrupted process left there is resumed."""
        if self.run is not None:
            folder = folder_of_part(part.name, self.run.record.folder)
            return folder, self._is_resumed and read_record(folder) is not None
        left = None if self.role.is_trial else checkpoint.read_left()  # each trial has a run of its own
        recorded = None if left is None else read_record(Path(left.folder))  # it may be gone, or another run's
        if left is None or recorded is None or recorded.begin.record != left.record:
            return output_dir(), False
        self._is_resumed = True
        return Path(left.folder), True

    def keep(self) -> None:
        """Keep the results of finished parts, so that they are not trained again after an interruption."""
        if self._checkpoint is None or self.run is None:
            return
        try:
            self._checkpoint.save_parts(self.finished, self.left_by(self.run.record))
        except DiskError as error:
            log.warning("%s; finished trainings are recorded, but would be repeated after an interruption", error)


@contextmanager
def open_whole(parts: Sequence[Part], role: Role, store: str) -> Iterator[Whole]:
    """If there are several parts, record the whole run around them, and at the end their means."""
    whole = Whole(role, store)
    if len(parts) == 1:
        yield whole
        return
    part = replace(parts[0], name="")  # the parts differ only in fold and seed
    config = part.config
    measured = {"evaluation.threshold_metric": config.evaluation.threshold_metric}
    with whole.open_run(part, config.settings_of_result | measured | {"fold": "all"}) as (run, checkpoint):
        left, finished = checkpoint.read_left(), checkpoint.read_parts()
        whole.run, whole._checkpoint = run, checkpoint
        if left is not None and finished and role.takes_over():
            whole.finished = finished
            _move_here(parts[: len(finished)], Path(left.folder), run.record.folder)
        if finished or config.resume:
            done = f"{len(whole.finished)} of {len(parts)} trainings were finished before"
            log.info("%s", done if left else "nothing to resume")
        for path, of_run in left_checkpoints(Path(config.training.checkpoint_dir)).items():
            if of_run is not None and of_run.record in whole.finished:  # a kill prevented the removal
                remove_checkpoint(path)
        checkpoint.save_parts(whole.finished, whole.left_by(run.record))
        yield whole
        if role.is_pruned:
            run.record.log_outcome(f"**PRUNED after training {len(whole.finals)} of {len(parts)}**")
        if whole.finals:
            averaged = average_metrics(whole.finals)
            run.record.log_metrics(averaged, 0)
            if len(whole.finals) > 1:
                mean = describe_mean(averaged, len(whole.finals))
                if not role.is_pruned:
                    run.record.log_outcome(mean)
                log.info("%s", mean)
            if not role.is_trial:
                write_whole(run.record, parts, whole.finals)


@contextmanager
def _showing_how_to_resume(role: Role | None) -> Iterator[None]:
    """If a signal ends the block, log the command that resumes the run."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if role is not None and role.shows_next_commands:
            say(["To go on:", f"  {role.command} resume=true"])
        raise


def _move_here(parts: Sequence[Part], before: Path, now: Path) -> None:
    """Move the finished parts of a lost trial to the trial that tries it again."""
    for part in parts:
        folder, to = folder_of_part(part.name, before), folder_of_part(part.name, now)
        if (folder / RECORD_FILE).exists() and not to.exists():
            shutil.move(folder, to)
            Record(to).add(Moved())


def _describe(part: Part) -> str:
    return f"{part.images.dataset.name} {part.network_name} seed {part.config.seed}"


def record_start(part: Part, role: Role, run: LiveRun) -> None:
    """Record settings, data and description of a part, or of the whole (a part without a name), before training."""
    record, folder = run.record, run.record.folder / RESULTS
    dataset, counts = part.images.dataset, part.images.counts
    texts.write_settings(folder, part.config, role.overrides, dataset, part.images.split)
    data = describe_data(dataset, counts)
    about = {"source": data.source, "fingerprint": data.digest, "images": counts}
    (folder / "data.json").write_text(json.dumps(about, indent=2), encoding="utf-8")
    record.log_files(folder.iterdir())
    record.add(data)
    note = describe_run(role.command, RUN_ID, dataset, counts, part=part.name)
    tags = {"data.fingerprint": dataset.fingerprint, NOTE_TAG: f"{role.link_to_others(EXPERIMENT_ID)}\n\n{note}"}
    record.log_tags(tags)


class EpochRecorder:
    """Records each finished epoch at once, and brings it to the store and the checkpoint if that costs little time."""

    def __init__(
        self, run: LiveRun, save_checkpoint: Callable[[keras.Model], None], max_share_of_time: float | None
    ) -> None:
        """Take the largest share of the time that the store and the checkpoint may take; None: after each epoch."""
        self.run, self._save_checkpoint, self._max_share_of_time = run, save_checkpoint, max_share_of_time
        self._next_time = 0.0
        self._machine = MachineLoad()
        self._is_disk_full = False

    def add(self, metrics: dict[str, float], epoch: int, model: keras.Model) -> None:
        """Record a finished epoch, counted from 1, of a model."""
        try:
            self.run.record.log_metrics(metrics, epoch)
            if (load := self._machine.measure()) is not None:
                self.run.record.log_machine(load, epoch)
            if (started := time.monotonic()) >= self._next_time:
                self.run.catch_up()
                self._save_checkpoint(model)
                ended = time.monotonic()
                pause_s = (ended - started) / self._max_share_of_time if self._max_share_of_time is not None else 0
                self._next_time = ended + pause_s
            self._is_disk_full = False
        except DiskError as error:
            if not self._is_disk_full:
                log.warning("%s; training goes on, but can only be resumed from an earlier epoch", error)
            self._is_disk_full = True
