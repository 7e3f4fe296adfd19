"""Train one CNN, or sweep over many: `python -m cnn_sweeps.train [--multirun] [group=option] [key=value]`."""

from __future__ import annotations

import gc

from omegaconf import DictConfig


def train(composed: DictConfig) -> float | tuple[float, ...]:
    """Train with Hydra's composed configuration; return the objective, or a tuple if there are several."""
    from cnn_sweeps.settings.config import check_config

    config = check_config(composed)
    from cnn_sweeps.experiment.experiment import run_experiment

    return run_experiment(config)


def main() -> None:
    """Run `train` on the configuration that the command line composes."""
    gc.disable()  # until the task or the sweep begins: imports and composing make many small objects and free few
    from cnn_sweeps.settings.command_line import run_application

    run_application(train)


if __name__ == "__main__":
    main()
