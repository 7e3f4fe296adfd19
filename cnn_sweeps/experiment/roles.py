"""What a run is to others: on its own, a trial of a sweep, or the reproduction of an earlier run."""

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
from cnn_sweeps.errors import DataError, ModelError
from cnn_sweeps.evaluation.html_file import REPORT_FILE
from cnn_sweeps.evaluation.metrics import describe_no_better
from cnn_sweeps.experiment.parts import RESULTS, average_metrics, objective_values
from cnn_sweeps.settings.environment import job_overrides
from cnn_sweeps.settings.schema import RunConfig
from cnn_sweeps.settings.target_arguments import FOLDER, FROM_NOTHING
from cnn_sweeps.system.files import disk_errors
from cnn_sweeps.text.commands import command_to_repeat, describe_command, short_overrides
from cnn_sweeps.tracking.database.address import describe_new_database, find_store
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
    "regularization=none or more images; where one class is rare, training.class_weight=balanced, or, if accuracy is "
    "what counts, evaluation.threshold_metric=accuracy"
)

_MANY_IMAGES = 5000
_SAID_ELSEWHERE = (
    *("data=", "data.root=", "data.cache_dir=", "tracking.", "training.checkpoint_dir=", "resume="),
    "evaluation.pictures=",
)
_LONGEST_NAME = 80


def _place_in_name(override: str) -> tuple[bool, bool, bool, bool]:
    """Give where an override stands in a name: what tells runs apart first, files, which are long, last."""
    key, _, value = override.lstrip("+~").partition("=")
    return "/" in value, "." not in key, key.startswith("data."), key.startswith("training.")


class Role:
    """What a run on its own does; a trial and a reproduction override what they do otherwise."""

    is_trial = False  # of a sweep, which goes on after an error, and may have an equal one at work beside it
    max_share_of_time: float | None = None  # that keeping finished epochs may take; None: each one is kept
    is_told_what_next = True  # at the end, with the commands that use the run

    def __init__(self, config: RunConfig) -> None:
        """Of a run with these settings, which all its trainings share."""
        self.config = config
        self.name = config.tracking.run_name  # None: after its images and network
        self.params: dict[str, Any] = {}  # what is known of it beside its settings
        self.goes_on = config.resume  # where an interrupted process has left it
        self.is_pruned = False  # stopped, since it is not worth going on with

    @cached_property
    def overrides(self) -> list[str]:
        """What was set otherwise than by default, as Hydra takes it."""
        return job_overrides()

    @property
    def short_name(self) -> str:
        """What was set, for a narrow column, single settings first; empty if that is only what other columns show."""
        told = [each for each in self.overrides if not each.lstrip("+~").startswith(_SAID_ELSEWHERE)]
        told.sort(key=_place_in_name)
        return " ".join(short_overrides(told))[:_LONGEST_NAME]

    def link_to_others(self, experiment_id: str) -> str:
        """Give a link, in Markdown, to the runs that this one is compared with."""
        return f"[All runs, best first]({link_to_all_runs(experiment_id)})"

    @cached_property
    def command(self) -> str:
        """The command that makes the whole run again."""
        return command_to_repeat(describe_command([]), self.overrides)

    @cached_property
    def tags(self) -> dict[str, str]:
        """What tells the run from others."""
        return {"command": self.command}

    def find_store(self) -> str:
        """Give the tracking store's URI, and say what making it takes; raise a TrackingError if it cannot be used."""
        store = find_store(self.config.tracking)
        say(describe_new_database(store))
        return store

    def load_images(self) -> Images:
        """Load the images, and say what they are.

        Raises:
            UserError: if they cannot be used, or are not those that they should be.
        """
        images = load_images(self.config)
        say(describe_images(images.dataset, images.split))
        return images

    def note_run(self, run: LiveRun) -> None:
        """The whole run has begun, or goes on."""

    def takes_over(self) -> bool:
        """Tell whether parts that an interrupted process has finished are to be trained no more."""
        return True

    def begin(self, progress: TrainingProgress) -> None:
        """The first training begins, or goes on where `progress` stands."""

    def after_epoch(self, _progress: TrainingProgress) -> bool:
        """An epoch of the first training is finished; tell whether it is to stop there, and the run with it."""
        return False

    def finish(self, trained: TrainedNetwork, run: LiveRun) -> dict[str, float]:
        """Measure the final weights on all images, keep the model, and draw; give the metrics.

        Metrics and model come first, so that nothing that is drawn or written of them can lose them. What is said ends
        with results, warnings, a hint, and, of a whole run on its own, commands and the address of its page.
        """
        evaluation, final = trained.evaluate(on_test=True)
        final = trained.measure_train(final)
        trained.log(final | evaluation.intervals)
        trained.log_outcome(evaluation)
        warnings = []
        if self.config.tracking.log_model:
            try:
                trained.log_model(evaluation.threshold)
            except ModelError as error:
                warnings.append(str(error))
        warnings += trained.report(evaluation)
        if (no_better := describe_no_better(final)) is not None:
            warnings.append(no_better)
        for warning in warnings:
            log.warning("warning: %s", warning)
        if no_better is not None:
            log.info("hint: %s", HINT)
        if self.is_told_what_next and not trained.part.name:
            if (better := _hint_at_pretrained(self.config, len(trained.part.images.dataset.labels))) is not None:
                log.info("hint: %s", better)
            if (report := run.record.folder / RESULTS / REPORT_FILE).exists():
                say([f"The report, for a browser: {short_path(report)}"])
            say(run.describe_next())
        return final

    def gives_up(self, _finals: Sequence[dict[str, float]]) -> bool:
        """Tell from the final metrics of those before whether the parts that are left are not worth training."""
        return False

    def outcome(self, finals: Sequence[dict[str, float]]) -> float | tuple[float, ...]:
        """Give the objective, or objectives; none of a pruned trial that is reproduced."""
        objectives = objective_values(average_metrics(finals), self.config) if finals else []
        return objectives[0] if len(objectives) == 1 else tuple(objectives)


def _hint_at_pretrained(config: RunConfig, num_images: int) -> str | None:
    """Name what mostly does better on few photographs than a network that starts from nothing; None if it is that."""
    is_from_nothing = config.model["_target_"] in FROM_NOTHING or config.model.get("weights", "") is None
    if config.data["_target_"] != FOLDER or not is_from_nothing or num_images >= _MANY_IMAGES:
        return None
    return (
        f"from {num_images:,} photographs a network that starts from nothing learns little; model=pretrained goes on "
        "from one that has seen a million others"
    )


def say(lines: Sequence[str]) -> None:
    """Log something, line by line."""
    for line in lines:
        log.info("%s", line)


@contextmanager
def listing_bad_files() -> Iterator[None]:
    """Write those that the block raises about, if there are more than its message names, into a file that it names.

    All trials of a sweep name the same one, in the sweep's folder.
    """
    try:
        yield
    except BadFilesError as error:
        if len(error.bad_files) <= MOST_NAMES:
            raise
        is_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        file = (Path(HydraConfig.get().sweep.dir) if is_sweep else output_dir()) / "bad_files.txt"
        with disk_errors(file, "the same command"):
            file.write_text(list_bad_files(error.bad_files), encoding="utf-8", errors="backslashreplace")
        raise DataError(f"{error}; {short_path(file)} lists all") from error


def output_dir() -> Path:
    """Give Hydra's folder of the job."""
    return Path(HydraConfig.get().runtime.output_dir)
