"""`hydra/launcher=workers`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from cnn_sweeps.sweep.machine import NumJobs, WorkerPlan
    from cnn_sweeps.sweep.workers import WorkerPool


class WorkersLauncher(Launcher):
    """Runs jobs in worker processes of this machine; `cnn_sweeps.sweep.workers` does the work."""

    def __init__(
        self, n_jobs: NumJobs, gpus: Sequence[int] | None, jobs_per_gpu: int, max_worker_mb: int | None
    ) -> None:
        """Take the settings; `n_jobs` is for sweepers that do not say how many."""
        self.n_jobs, self.gpus, self.jobs_per_gpu, self.max_worker_mb = n_jobs, gpus, jobs_per_gpu, max_worker_mb

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra gives."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def plan_workers(self, n_jobs: NumJobs, at_most: int) -> WorkerPlan:
        """Say which workers there will be, for `at_most` jobs.

        Raises:
            ConfigError: if the settings do not fit this machine.
        """
        from cnn_sweeps.sweep.machine import plan_workers

        return plan_workers(
            n_jobs,
            gpus=self.gpus,
            jobs_per_gpu=self.jobs_per_gpu,
            max_worker_mb=self.max_worker_mb,
            at_most=at_most,
        )

    def open_workers(self, plan: WorkerPlan, prepare: Callable[[], None] | None = None) -> WorkerPool:
        """Give worker processes to submit single jobs to; each runs `prepare` before its first one."""
        from cnn_sweeps.sweep.workers import WorkerPool

        return WorkerPool(plan, self.hydra_context, self.config, self.task_function, prepare)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a batch of jobs and give their results, in order."""
        from cnn_sweeps.sweep.workers import run_batch

        plan = self.plan_workers(self.n_jobs, len(job_overrides))
        pool = self.open_workers(plan)
        try:
            return run_batch(pool, plan.num_workers, job_overrides, initial_job_idx)
        finally:
            pool.close()
