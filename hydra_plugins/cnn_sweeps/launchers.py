"""`hydra/launcher=workers` and `hydra/launcher=dask`."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from cnn_sweeps.sweep.jobs.executor import Executor, JobsAhead


class ExecutorLauncher(Launcher):
    """Runs jobs with an executor of this project."""

    def __init__(self, **settings: Any) -> None:
        """Take the settings; `n_jobs` is for sweepers that do not say how many."""
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra gives."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    @abstractmethod
    def plan_executor(self, jobs: JobsAhead) -> Executor:
        """Give what runs jobs, not yet opened.

        Raises:
            ConfigError: if it cannot be what it is asked for.
        """

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a batch of jobs and give their results, in order."""
        from cnn_sweeps.sweep.jobs.executor import launch

        return launch(self.plan_executor, self.settings["n_jobs"], job_overrides, initial_job_idx)


class WorkersLauncher(ExecutorLauncher):
    """Runs jobs in worker processes of this machine; `cnn_sweeps.sweep.jobs.local` does the work."""

    def plan_executor(self, jobs: JobsAhead) -> Executor:
        """Give what runs jobs, not yet opened."""
        from cnn_sweeps.sweep.jobs.local import local_executor
        from cnn_sweeps.sweep.jobs.machine import plan_workers
        from cnn_sweeps.sweep.jobs.process import pack_setup

        settings = self.settings | {"n_jobs": jobs.n_jobs}
        plan = plan_workers(**settings, at_most=jobs.at_most)
        setup = pack_setup(self.hydra_context, self.config, self.task_function, jobs.worker_module)
        return local_executor(plan, setup, jobs)


class DaskLauncher(ExecutorLauncher):
    """Runs jobs on the workers of a Dask cluster; `cnn_sweeps.sweep.jobs.dask_executor` does the work."""

    def plan_executor(self, jobs: JobsAhead) -> Executor:
        """Give what runs jobs, connected to the cluster and not yet opened."""
        from cnn_sweeps.errors import ConfigError
        from cnn_sweeps.sweep.jobs.dask_settings import check_dask_settings
        from cnn_sweeps.sweep.jobs.process import pack_setup

        settings = check_dask_settings(self.settings)
        try:
            from cnn_sweeps.sweep.jobs.dask_executor import plan_dask_executor
        except ModuleNotFoundError as error:
            if error.name not in ("dask", "distributed"):
                raise
            raise ConfigError("hydra/launcher=dask: Dask is not installed; pip install 'cnn-sweeps[dask]'") from error
        setup = pack_setup(
            self.hydra_context,
            self.config,
            self.task_function,
            jobs.worker_module,
            variables={name: os.environ.get(name) for name in settings.environment},
            is_for_children=False,
        )
        return plan_dask_executor(settings, jobs, setup, Path(self.config.hydra.sweep.dir).absolute(), self._needed())

    def _needed(self) -> list[str]:
        """Give the folders that every job composes its configuration from, and works in."""
        path = self.hydra_context.config_loader.get_search_path().get_path()
        folders = [each.path.removeprefix("file://") for each in path if str(each.path).startswith("file://")]
        return [str(Path.cwd()), *(str(Path(folder).absolute()) for folder in folders if Path(folder).is_dir())]
