"""What runs a sweep's jobs: what a launcher of this project plans, or any other launcher of Hydra's, a slot each."""

from __future__ import annotations

from hydra.types import TaskFunction

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.sweep.jobs.executor import Executor, JobsAhead, SlotExecutor
from cnn_sweeps.sweep.jobs.foreign import BuildLauncher, InThisProcess, LauncherSlot

_ONE_AT_A_TIME = "BasicLauncher"  # by name: Hydra, when it looks for plugins, makes the class anew


def choose_executor(build_launcher: BuildLauncher, task_function: TaskFunction, jobs: JobsAhead) -> Executor:
    """Give what is to run the trials, not yet opened.

    Args:
        build_launcher: gives the launcher, which runs a function with each job's configuration.
        task_function: of the trials.
        jobs: what is asked for.

    Raises:
        UserError: if the launcher cannot do what it is asked for.
    """
    launcher = build_launcher(task_function)
    if hasattr(launcher, "plan_executor"):
        executor: Executor = launcher.plan_executor(jobs)
        return executor
    kind = type(launcher).__name__
    if jobs.timeout_s is not None:
        raise ConfigError(
            f"hydra.sweeper.trial_timeout_s={jobs.timeout_s}: a {kind} cannot end a job; use hydra/launcher=workers"
        )
    if jobs.n_jobs == "auto":
        raise ConfigError(
            f"hydra.sweeper.n_jobs=auto: is not known where a {kind} runs jobs; "
            "give a number or use hydra/launcher=workers"
        )
    if kind != _ONE_AT_A_TIME:
        number = min(jobs.n_jobs, jobs.at_most)
        return SlotExecutor([LauncherSlot(build_launcher, task_function, number) for _ in range(number)])
    if jobs.n_jobs > 1:
        raise ConfigError(
            f"hydra.sweeper.n_jobs={jobs.n_jobs}: hydra/launcher=basic runs one trial at a time, in this process; "
            "leave it at 1 or use hydra/launcher=workers"
        )
    return InThisProcess(launcher)
