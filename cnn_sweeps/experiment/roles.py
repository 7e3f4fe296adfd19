"""The role of a run: on its own, a trial of a sweep, or the reproduction of an earlier run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from cnn_sweeps.data.bad_files import MOST_NAMES, BadFilesError, list_bad_files
from cnn_sweeps.data.images import Images, describe_images, load_images
from cnn_sweeps.data.layout import check_folder
from cnn_sweeps.errors import DataError
from cnn_sweeps.evaluation.html_file import REPORT_FILE
from cnn_sweeps.evaluation.metrics import describe_no_better
from cnn_sweeps.experiment.parts import RESULTS, average_metrics, objective_values
from cnn_sweeps.settings.environment import job_overrides
from cnn_sweeps.settings.schema import RunConfig, of_one_run
from cnn_sweeps.settings.target_arguments import FOLDER, FROM_NOTHING
from cnn_sweeps.system.files import disk_errors
from cnn_sweeps.text.commands import command_to_repeat, describe_command, short_overrides
from cnn_sweeps.tracking.database.address import describe_store, find_store
from cnn_sweeps.tracking.record.record import short_path
from cnn_sweeps.tracking.views import link_to_all_runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnn_sweeps.experiment.trained import TrainedNetwork
    from cnn_sweeps.tracking.live_run import LiveRun
    from cnn_sweeps.training.progress import TrainingProgress

log = logging.getLogger(__name__)

HINT = (
    "learning_curves.png shows whether it still learned at the end; try training.epochs, optimizer.learning_rate, "
    "regularization=none or more images; if one class is rare, try training.class_weight=balanced; if accuracy counts "
    "most, try evaluation.threshold_metric=accuracy"
)

_MANY_IMAGES = 5000
_SAID_ELSEWHERE = (
    *("data=", "data.root=", "data.cache_dir=", "tracking.", "training.checkpoint_dir=", "resume="),
    "evaluation.pictures=",
)
_LONGEST_NAME = 80


def _place_in_name(override: str) -> tuple[bool, bool, bool, bool]:
    """Return a sort key for an override in a run's name: single settings first, paths, which are long, last."""
    key, _, value = override.lstrip("+~").partition("=")
    return "/" in value, "." not in key, key.startswith("data."), key.startswith("training.")


class Role:
    """The role of a run on its own; a trial and a reproduction override what they do differently."""

    is_trial = False  # a trial's sweep goes on after an error, and an equal trial may run at the same time
    max_share_of_time: float | None = None  # for keeping finished epochs; None: each epoch is kept
    shows_next_commands = True  # at the end, show commands that use the run

    def __init__(self, config: RunConfig) -> None:
        """Take the settings that all trainings of the run share."""
        self.config = config
        self.name = config.tracking.run_name  # None: named after its images and network
        self.params: dict[str, Any] = {}  # parameters beside the settings
        self.goes_on = config.resume  # whether an interrupted run is resumed
        self.is_pruned = False

    @cached_property
    def overrides(self) -> list[str]:
        """The settings that differ from the defaults, as Hydra takes them."""
        return job_overrides()

    @property
    def short_name(self) -> str:
        """The overrides that no other column of MLflow's list shows, single settings first; at most 80 characters."""
        shown = [each for each in of_one_run(self.overrides) if not each.lstrip("+~").startswith(_SAID_ELSEWHERE)]
        shown.sort(key=_place_in_name)
        return " ".join(short_overrides(shown))[:_LONGEST_NAME]

    def link_to_others(self, experiment_id: str) -> str:
        """Return a link, in Markdown, to the runs to compare this one with."""
        return f"[All runs, best first]({link_to_all_runs(experiment_id)})"

    @cached_property
    def command(self) -> str:
        """The command that repeats the whole run."""
        return command_to_repeat(describe_command([]), of_one_run(self.overrides))

    @cached_property
    def tags(self) -> dict[str, str]:
        """The tags of the run."""
        return {"command": self.command}

    def find_store(self) -> str:
        """Return the tracking store's URI, and log if its database will be made.

        Raises:
            TrackingError: if the store cannot be used.
        """
        store = find_store(self.config.tracking)
        say(describe_store(store))
        return store

    def check_images(self) -> None:
        """Check that the folder of the images is there, before anything that takes time.

        Raises:
            DataError: if it is not.
        """
        if self.config.data["_target_"] == FOLDER:
            check_folder(self.config.data["root"])

    def load_images(self) -> Images:
        """Load the images, and log what they are.

        Raises:
            UserError: if they cannot be used.
        """
        images = load_images(self.config)
        say(describe_images(images.dataset, images.split))
        return images

    def note_run(self, run: LiveRun) -> None:
        """Called when the whole run has begun or is resumed."""

    def takes_over(self) -> bool:
        """Return whether to keep the parts that an interrupted process has finished, instead of training them again."""
        return True

    def begin(self, progress: TrainingProgress) -> None:
        """Called when the first training begins, or is resumed where `progress` stands."""

    def after_epoch(self, _progress: TrainingProgress) -> bool:
        """Called after each epoch of the first training; return whether to stop the run."""
        return False

    def finish(self, trained: TrainedNetwork, run: LiveRun) -> dict[str, float]:
        """Measure the final weights on all images, keep the model, and draw; return the metrics.

        Metrics and model are kept first, so that a failing picture cannot lose them. The log ends with results,
        warnings, a hint and, for a run of one part, commands and the address of its page.
        """
        evaluation, final = trained.evaluate(on_test=True)
        final = trained.measure_train(final)
        trained.record.log_metrics(final | evaluation.intervals, 0)
        warnings = trained.log_model(evaluation.threshold) if self.config.tracking.log_model else []
        trained.log_outcome(evaluation)
        warnings += trained.report(evaluation)
        if (no_better := describe_no_better(final)) is not None:
            warnings.append(no_better)
        for warning in warnings:
            log.warning("warning: %s", warning)
        if no_better is not None:
            log.info("hint: %s", HINT)
        if self.shows_next_commands and not trained.part.name:
            if (better := _hint_at_pretrained(self.config, len(trained.part.images.dataset.labels))) is not None:
                log.info("hint: %s", better)
            if (report := run.record.folder / RESULTS / REPORT_FILE).exists():
                say([f"The report, for a browser: {short_path(report)}"])
            say(run.describe_next())
        return final

    def gives_up(self, _finals: Sequence[dict[str, float]]) -> bool:
        """Return whether to skip the remaining parts, given the final metrics of the finished ones."""
        return False

    def outcome(self, finals: Sequence[dict[str, float]]) -> float | tuple[float, ...]:
        """Return the objective; a tuple if there are several, or none, as when a pruned trial is reproduced."""
        objectives = objective_values(average_metrics(finals), self.config) if finals else []
        return objectives[0] if len(objectives) == 1 else tuple(objectives)


def _hint_at_pretrained(config: RunConfig, num_images: int) -> str | None:
    """Suggest a pretrained network if few photographs train one from nothing; None if that does not apply."""
    is_from_nothing = config.model["_target_"] in FROM_NOTHING or config.model.get("weights", "") is None
    if config.data["_target_"] != FOLDER or not is_from_nothing or num_images >= _MANY_IMAGES:
        return None
    return (
        f"{num_images:,} photographs are few for a network that starts from nothing; model=pretrained starts from one "
        "that was trained on a million others"
    )


def say(lines: Sequence[str]) -> None:
    """Log lines."""
    for line in lines:
        log.info("%s", line)


@contextmanager
def listing_bad_files() -> Iterator[None]:
    """If the block finds more unusable files than a message can list, write all to bad_files.txt and name that file.

    All trials of a sweep write to the same file, in the sweep's folder.
    """
    try:
        yield
    except BadFilesError as error:
        if len(error.bad_files) <= MOST_NAMES:
            raise
        is_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        file = (Path(HydraConfig.get().sweep.dir) if is_sweep else output_dir()) / "bad_files.txt"
        with disk_errors(file):
            file.write_text(list_bad_files(error.bad_files), encoding="utf-8", errors="backslashreplace")
        raise DataError(f"{error}; {short_path(file)} lists all") from error


def output_dir() -> Path:
    """Return the folder that Hydra made for this job."""
    return Path(HydraConfig.get().runtime.output_dir)
