"""What a run is to others: on its own, a trial of a sweep, or the reproduction of an earlier run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig

from cnn_sweeps.data.images import Images, describe_images, load_images
from cnn_sweeps.experiment.parts import average_metrics, objective_values
from cnn_sweeps.settings.environment import job_overrides
from cnn_sweeps.settings.schema import RunConfig
from cnn_sweeps.text.commands import command_to_repeat, describe_command
from cnn_sweeps.tracking.store import find_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnn_sweeps.experiment.parts import Part
    from cnn_sweeps.experiment.trained import TrainedNetwork
    from cnn_sweeps.training.checkpoint import Checkpoint, FinishedPart, TrainingProgress

log = logging.getLogger(__name__)


class Role:
    """A run on its own; what is otherwise in a trial or a reproduction, these override."""

    is_trial = False
    """Whether the run is one of many: a sweep goes on after its error, and may have an equal one at work beside it."""
    max_share_of_time: float | None = None
    """Of its time that keeping finished epochs may take; None: each one is kept."""
    is_named_by_user = True

    def __init__(self, config: RunConfig) -> None:
        """Of a run with these settings."""
        self.config = config
        self.is_pruned = False

    # Where it comes from.

    def find_store(self) -> str:
        """Give the tracking store.

        Raises:
            TrackingError: if it cannot be used.
        """
        return find_store(self.config.tracking)

    def load_images(self) -> Images:
        """Load the images, and say what they are.

        Raises:
            UserError: if they cannot be used, or are not those that they should be.
        """
        images = load_images(self.config)
        self.tell(describe_images(images.dataset, images.split))
        return images

    def tell(self, lines: Sequence[str]) -> None:
        """Say what there is to say of the images."""
        for line in lines:
            log.info("%s", line)

    @property
    def goes_on(self) -> bool:
        """Whether it is to go on where an interrupted process has left it."""
        return self.config.resume

    def find_left(self, checkpoint: Checkpoint) -> str | None:
        """Give the run in the store that an interrupted process has left and that is to go on."""
        return checkpoint.read_run_id()

    def finished_parts(self, checkpoint: Checkpoint) -> list[FinishedPart]:
        """Give the parts that an interrupted process has finished."""
        return checkpoint.read_parts()

    # What it is called, and says of itself.

    def name(self, images: Images) -> str:
        """What the run is called."""
        network = str(self.config.model["_target_"]).rpartition(".")[2].removeprefix("build_")
        return f"{images.dataset.name} {network} seed {self.config.seed}"

    @property
    def overrides(self) -> list[str]:
        """What was set otherwise than by default, as Hydra takes it."""
        return job_overrides()

    @property
    def command(self) -> str:
        """The command that makes the whole run again."""
        return command_to_repeat(describe_command([]), self.overrides)

    @property
    def tags(self) -> dict[str, str]:
        """What tells the run from others."""
        return {"command": self.command}

    @property
    def params(self) -> dict[str, Any]:
        """What is known of the run beside its settings."""
        return {}

    def note_run(self, run_id: str) -> None:
        """Note which run of the store records the whole."""

    # What becomes of it.

    def begin(self, progress: TrainingProgress) -> None:
        """A training begins, or goes on where `progress` stands."""

    def after_epoch(self, _progress: TrainingProgress) -> bool:
        """An epoch is finished; tell whether the training is to stop there, and the run with it."""
        return False

    def finish(self, trained: TrainedNetwork, folder: Path) -> dict[str, float]:
        """Measure, record, keep and draw the trained network; give its final metrics."""
        from cnn_sweeps.experiment.completion import finish_run

        return finish_run(trained, folder)

    def gives_up(self, _finals: Sequence[dict[str, float]]) -> bool:
        """Tell whether the parts that are left are not worth training."""
        return False

    def ending(self) -> dict[str, str]:
        """Give the tags of a whole of several parts at its end."""
        return {}

    def outcome(self, finals: Sequence[dict[str, float]]) -> float | tuple[float, ...]:
        """Give the objective, or objectives; none of a pruned trial that is reproduced."""
        objectives = objective_values(average_metrics(finals), self.config) if finals else []
        return objectives[0] if len(objectives) == 1 else tuple(objectives)


def output_dir() -> Path:
    """Give Hydra's folder of the job."""
    return Path(HydraConfig.get().runtime.output_dir)


def results_dir(part: Part) -> Path:
    """Give the folder of a part's files, below Hydra's."""
    return output_dir() / "results" / part.name.replace(" ", "_")
