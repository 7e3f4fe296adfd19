"""Configurations that come from elsewhere, a store or a sweep's folder: data, of which nothing is run.

They may call what this project and Keras offer to configurations, and what the user names. No interpolation is looked
up, unless the user's own configuration has the very same one.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.settings.schema import RunConfig
from cnn_sweeps.settings.targets import OFFERED, named_targets
from cnn_sweeps.settings.trees import everything_in

MAX_CHARACTERS = 100_000
"""Of a stored configuration; those that this program writes have 2,000."""
_MAX_DEPTH = 20


@dataclass(frozen=True)
class Trusted:
    """What a stored configuration may name beside what is offered, since the user names it, too.

    Attributes:
        targets: functions, `package.module.function`, or modules, of which it may call their own functions.
        texts: with interpolations.
        groups: settings that stand in the place of what a stored configuration has in groups of these names.
        cache_dir: that stands in the place of its `training.cache_dir`.
    """

    targets: Collection[str] = ()
    texts: Collection[str] = ()
    groups: Mapping[str, Any] = field(default_factory=dict)
    cache_dir: str = ""


def trusted_of(config: RunConfig, *others: str) -> Trusted:
    """Return what a configuration that the user composed names, and further functions that he names.

    Where images are read and kept, and where is recorded, is not for a stored one to say.
    """
    groups = {group: config.resolved[group] for group in ("data", "tracking")}
    targets = frozenset([*named_targets(config.resolved), *others])
    return Trusted(targets, frozenset(_interpolated(config.resolved)), groups, config.resolved["training"]["cache_dir"])


def parse_stored(text: str, what: str, most_characters: int = MAX_CHARACTERS) -> Any:
    """Read YAML of plain values: no aliases, of which a few lines can make gigabytes, no tags, nothing large.

    Raises:
        ConfigError: if it is anything else; it says `what` that is.
    """
    if len(text) > most_characters:
        told = f"has {len(text):,} characters; a stored configuration has at most {most_characters:,}"
        raise ConfigError(f"{what}: {told}")
    try:
        _check_events(text, what)
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # a ValueError is of an impossible number or date
        raise ConfigError(f"{what}: cannot be read ({' '.join(str(error).split())[:300]})") from error


def _check_events(text: str, what: str) -> None:
    depth = 0
    for event in yaml.parse(text):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
            raise ConfigError(f"{what}: has an alias or a tag in line {line}; a stored configuration has plain values")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise ConfigError(f"{what}: is nested more than {_MAX_DEPTH} deep in line {line}")


def trusted_values(tree: Any, trusted: Trusted, what: str, advice: str) -> dict[str, Any]:
    """Return the values of what `parse_stored` gave, with those of interpolations that the user's own one has, too.

    Raises:
        ConfigError: if it names anything else; it says `what` that is and, of a function, the advice, in which `{}`
            stands for its name.
    """
    if not isinstance(tree, dict):
        raise ConfigError(f"{what}: is no configuration")
    for target in named_targets(tree):
        if target not in OFFERED and not _is_allowed(target, trusted.targets):
            raise ConfigError(f"{what}: would call {target[:200]}, which is not ours; {advice.format(target[:200])}")
    for text in _interpolated(tree):
        if text not in trusted.texts:
            raise ConfigError(
                f"{what}: refers to {text[:200]}, which is not looked up for a stored configuration; "
                "train with your own: python -m cnn_sweeps.train ..."
            )
    try:
        return OmegaConf.to_container(OmegaConf.create(tree), resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError(f"{what}: {' '.join(str(error).split())[:300]}") from error


def _is_allowed(target: str, allowed: Collection[str]) -> bool:
    if target in allowed:
        return True
    module, _, name = target.rpartition(".")
    if module not in allowed or name.startswith("_"):
        return False
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{module}: {error}; install it or set PYTHONPATH") from error
    own_package = module.partition(".")[0]
    return callable(found) and str(getattr(found, "__module__", "")).partition(".")[0] == own_package


def _interpolated(tree: Any) -> Iterator[str]:
    """Return the texts, keys too, in which OmegaConf finds an interpolation."""
    return (each for each in everything_in(tree) if isinstance(each, str) and "${" in each)
