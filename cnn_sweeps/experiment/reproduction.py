"""A recorded run made again: its settings and images, what differs from then, whether it comes out the same."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from cnn_sweeps.data.images import Images
from cnn_sweeps.errors import ConfigError, DataError
from cnn_sweeps.experiment.comparison import Comparison, Pair
from cnn_sweeps.experiment.roles import Role
from cnn_sweeps.settings.command_line import CONF_DIR
from cnn_sweeps.settings.config import check_values
from cnn_sweeps.settings.schema import RunConfig
from cnn_sweeps.settings.stored_config import Trusted, parse_stored, trusted_values
from cnn_sweeps.system.libraries import count_threads, prepare_libraries, thread_settings
from cnn_sweeps.tracking.address import find_existing_store
from cnn_sweeps.tracking.live_run import LiveRun
from cnn_sweeps.tracking.process import THREADS_TAG, describe_process
from cnn_sweeps.tracking.reading import RunRecord, TrainingRecord, measured_in, read_record
from cnn_sweeps.tracking.recorded import REPRODUCES_TAG
from cnn_sweeps.training.checkpoint import TrainingProgress

log = logging.getLogger(__name__)

_FOLDER_SOURCE = "cnn_sweeps.data.load_folder"
_MATTERS = ("version.", "git.", "platform")  # tags
_MOST_THREADS = 1024
_ADVICE = re.compile(r"; (remove it|add \S+=VALUE to the command)")  # for who types settings


class Reproduction(Role):
    """One run as the reproduction of a recorded one."""

    is_named_by_user = False
    is_told_what_next = False
    _run: LiveRun

    def __init__(self, record: RunRecord, composed: DictConfig, allowed_targets: Sequence[str] = ()) -> None:
        """Of a recorded run, with the settings that are not the run's own from `composed`.

        Raises:
            ConfigError: if the recorded settings are not those of this code, or would call what is not allowed.
        """
        super().__init__(_restore_config(record, composed, allowed_targets))
        self._overrides = _recorded_overrides(record)
        self._record = record
        first = next(iter(record.measured.values()))
        self._pruned_after = max(first.val_log_loss, default=0) if record.was_pruned and not first.final else 0
        self._num_trainings = 0

    @property
    def _is_tested(self) -> bool:
        """Whether the recorded run has measured test images: of a trial that was not chosen only the others are."""
        return any(name.startswith("test_") for each in self._record.measured.values() for name in each.final)

    @property
    def overrides(self) -> list[str]:
        """What was set for the recorded run."""
        return self._overrides

    def name(self, _images: Images) -> str:
        """What the run is called."""
        return f"reproduction of {self._record.name}"

    @property
    def command(self) -> str:
        """The command that made the recorded run."""
        return self._record.tags.get("command", "")

    @property
    def tags(self) -> dict[str, str]:
        """What tells the run from others."""
        return {"command": self.command, REPRODUCES_TAG: self._record.run_id}

    def note_run(self, run: LiveRun) -> None:
        """Note which run is the new one."""
        self._run = run

    def load_images(self) -> Images:
        """Load the images, those to test on only if the recorded run has measured them.

        Raises:
            DataError: if they are not the recorded ones.
        """
        images = super().load_images()
        if images.dataset.fingerprint != self._record.data_fingerprint:
            raise DataError(
                f"data: {images.dataset.source} holds other images now (fingerprint {images.dataset.fingerprint}); "
                f"{_describe_images(self._record)}"
            )
        return images if self._is_tested else images.without_test()

    def begin(self, _progress: TrainingProgress) -> None:
        """Count the trainings."""
        self._num_trainings += 1

    def after_epoch(self, progress: TrainingProgress) -> bool:
        """Tell whether to stop where the recorded trial was pruned in its first training."""
        if self._num_trainings == 1 and self._pruned_after:
            self.is_pruned = progress.epochs_done >= self._pruned_after
        return self.is_pruned

    def compare(self, tolerance: float) -> Comparison:
        """Compare what both runs measured; say it, and keep it with the new run.

        Args:
            tolerance: largest relative difference that counts as agreement, at least 0.
        """
        record = self._run.record
        pairs = list(pair_up(self._record.measured, measured_in(record.folder)))
        comparison = Comparison(pairs, tolerance)
        report = f"{comparison.table}\n{self._record.name}: {comparison.verdict}"
        log.info("%s", report)
        record.again()
        file = record.folder / "reproduction.txt"
        file.write_text(report, encoding="utf-8")
        record.log_files([file])
        record.log_tags({"reproduction.verdict": comparison.verdict})
        record.end("FINISHED")
        self._run.catch_up(at_once=True)
        return comparison


def prepare_reproduction(run_id: str, composed: DictConfig, allowed_targets: Sequence[str] = ()) -> Reproduction:
    """Read a recorded run and say what differs from then; imports no TensorFlow.

    Args:
        run_id: of the recorded run.
        composed: of which `tracking.uri`, `training.checkpoint_dir` and, if they are there, `data.root` and
            `data.cache_dir` say where things are now.
        allowed_targets: functions, or modules of them, that the recorded settings may call beside ours and Keras's.

    Raises:
        UserError: if the run is not there, or cannot be made again.
    """
    store = find_existing_store(composed.tracking.uri)
    prepare_libraries()
    record = read_record(store, run_id)
    reproduction = Reproduction(record, composed, allowed_targets)
    _check_folder(reproduction.config, record)
    log.info("reproducing %s (run %s, %s)", record.name, run_id, record.status)
    for line in describe_differences(record.tags, describe_process()):
        log.info("%s", line)
    _use_recorded_threads(record)
    return reproduction


def _use_recorded_threads(record: RunRecord) -> None:
    """Compute with as many threads as the recorded run, as a sweep's worker with a part of the cores has; if known."""
    told, here = record.tags.get(THREADS_TAG, str(count_threads())), count_threads()
    recorded = int(told) if told.isdecimal() and len(told) < 9 else 0
    if not 1 <= recorded <= _MOST_THREADS:
        log.warning("%s=%.40r of the recorded run makes no sense; threads to compute with: %d", THREADS_TAG, told, here)
    elif recorded != here:
        os.environ |= thread_settings(recorded)
        log.info("threads to compute with: %d, as then, instead of %d", recorded, here)


def _recorded_overrides(record: RunRecord) -> list[str]:
    overrides = parse_stored(record.overrides, f"{record.run_id}: its overrides.yaml")
    if not isinstance(overrides, list) or not all(isinstance(each, str) for each in overrides):
        raise ConfigError(f"{record.run_id}: its overrides.yaml is no list of overrides")
    return overrides


def _restore_config(record: RunRecord, composed: DictConfig, allowed_targets: Sequence[str]) -> RunConfig:
    what = f"{record.run_id}: its config.yaml"
    recorded = parse_stored(record.config, what)
    groups = ("data", "tracking", "training")
    if not isinstance(recorded, dict) or not all(isinstance(recorded.get(group), dict) for group in groups):
        raise ConfigError(f"{what} is no configuration of a run")
    data, tracking, training = (dict(recorded[group]) for group in groups)
    places = {key: composed.data[key] for key in ("root", "cache_dir") if key in composed.data}
    if data.get("_target_") == _FOLDER_SOURCE:  # into which folder to write is not for a record to say
        places.setdefault("cache_dir", OmegaConf.load(Path(CONF_DIR, "data", "folder.yaml")).cache_dir)
    if unknown := sorted(places.keys() - data.keys()):
        raise ConfigError(f"data.{unknown[0]}={places[unknown[0]]}: {record.name} has no such setting; leave it out")
    if "${" in str(tracking.get("run_name")):  # which is the recorded run's
        tracking["run_name"] = None
    tracking |= {"uri": composed.tracking.uri, "experiment_name": record.experiment_name}
    training |= {"checkpoint_dir": composed.training.checkpoint_dir}
    tree = recorded | {"resume": False, "tracking": tracking, "training": training, "data": data | places}
    advice = "if you know what it does, add allow_target={}"
    values = trusted_values(tree, Trusted(allowed_targets), what, advice)
    try:
        return check_values(values, tree)
    except ConfigError as error:
        commit = record.tags.get("git.commit")
        code = f"commit {commit}" if commit else f"cnn-sweeps {record.tags.get('version.cnn-sweeps')}"
        raise ConfigError(
            f"{record.run_id}: the settings of {record.name} do not fit this code ({_ADVICE.sub('', str(error))}); "
            f"reproduce it with the code that made it, {code}"
        ) from error


def _check_folder(config: RunConfig, record: RunRecord) -> None:
    """See that the folder of images is there.

    Raises:
        DataError: if it is not.
    """
    root = config.data.get("root")
    if config.data["_target_"] == _FOLDER_SOURCE and not Path(str(root)).expanduser().is_dir():
        raise DataError(f"data.root={root}: there is no such folder; {_describe_images(record)}")


def _describe_images(record: RunRecord) -> str:
    numbers = ", ".join(f"{number} {split}" for split, number in record.num_images.items())
    return (
        f"restore what {record.name} was trained on ({numbers} images from {record.data_source}, fingerprint "
        f"{record.data_fingerprint}), or name a folder that holds it with data.root=PATH"
    )


def describe_differences(recorded: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Say what of code, packages and machine differs from what a run's tags recorded."""
    keys = [key for key in recorded if key.startswith(_MATTERS)]
    changed = [key for key in sorted(keys) if recorded[key] != now.get(key)]
    lines = [f"differs: {key} was {recorded[key]}, is {now.get(key, 'unknown')}" for key in changed]
    if recorded.get("git.dirty") == "true":
        lines.append(f"the recorded code had changes that are not in commit {recorded.get('git.commit')}")
    return lines or ["code, packages and machine are the recorded ones"]


def pair_up(recorded: Mapping[str, TrainingRecord], now: Mapping[str, TrainingRecord]) -> Iterator[Pair]:
    """Pair what trainings of the same names measured: in every epoch, and at their ends what both did.

    Of a training that did not come to its end, the recorded epochs are all that counts.
    """
    for training, then in recorded.items():
        again = now.get(training, TrainingRecord({}, {}))
        prefix = f"{training}: " if training else ""
        epochs = then.val_log_loss.keys() | (again.val_log_loss.keys() if then.final else set())
        for epoch in sorted(epochs):
            name = f"{prefix}val_log_loss, epoch {epoch}"
            yield Pair(name, then.val_log_loss.get(epoch), again.val_log_loss.get(epoch))
        for name in sorted(then.final.keys() & again.final.keys()):
            yield Pair(prefix + name, then.final[name], again.final[name], _scale(name, then.final))


def _scale(name: str, final: Mapping[str, float]) -> float | None:
    """Give what a difference of a metric is relative to; the gap is a difference of losses, and may be near 0."""
    return final.get("final_val_log_loss") if name == "final_generalization_gap" else None
