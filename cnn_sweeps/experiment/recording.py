"""What a training leaves in MLflow before its first epoch, whatever its role is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from hydra.core.hydra_config import HydraConfig

from cnn_sweeps.evaluation import results
from cnn_sweeps.experiment.parts import Part
from cnn_sweeps.experiment.roles import Role, output_dir, results_dir
from cnn_sweeps.tracking import runs
from cnn_sweeps.tracking.page import describe_run


def open_run(part: Part, role: Role, store: str, resumed: str | None) -> AbstractContextManager[str]:
    """Record the block as one run; gives its id.

    Args:
        part: what is trained; without a name, the whole run.
        role: of the whole run.
        store: the tracking URI.
        resumed: the run to go on with.
    """
    is_named_by_user = role.is_named_by_user and not part.name
    tracking = part.config.tracking if is_named_by_user else replace(part.config.tracking, run_name=None)
    return runs.tracked_run(
        store,
        tracking,
        part.name or role.name(part.images),
        role.params | part.config.settings,
        output_dir() / f"{HydraConfig.get().job.name}.log",
        resumed_run_id=resumed,
        tags={"command": role.command} if part.name else role.tags,
    )


def record_start(part: Part, role: Role, whole_run_id: str, history: Sequence[dict[str, float]] = ()) -> None:
    """Record in the active run what is known before training.

    Args:
        part: what is trained; without a name, the whole run.
        role: of the whole run.
        whole_run_id: the run, or that which it is a part of.
        history: metrics of the epochs of a resumed run that the store does not have.
    """
    dataset, counts = part.images.dataset, part.images.counts
    results.write_settings(results_dir(part), part.config, role.overrides, dataset, part.images.split)
    runs.log_files(results_dir(part))
    runs.log_data(dataset, counts, describe_run(role.command, whole_run_id, dataset, counts, part=part.name))
    for epoch, metrics in enumerate(history, 1):
        runs.log_metrics(metrics, step=epoch)
