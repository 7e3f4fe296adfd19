"""`hydra/launcher=workers`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from cnn_sweeps.sweep.jobs.executors import Executor, JobsAhead
    from cnn_sweeps.sweep.jobs.machine import NumJobs


class WorkersLauncher(Launcher):
    """Runs jobs in worker processes of this machine; `cnn_sweeps.sweep.jobs.workers` does the work."""

    def __init__(
        self,
        n_jobs: NumJobs,
        gpus: Sequence[int] | None,
        jobs_per_gpu: int,
        gpus_per_job: int,
        max_worker_mb: int | None,
    ) -> None:
        """Take the settings; `n_jobs` is for sweepers that do not say how many."""
        self.n_jobs, self.gpus, self.max_worker_mb = n_jobs, gpus, max_worker_mb
        self.jobs_per_gpu, self.gpus_per_job = jobs_per_gpu, gpus_per_job

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra gives."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def plan_executor(self, jobs: JobsAhead) -> Executor:
        """Give what runs jobs, not yet opened.

        Raises:
            ConfigError: if the settings do not fit this machine.
        """
        from cnn_sweeps.sweep.jobs.executors import WorkerExecutor
        from cnn_sweeps.sweep.jobs.machine import plan_workers
        from cnn_sweeps.sweep.jobs.process import pack_setup

        plan = plan_workers(
            jobs.n_jobs,
            gpus=self.gpus,
            jobs_per_gpu=self.jobs_per_gpu,
            gpus_per_job=self.gpus_per_job,
            max_worker_mb=self.max_worker_mb,
            at_most=jobs.at_most,
        )
        setup = pack_setup(self.hydra_context, self.config, self.task_function, jobs.worker_module)
        return WorkerExecutor(plan, setup, jobs)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a batch of jobs and give their results, in order."""
        from cnn_sweeps.sweep.jobs.executors import launch

        return launch(self.plan_executor, self.n_jobs, job_overrides, initial_job_idx)
