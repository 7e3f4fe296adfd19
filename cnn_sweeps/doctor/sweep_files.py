"""What a sweep has on this machine's disk, read without changing anything."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cnn_sweeps.sweep.study.address import has_unfinished_line, journal_file
from cnn_sweeps.tracking.outbox import find_outboxes
from cnn_sweeps.training.checkpoint import left_checkpoints


@dataclass(frozen=True)
class SweepFiles:
    """What the disk holds of a sweep.

    Attributes:
        folder: of the sweep's files.
        subfolders: the names of the folders in it, and of those that were asked for and are there.
        cut_journal: the journal, if its last line is unfinished.
        checkpoints: those that no process is at work on, with the ids of their runs; an empty one if nothing can be
            resumed from it.
        waiting: folders of what the tracking store did not get since it was away, each with its number of entries.
        undeliverable: such folders that it will never get, each with the reason.
    """

    folder: Path
    subfolders: frozenset[str]
    cut_journal: Path | None
    checkpoints: Mapping[Path, str]
    waiting: Mapping[Path, int]
    undeliverable: Mapping[Path, str] = field(default_factory=dict)


def read_files(
    folder: Path,
    subfolders: Collection[str],
    storage: str,
    checkpoint_dir: Path,
    refused: Mapping[Path, str],
) -> SweepFiles:
    """Look at a sweep's files; a folder that is not there holds nothing.

    Args:
        folder: of the sweep's files.
        subfolders: the trials', relative to it.
        storage: of the study.
        checkpoint_dir: the folder of the trainings' checkpoints.
        refused: folders of what the tracking store has refused to take, each with the reason.
    """
    outboxes = {each.folder: each for each in find_outboxes(folder) if each.folder is not None}
    senseless = {place: reason for place, each in outboxes.items() if (reason := each.why_senseless())}
    undeliverable = senseless | {place: reason for place, reason in refused.items() if place in outboxes}
    journal = journal_file(storage)
    there = {path.name for path in folder.glob("*/")} | {each for each in subfolders if (folder / each).is_dir()}
    return SweepFiles(
        folder=folder,
        subfolders=frozenset(there),
        cut_journal=journal if journal is not None and has_unfinished_line(journal) else None,
        checkpoints=left_checkpoints(checkpoint_dir),
        waiting={place: each.num_waiting for place, each in outboxes.items() if place not in undeliverable},
        undeliverable=undeliverable,
    )
