"""What a training records, whatever its role is: before its first epoch, after each, and that it goes on."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from cnn_sweeps.errors import DiskError
from cnn_sweeps.evaluation import results
from cnn_sweeps.experiment.parts import Part
from cnn_sweeps.experiment.roles import Role, output_dir
from cnn_sweeps.experiment.trained import RESULTS
from cnn_sweeps.text.passwords import hide_passwords
from cnn_sweeps.tracking.entry import NOTE_TAG, Data
from cnn_sweeps.tracking.live_run import LiveRun
from cnn_sweeps.tracking.page import describe_run
from cnn_sweeps.tracking.process import run_tags
from cnn_sweeps.tracking.projection import RUN_ID

log = logging.getLogger(__name__)


@contextmanager
def open_run(part: Part, role: Role, store: str, folder: Path, *, is_left: bool) -> Iterator[LiveRun]:
    """Record the block as one run.

    Args:
        part: what is trained; without a name, the whole run.
        role: of the whole run.
        store: the tracking URI.
        folder: of the record.
        is_left: whether the run that an interrupted process has left there goes on; else a new one begins.

    Raises:
        TrackingError: if the store refuses the run, or is away when a run on its own begins.
    """
    run, is_on_its_own = LiveRun(folder, store), not (part.name or role.is_trial)
    with run.ending(output_dir() / f"{HydraConfig.get().job.name}.log", is_trial=role.is_trial and not part.name):
        if is_left:
            run.record.again()
        else:
            tracking = part.config.tracking
            named = tracking.run_name if role.is_named_by_user and not part.name else None
            tags = run_tags({"command": role.command} if part.name else role.tags)
            name = named or part.name or role.name(part.images)
            run.record.begin(tracking.experiment_name, name, store, tags, is_part=bool(part.name))
        run.record.log_params(role.params | part.config.settings)
        run.start(may_be_away=not is_on_its_own, closes_others=is_on_its_own)
        yield run


def record_start(part: Part, role: Role, run: LiveRun) -> None:
    """Record what is known before training.

    Args:
        part: what is trained; without a name, the whole run.
        role: of the whole run.
        run: that of the part.
    """
    record, folder = run.record, run.record.folder / RESULTS
    dataset, counts = part.images.dataset, part.images.counts
    results.write_settings(folder, part.config, role.overrides, dataset, part.images.split)
    source = hide_passwords(dataset.source)
    about = {"source": source, "fingerprint": dataset.fingerprint, "images": counts}
    (folder / "data.json").write_text(json.dumps(about, indent=2), encoding="utf-8")
    record.log_files(folder.iterdir())
    record.add(Data(name=dataset.name, digest=dataset.fingerprint, source=source))
    note = describe_run(role.command, RUN_ID, dataset, counts, part=part.name)
    record.log_tags({"data.fingerprint": dataset.fingerprint, NOTE_TAG: note})


class Keeper:
    """Keeps finished epochs while a training goes on: in its record at once, of short epochs several in the rest."""

    def __init__(self, run: LiveRun, save_checkpoint: Callable[[], None], max_share_of_time: float | None) -> None:
        """Bring the first epoch to the store and the checkpoint at once, and later ones as often as takes this share
        of the time; None: each one.
        """
        self.run, self._save_checkpoint, self._max_share_of_time = run, save_checkpoint, max_share_of_time
        self._next_time = 0.0
        self._is_disk_full = False

    def add(self, metrics: dict[str, float], epoch: int) -> None:
        """Take a finished epoch, counted from 1."""
        try:
            self.run.record.log_metrics(metrics, epoch)
            if (started := time.monotonic()) >= self._next_time:
                self.run.catch_up()
                self._save_checkpoint()
                ended = time.monotonic()
                pause_s = (ended - started) / self._max_share_of_time if self._max_share_of_time is not None else 0
                self._next_time = ended + pause_s
        except DiskError as error:
            if not self._is_disk_full:
                log.warning("%s; training goes on meanwhile, and could be resumed from an earlier epoch only", error)
            self._is_disk_full = True
        else:
            self._is_disk_full = False
