"""`hydra/sweeper=optuna`."""

from __future__ import annotations

import sys
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.cnn_sweeps import _config

_config.register()


class OptunaSweeper(Sweeper):
    """Searches with Optuna; `cnn_sweeps.sweep.controller.run_sweep` does the work."""

    def __init__(self, **_settings: Any) -> None:
        """Ignore the settings: `setup` gets the whole configuration."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra gives."""
        self._run = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep; return the completed trials, best first."""
        from cnn_sweeps.errors import UserError
        from cnn_sweeps.sweep.introduction import introduce_sweep

        try:
            introduce_sweep(self._run[-1])
            from cnn_sweeps.sweep.controller import run_sweep  # and Optuna, which is slow

            return run_sweep(arguments, *self._run)
        except UserError as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            sys.exit(130)
