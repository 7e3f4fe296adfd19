"""What a sweep does at once, before Optuna and more are imported: it has a name, and says what comes first."""

from __future__ import annotations

from datetime import datetime

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, open_dict, read_write

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.system.output import outlive_display
from cnn_sweeps.text.names import for_terminal

CONFIRMATION = ".confirmation"
"""With which the name of a study ends that is made for a sweep: of the best trials, run again."""


def introduce_sweep(config: DictConfig) -> None:
    """Name the sweep's study, unless it has a name in the configuration, and say that the sweep is checked first.

    Raises:
        ConfigError: if the name is one that a sweep gives.
    """
    outlive_display()
    if config.hydra.sweeper.study_name is None:
        pin(config, "study_name", f"sweep_{datetime.now().astimezone():%Y-%m-%d_%H-%M-%S-%f}")
    name = for_terminal(config.hydra.sweeper.study_name)
    if name.endswith(CONFIRMATION):
        raise ConfigError(
            f"hydra.sweeper.study_name={name}: a sweep {name.removesuffix(CONFIRMATION)} gives this name to the study "
            f"in which its best trials run again; choose a name that does not end with {CONFIRMATION}"
        )
    print(f"sweep {name}: checking what it searches and the settings of its trials", flush=True)


def pin(config: DictConfig, key: str, value: str) -> None:
    """Write a setting of the sweeper into the configuration, from which every job composes its own again."""
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.sweeper[key] = value
        quoted = QuotedString(value, Quote.single).with_quotes()
        config.hydra.overrides.hydra.append(f"hydra.sweeper.{key}={quoted}")
