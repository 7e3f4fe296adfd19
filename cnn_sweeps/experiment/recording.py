"""What a training leaves in MLflow before its first epoch, as a single run, a part, a trial or a reproduction."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from hydra.core.hydra_config import HydraConfig

from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.data.split import Split
from cnn_sweeps.errors import DiskError
from cnn_sweeps.experiment.parts import average_metrics
from cnn_sweeps.settings.environment import job_overrides
from cnn_sweeps.settings.schema import RunConfig
from cnn_sweeps.system.libraries import native_messages_off
from cnn_sweeps.system.patience import patiently
from cnn_sweeps.text.commands import command_to_repeat, describe_command
from cnn_sweeps.tracking import runs
from cnn_sweeps.tracking.page import describe_run
from cnn_sweeps.training.checkpoint import Checkpoint, FinishedPart, remove_checkpoints_of

if TYPE_CHECKING:
    from cnn_sweeps.experiment.reproduction import Reproduction
    from cnn_sweeps.experiment.trial import TrialRun

log = logging.getLogger(__name__)

Role: TypeAlias = "TrialRun | Reproduction | None"
"""What a run is beside itself; None: nothing."""


def open_run(
    store: str, config: RunConfig, dataset: ImageDataset, role: Role, part: str, resumed: str | None
) -> AbstractContextManager[str]:
    """Record the block as one run; gives its id.

    Args:
        store: the tracking URI.
        config: of the training.
        dataset: gives the run its name.
        role: of the whole run.
        part: the name of a part of several; empty: the whole.
        resumed: the run to go on with.
    """
    name = part or (role.name if role is not None else _run_name(config, dataset))
    tags = {"command": _command(role)} if part or role is None else role.tags
    is_named_by_user = role is None and not part
    tracking = config.tracking if is_named_by_user else replace(config.tracking, run_name=None)
    settings = role.params | config.settings if role is not None else config.settings
    log_file = output_dir() / f"{HydraConfig.get().job.name}.log"
    return runs.tracked_run(store, tracking, name, settings, log_file, resumed_run_id=resumed, tags=tags)


class Group:
    """A run of several trainings, its parts, with those that are finished; they are kept until all are."""

    def __init__(self, run_id: str, parts: Sequence[FinishedPart], checkpoint: Checkpoint, *, is_resumed: bool) -> None:
        """Of a run that is open; `is_resumed`: an ended process has begun it."""
        self.run_id = run_id
        self._parts, self._checkpoint, self._is_resumed = list(parts), checkpoint, is_resumed
        checkpoint.save_parts(self._parts, run_id)

    @property
    def finals(self) -> list[dict[str, float]]:
        """The final metrics of the finished parts, in their order."""
        return [part.final for part in self._parts]

    def find_left(self, name: str) -> str | None:
        """Give the run of an unfinished part that an ended process has begun."""
        if not self._is_resumed:
            return None
        return patiently(partial(runs.find_part, self.run_id, name), log.warning)

    def keep(self, run_id: str, final: dict[str, float]) -> None:
        """Keep a finished part, so that it is not trained again if the run is interrupted."""
        self._parts.append(FinishedPart(run_id, final))
        try:
            self._checkpoint.save_parts(self._parts, self.run_id)
        except DiskError as error:
            log.warning("%s; what was trained is recorded, and would be trained again after an interruption", error)


@contextmanager
def open_group(
    store: str,
    config: RunConfig,
    dataset: ImageDataset,
    split: Split,
    counts: dict[str, dict[str, int]],
    role: Role,
    checkpoint: Checkpoint,
    finished: Sequence[FinishedPart],
) -> Iterator[Group]:
    """Record what several trainings have in common; the runs in the block are its parts.

    Args:
        store, config, dataset, role: see `open_run`.
        split, counts: see `record_start`.
        checkpoint: of the whole run.
        finished: parts that an ended process has finished.
    """
    left = checkpoint.read_run_id()
    with open_run(store, config, dataset, role, "", left if role is None else None) as run_id:
        if role is not None:
            role.note_run(run_id)
        if run_id != left:
            record_start(config, dataset, split, counts, role, output_dir() / "results", run_id)
            for part in finished:
                runs.adopt(part.run_id, run_id, output_dir())
        if finished or config.resume:
            total = config.repeats * config.folds
            log.info(
                "%s", f"{len(finished)} of {total} trainings were finished before" if left else "nothing to resume"
            )
        remove_checkpoints_of([part.run_id for part in finished], Path(config.training.checkpoint_dir))
        yield Group(run_id, finished, checkpoint, is_resumed=run_id == left)


def record_start(
    config: RunConfig,
    dataset: ImageDataset,
    split: Split,
    counts: dict[str, dict[str, int]],
    role: Role,
    results_dir: Path,
    whole_run_id: str,
    part: str = "",
    history: Sequence[dict[str, float]] = (),
) -> None:
    """Record in the active run what is known before training.

    Args:
        config: of the training.
        dataset: the images.
        split: which of them are for what.
        counts: of the images of each class in each split, test images included.
        role: of the whole run.
        results_dir: for the files.
        whole_run_id: the run, or that which it is a part of.
        part: see `open_run`.
        history: metrics of the epochs of a resumed run that the store does not have.
    """
    with native_messages_off():
        from cnn_sweeps.evaluation import results

    results.write_settings(results_dir, config, _overrides(role), dataset, split)
    runs.log_files(results_dir)
    runs.log_data(dataset, counts, describe_run(_command(role), whole_run_id, dataset, counts, part=part))
    for epoch, metrics in enumerate(history, 1):
        runs.log_metrics(metrics, step=epoch)


def record_group(finals: list[dict[str, float]], trial: TrialRun | None, *, is_pruned: bool) -> None:
    """Record the parts' means and, of a trial, how it ended."""
    if finals:
        runs.log_metrics(average_metrics(finals), step=len(finals))
    if trial is not None:
        runs.set_tags({runs.STATE_TAG: "PRUNED" if is_pruned else "COMPLETE"})


def output_dir() -> Path:
    """Give Hydra's folder of the job."""
    return Path(HydraConfig.get().runtime.output_dir)


def _overrides(role: Role) -> list[str]:
    return job_overrides() if role is None else role.overrides


def _command(role: Role) -> str:
    """Give the command that makes the whole run again."""
    return command_to_repeat(describe_command([]), _overrides(role)) if role is None else role.command


def _run_name(config: RunConfig, dataset: ImageDataset) -> str:
    network = str(config.model["_target_"]).rpartition(".")[2].removeprefix("build_")
    return f"{dataset.name} {network} seed {config.seed}"
