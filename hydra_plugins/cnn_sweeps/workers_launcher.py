"""`hydra/launcher=workers`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from cnn_sweeps.sweep.workers import WorkerPool


class WorkersLauncher(Launcher):
    """Runs jobs in worker processes of this machine; `cnn_sweeps.sweep.workers` does the work."""

    def __init__(self, n_jobs: int) -> None:
        """Run `n_jobs` at once under sweepers that do not say how many."""
        self.n_jobs = n_jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra gives."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def open_workers(self, num_workers: int) -> WorkerPool:
        """Give worker processes to submit single jobs to."""
        from cnn_sweeps.sweep.workers import WorkerPool

        return WorkerPool(num_workers, self.hydra_context, self.config, self.task_function)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a batch of jobs and give their results, in order."""
        from cnn_sweeps.sweep.workers import run_batch

        pool = self.open_workers(self.n_jobs)
        try:
            return run_batch(pool, self.n_jobs, job_overrides, initial_job_idx)
        finally:
            pool.close()
