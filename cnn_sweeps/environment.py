"""Moves the passwords of a configuration into environment variables, before Hydra writes it into output folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from cnn_sweeps.passwords import hide_passwords, replace_secrets

_DERIVED = ("hydra.job.", "hydra.runtime.")  # by Hydra, from the overrides


class PasswordsToEnvironment(Callback):
    """What Hydra calls for it, under `hydra.callbacks`."""

    def on_run_start(self, config: DictConfig, **_more: Any) -> None:
        """Move them, of one run."""
        move_passwords(config)

    def on_multirun_start(self, config: DictConfig, **_more: Any) -> None:
        """Move them, of a sweep; its jobs get overrides without them."""
        move_passwords(config)


def move_passwords(config: DictConfig) -> None:
    """Replace the secrets in a composed configuration's addresses by names, and set the environment variables named.

    `postgresql://me:secret@host/studies` under `hydra.sweeper.storage` becomes
    `postgresql://me:${oc.env:HYDRA_SWEEPER_STORAGE_PASSWORD}@host/studies`. Processes that are started later inherit
    the variables; a launcher that sends variables to workers which run already gets their names. A secret from a file
    becomes an override, since each job composes its configuration again.
    """
    overrides = config.hydra.overrides
    names: dict[str, None] = {}
    with read_write(config), open_dict(config):
        given = set()
        for words in (overrides.hydra, overrides.task):
            for position, word in enumerate(_raw(words)):
                given.add(_key_of(word))
                words[position] = _without_secrets(_key_of(word), word, names)
        for key, text in list(_texts(_raw(config))):
            is_derived = key.startswith(_DERIVED)
            moved = hide_passwords(text) if is_derived else _without_secrets(key, text, names)
            if moved == text:
                continue
            OmegaConf.update(config, key, moved)
            if key not in given and not is_derived:
                words = overrides.hydra if key.startswith("hydra.") else overrides.task
                words.append(f"{key}={QuotedString(moved, Quote.single).with_quotes()}")
        if OmegaConf.select(config, "hydra.launcher.environment") is not None:
            sent = config.hydra.launcher.environment
            sent.extend([name for name in names if name not in sent])


def _raw(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=False)  # so that no interpolation is replaced by what it names


def _key_of(override: str) -> str:
    return override.partition("=")[0].lstrip("+")


def _texts(tree: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Give the texts of nested dicts with their dotted keys."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _texts(value, f"{prefix}{key}.")
        elif isinstance(value, str):
            yield f"{prefix}{key}", value


def _without_secrets(key: str, text: str, all_names: dict[str, None]) -> str:
    """Give the text with names in place of its secrets; add the names to those of all texts."""
    names: list[str] = []

    def move(secret: str) -> str:
        if "${" in secret:  # a part of it is named already
            return secret
        names.append(f"{key.replace('.', '_').upper()}_PASSWORD{f'_{len(names) + 1}' if names else ''}")
        os.environ[names[-1]] = secret
        all_names[names[-1]] = None
        return f"${{oc.env:{names[-1]}}}"

    return replace_secrets(text, move)
