"""Checks the configurations of a sweep's trials, one by one, and keeps what they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from cnn_sweeps.data.folder import check_positive_class
from cnn_sweeps.data.layout import list_folder
from cnn_sweeps.errors import ConfigError
from cnn_sweeps.settings.config import check_config
from cnn_sweeps.settings.schema import OBJECTIVES, RunConfig
from cnn_sweeps.settings.stored_config import Trusted, trusted_of
from cnn_sweeps.settings.target_arguments import FOLDER, PRETRAINED
from cnn_sweeps.settings.targets import targets_in_folder
from cnn_sweeps.sweep.application import SweepApplication
from cnn_sweeps.sweep.study.address import is_only_here
from cnn_sweeps.text.passwords import hide_passwords
from cnn_sweeps.tracking.database.address import find_store


class CheckedApplication(SweepApplication):
    """Checks the configurations of a sweep.

    Attributes:
        config: the newest configuration, for settings that no trial changes.
        store: address of the MLflow store.
        fixed: the settings that are the same in all configurations.
        trusted: functions and texts that the stored configuration of a trial may name: those of the sweep's own
            configuration, and of its config groups.
    """

    config: RunConfig
    store = ""
    fixed: dict[str, Any] | None = None
    trusted = Trusted()
    _listed_root = ""

    def check(self, config: DictConfig, directions: Sequence[str]) -> dict[str, Any]:
        """Check a trial's configuration and the objectives' directions; return the settings that results depend on.

        Raises:
            ConfigError: if a setting is wrong, or does not fit the sweep.
            DataError: if the folder of images is missing or empty.
        """
        self.config = checked = check_config(config)
        self._trust(checked)
        known = checked.settings if self.fixed is None else self.fixed
        self.fixed = {key: value for key, value in known.items() if checked.settings.get(key) == value}
        if checked.model["_target_"] == PRETRAINED and "data.image_size" in known.keys() - self.fixed.keys():
            raise ConfigError(
                "data.image_size: the trials would have images of several sizes, perhaps because the backbones have "
                "different ones; all trials of a sweep train on the same images; set one size, e.g. "
                f"data.image_size={known['data.image_size']}"
            )
        if checked.confirm and "seed" in known.keys() - self.fixed.keys():
            raise ConfigError(
                f"confirm={checked.confirm}: this trains the best trials again with other seeds, but this sweep "
                "searches seed; leave out one of the two"
            )
        self.store = self.store or find_store(checked.tracking)
        root = str(checked.data.get("root"))
        if checked.data["_target_"] == FOLDER and root != self._listed_root:
            files, _ = list_folder(root, checked.data.get("follow_links", False))
            check_positive_class({file.class_name for file in files}, checked.data.get("positive_class"))
            self._listed_root = root
        needed = [OBJECTIVES[name] for name in checked.objective]
        if list(directions) != needed:
            names = checked.objective if len(needed) > 1 else checked.objective[0]
            raise ConfigError(
                f"hydra.sweeper.direction={_as_given(directions)}: this does not fit objective={names}; "
                f"set hydra.sweeper.direction={_as_given(needed)}"
            )
        return checked.settings_of_result

    def _trust(self, config: RunConfig) -> None:
        sources = [each.path for each in HydraConfig.get().runtime.config_sources if each.schema == "file"]
        in_groups = [] if self.trusted.targets else [t for each in sources for t in targets_in_folder(Path(each))]
        trusted = trusted_of(config, *self.trusted.targets, *in_groups)
        self.trusted = replace(trusted, texts={*trusted.texts, *self.trusted.texts})

    def only_here(self) -> list[tuple[str, str]]:
        """Return `tracking.uri` if it is a file, or a server that no other machine can reach."""
        if self.store == "databricks" or not is_only_here(self.store):
            return []
        fix = "run `mlflow server`, with a password (docs/servers.md), where all machines reach it, and name it"
        return [(f"tracking.uri={hide_passwords(self.store)}", fix)]


def _as_given(directions: Sequence[str]) -> str:
    return f"[{','.join(directions)}]" if len(directions) > 1 else directions[0]
