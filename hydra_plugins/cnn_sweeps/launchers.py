"""`hydra/launcher=workers` and `hydra/launcher=dask`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from cnn_sweeps.sweep.jobs.executor import Executor, JobsAhead


class ExecutorLauncher(Launcher):
    """Runs jobs with an executor of this project."""

    def __init__(self, **settings: Any) -> None:
        """Take the settings; `n_jobs` is for sweepers that do not say how many."""
        self.settings: dict[str, Any] = OmegaConf.to_object(OmegaConf.create(settings))  # type: ignore[assignment]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra gives."""
        from cnn_sweeps.sweep.jobs.process import Program

        self.program = Program(hydra_context, config, task_function)

    @abstractmethod
    def plan_executor(self, jobs: JobsAhead) -> Executor:
        """Return the executor that is to run the jobs, not yet opened.

        Raises:
            ConfigError: if a setting asks for something that the executor cannot do.
        """

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a batch of jobs and return their results, in order."""
        from cnn_sweeps.sweep.jobs.executor import launch

        return launch(self.plan_executor, self.settings["n_jobs"], job_overrides, initial_job_idx)


class WorkersLauncher(ExecutorLauncher):
    """Runs jobs in worker processes of this machine; `cnn_sweeps.sweep.jobs.local` does the work."""

    usual_n_jobs = "auto"

    def plan_executor(self, jobs: JobsAhead) -> Executor:
        """Return local worker processes, not yet opened."""
        from cnn_sweeps.sweep.jobs.local import plan_local_executor

        return plan_local_executor(self.settings, jobs, self.program)


class DaskLauncher(ExecutorLauncher):
    """Runs jobs on the workers of a Dask cluster; `cnn_sweeps.sweep.jobs.dask_executor` does the work."""

    def plan_executor(self, jobs: JobsAhead) -> Executor:
        """Return the cluster's workers, connected and not yet opened."""
        from cnn_sweeps.errors import ConfigError

        try:
            from cnn_sweeps.sweep.jobs.dask_executor import plan_dask_executor
        except ModuleNotFoundError as error:
            if error.name not in ("dask", "distributed"):
                raise
            raise ConfigError(
                "hydra/launcher=dask: Dask is not installed; install it: pip install 'cnn-sweeps[dask]'"
            ) from error
        return plan_dask_executor(self.settings, jobs, self.program)
