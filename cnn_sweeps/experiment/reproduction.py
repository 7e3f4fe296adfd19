"""Repeats a recorded run with its settings and images, and compares the results."""

import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf

from cnn_sweeps.data.images import Images
from cnn_sweeps.errors import ConfigError, DataError
from cnn_sweeps.experiment.roles import Role
from cnn_sweeps.settings.command_line import CONF_DIR
from cnn_sweeps.settings.config import check_values
from cnn_sweeps.settings.schema import RunConfig
from cnn_sweeps.settings.stored_config import Trusted, parse_stored, trusted_values
from cnn_sweeps.settings.target_arguments import FOLDER
from cnn_sweeps.settings.trees import with_texts_changed
from cnn_sweeps.system.files import moved_here
from cnn_sweeps.system.libraries import count_threads, thread_settings
from cnn_sweeps.tracking.live_run import LiveRun
from cnn_sweeps.tracking.reading import RecordedRun, RecordedTraining, measured_in, read_recorded_run
from cnn_sweeps.tracking.record.entry import REPRODUCES_TAG, WEIGHTS_TAG, read_record
from cnn_sweeps.tracking.record.process import THREADS_TAG, describe_process
from cnn_sweeps.training.progress import TrainingProgress

log = logging.getLogger(__name__)

_MATTERS = ("version.", "git.", "platform")  # tags that may explain a difference
_ADVICE = re.compile(r"; (remove it|add \S+=VALUE to the command)")  # it does not fit recorded settings


class Pair(NamedTuple):
    """A metric as it was measured then and now; None: not measured."""

    name: str
    recorded: float | None
    now: float | None

    @property
    def relative_difference(self) -> float:
        """At least 0; infinite if a value is missing or no number."""
        if self.recorded is None or self.now is None:
            return math.inf
        if self.recorded == self.now:
            return 0.0
        relative = abs(self.now - self.recorded) / max(abs(self.recorded), abs(self.now))
        return relative if math.isfinite(relative) else math.inf

    def row(self) -> tuple[str, str, str, str]:
        """Return name, values and difference as texts."""
        then, now = ("none" if value is None else f"{value:.10g}" for value in (self.recorded, self.now))
        if self.recorded is None or self.now is None:
            return self.name, then, now, "missing"
        return self.name, then, now, "0" if self.recorded == self.now else f"{self.now - self.recorded:+.1e}"


def judge(pairs: Sequence[Pair], tolerance: float) -> tuple[bool, str]:
    """Return whether all relative differences are within a tolerance, and a line that says so; no pairs: False."""
    if not pairs:
        return False, "does not agree (nothing was recorded that can be compared)"
    largest = max(pairs, key=lambda pair: pair.relative_difference)
    relative, (name, then, now, _) = largest.relative_difference, largest.row()
    if relative == 0:
        return True, "agrees bit for bit"
    why = f"largest relative difference {relative:.1e}, of {name}"
    if math.isinf(relative):
        why = f"{name}: recorded {then}, now {now}"
    agrees = relative <= tolerance
    return agrees, f"agrees within {tolerance:g} ({why})" if agrees else f"does not agree ({why})"


class Reproduction(Role):
    """A run that reproduces a recorded run."""

    shows_next_commands = False
    _run: LiveRun

    def __init__(self, record: RecordedRun, composed: DictConfig, allowed_targets: Sequence[str] = ()) -> None:
        """Restore the settings of a recorded run; see `prepare_reproduction`."""
        super().__init__(_restore_config(record, composed, allowed_targets))
        self.name = f"reproduction of {record.name}"
        self.overrides = _recorded_overrides(record)
        self.command = record.tags.get("command", "")
        self.tags = {"command": self.command, REPRODUCES_TAG: record.run_id}
        self._record = record
        first = next(iter(record.measured.values()))
        self._pruned_after = max(first.val_log_loss, default=0) if record.was_pruned and not first.final else 0

    def check_images(self) -> None:
        """Check nothing: `load_images` names the recorded images."""

    def load_images(self) -> Images:
        """Load the images; test images only if the recorded run was tested.

        Raises:
            DataError: if they are not the recorded ones.
        """
        record, root = self._record, self.config.data.get("root")
        numbers = ", ".join(f"{number} {split}" for split, number in record.num_images.items())
        fix = (
            f"restore the images of {record.name} ({numbers} images from {record.data_source}, fingerprint "
            f"{record.data_fingerprint}), or give their folder with data.root=PATH"
        )
        if self.config.data["_target_"] == FOLDER and not Path(str(root)).expanduser().is_dir():
            raise DataError(f"data.root={root}: there is no such folder; {fix}")
        images = super().load_images()
        if (found := images.dataset).fingerprint != record.data_fingerprint:
            raise DataError(f"data: the images in {found.source} have changed (fingerprint {found.fingerprint}); {fix}")
        is_tested = any(name.startswith("test_") for each in record.measured.values() for name in each.final)
        return images if is_tested else images.without_test()

    def note_run(self, run: LiveRun) -> None:
        """Keep the new run for the comparison."""
        self._run = run

    def after_epoch(self, progress: TrainingProgress) -> bool:
        """Return whether to stop: after the epoch at which the recorded trial was pruned."""
        self.is_pruned = bool(self._pruned_after) and progress.epochs_done >= self._pruned_after
        return self.is_pruned

    def compare(self, tolerance: float) -> bool:
        """Compare the metrics of both runs, log and record the result with the new run; return whether they agree."""
        record = self._run.record
        pairs = list(pair_up(self._record.measured, measured_in(record.folder)))
        rows = [("", "recorded", "now", "difference"), *(pair.row() for pair in pairs)]
        name, then, now, difference = (max(map(len, column)) for column in zip(*rows, strict=True))
        table = [f"{row[0]:{name}}  {row[1]:>{then}}  {row[2]:>{now}}  {row[3]:>{difference}}" for row in rows]
        agrees, verdict = judge(pairs, tolerance)
        weights = self._record.tags.get(WEIGHTS_TAG)
        recorded = read_record(record.folder)
        if weights is not None and recorded is not None and recorded.tags.get(WEIGHTS_TAG) != weights:
            verdict += f"; the first weights have changed (model.weights={self.config.model.get('weights')})"
        report = "\n".join([*table, f"{self._record.name}: {verdict}"])
        log.info("%s", report)
        record.again()
        file = record.folder / "reproduction.txt"
        file.write_text(report, encoding="utf-8")
        record.log_files([file])
        record.log_tags({"reproduction.verdict": verdict})
        record.end("FINISHED")
        self._run.catch_up(at_once=True)
        return agrees


def prepare_reproduction(
    run_id: str, store: str, composed: DictConfig, allowed_targets: Sequence[str] = ()
) -> Reproduction:
    """Read a recorded run from a tracking store, and log what code, packages and machine differ. Imports no TensorFlow.

    Args:
        run_id: of the recorded run.
        store: the address of the tracking store.
        composed: says where data and folders are now.
        allowed_targets: functions, or modules of them, that the recorded settings may call beside ours and Keras's.

    Raises:
        UserError: if there is no such run, its settings do not fit this code, or they would call anything else.
    """
    record = read_recorded_run(store, run_id)
    reproduction = Reproduction(record, composed, allowed_targets)
    log.info("reproducing %s (run %s, %s)", record.name, run_id, record.status)
    for line in describe_differences(record.tags, describe_process()):
        log.info("%s", line)
    _use_recorded_threads(record)
    return reproduction


def _use_recorded_threads(record: RecordedRun) -> None:
    """Compute with as many threads as the recorded run, if that is known; workers of a sweep have few."""
    tag, here = record.tags.get(THREADS_TAG, str(count_threads())), count_threads()
    recorded = int(tag) if tag.isdecimal() and len(tag) < 9 else 0
    if not 1 <= recorded <= 1024:
        log.warning("%s=%.40r of the recorded run makes no sense; number of threads: %d", THREADS_TAG, tag, here)
    elif recorded != here:
        os.environ |= thread_settings(recorded)
        log.info("number of threads: %d, as in the recorded run, instead of %d", recorded, here)


def _recorded_overrides(record: RecordedRun) -> list[str]:
    overrides = parse_stored(record.overrides, f"{record.run_id}: its overrides.yaml")
    if not isinstance(overrides, list) or not all(isinstance(each, str) for each in overrides):
        raise ConfigError(f"{record.run_id}: its overrides.yaml is no list of overrides; give another run")
    return overrides


def _restore_config(record: RecordedRun, composed: DictConfig, allowed_targets: Sequence[str]) -> RunConfig:
    what = f"{record.run_id}: its config.yaml"
    recorded = parse_stored(record.config, what)
    groups = ("data", "tracking", "training")
    if not isinstance(recorded, dict) or not all(isinstance(recorded.get(group), dict) for group in groups):
        raise ConfigError(f"{what} is no configuration of a run; give another run")
    recorded = with_texts_changed(recorded, _where_now)
    data, tracking, training = (recorded[group] for group in groups)
    places = {key: composed.data[key] for key in ("root", "cache_dir") if key in composed.data}
    if data.get("_target_") == FOLDER:  # a record must not choose the folder that is written to
        places.setdefault("cache_dir", OmegaConf.load(Path(CONF_DIR, "data", "folder.yaml")).cache_dir)
    if unknown := sorted(places.keys() - data.keys()):
        raise ConfigError(f"data.{unknown[0]}={places[unknown[0]]}: {record.name} has no such setting; leave it out")
    here = {"uri": composed.tracking.uri, "experiment_name": record.experiment_name}
    if "${" in str(tracking.get("run_name")):  # it would give the recorded run's name
        here["run_name"] = None
    training = training | {key: composed.training[key] for key in ("checkpoint_dir", "cache_dir")}
    tree = recorded | {"resume": False, "tracking": tracking | here, "training": training, "data": data | places}
    values = trusted_values(tree, Trusted(allowed_targets), what, "if you know what it does, add allow_target={}")
    try:
        return check_values(values, tree)
    except ConfigError as error:
        commit = record.tags.get("git.commit")
        code = f"commit {commit}" if commit else f"cnn-sweeps {record.tags.get('version.cnn-sweeps')}"
        raise ConfigError(
            f"{record.run_id}: the settings of {record.name} do not fit this code ({_ADVICE.sub('', str(error))}); "
            f"reproduce it with the code that made it, {code}"
        ) from error


def _where_now(text: str) -> str:
    """Return what a setting names or, if that is gone and the working folder has it, as when it was moved, that."""
    if (here := moved_here(text)) is None:
        return text
    log.info("%s is gone; taking %s of this folder", text, here)
    return here


def describe_differences(recorded: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return lines that say what code, packages and machine differ from a run's tags."""
    changed = [key for key in sorted(recorded) if key.startswith(_MATTERS) and recorded[key] != now.get(key)]
    lines = [f"differs: {key} was {recorded[key]}, is {now.get(key, 'unknown')}" for key in changed]
    if recorded.get("git.dirty") == "true":
        lines.append(f"the recorded code had changes that are not in commit {recorded.get('git.commit')}")
    return lines or ["code, packages and machine are the same as recorded"]


def pair_up(recorded: Mapping[str, RecordedTraining], now: Mapping[str, RecordedTraining]) -> Iterator[Pair]:
    """Pair the metrics of trainings of the same name: of every epoch, and the final ones that both have.

    If a recorded training did not finish, only its epochs count. The generalization gap is left out: it may be near 0,
    and the two losses that it comes from are compared anyway.
    """
    for training, then in recorded.items():
        again = now.get(training, RecordedTraining({}, {}))
        prefix = f"{training}: " if training else ""
        for epoch in sorted(then.val_log_loss.keys() | (again.val_log_loss.keys() if then.final else set())):
            name = f"{prefix}val_log_loss, epoch {epoch}"
            yield Pair(name, then.val_log_loss.get(epoch), again.val_log_loss.get(epoch))
        for name in sorted((then.final.keys() & again.final.keys()) - {"final_generalization_gap"}):
            yield Pair(prefix + name, then.final[name], again.final[name])
