"""Moves the passwords of a configuration into environment variables, before Hydra writes it into output folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from cnn_sweeps.text.passwords import (
    Replacement,
    hide_passwords,
    hide_passwords_of_value,
    hide_passwords_of_word,
    split_names,
)

_DERIVED = ("hydra.overrides.", "hydra.job.", "hydra.runtime.")  # by Hydra, from the overrides


def job_overrides() -> list[str]:
    """Give the running job's overrides as they were typed: what they name is not looked up."""
    words: list[str] = _raw(HydraConfig.get().overrides.task)
    return words


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
    with read_write(config), open_dict(config), read_write(config.hydra):
        given, typed = set(), {}
        for words in (overrides.hydra, overrides.task):
            for position, word in enumerate(_raw(words)):
                given.add(_key_of(word))
                typed[word.lstrip("+")] = hide_passwords_of_word(word).lstrip("+")
                words[position] = hide_passwords_of_word(word, _Mover(_key_of(word), names))
        for key, value in list(_leaves(_raw(config))):
            is_derived = key.startswith(_DERIVED)
            if is_derived:
                moved = _hide_typed(value, typed) if isinstance(value, str) else value
            else:
                moved = _without_secrets(value, _Mover(key, names))
            if moved == value:
                continue
            OmegaConf.update(config, key, moved)
            if key not in given and not is_derived:
                words = overrides.hydra if key.startswith("hydra.") else overrides.task
                words.append(f"{key}={_override_value(moved)}")
        if OmegaConf.select(config, "hydra.launcher.environment") is not None:
            sent = config.hydra.launcher.environment
            if added := [name for name in names if name not in sent]:
                sent.extend(added)
                overrides.hydra.append(f"hydra.launcher.environment=[{','.join(sent)}]")


def _raw(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=False)  # so that no interpolation is replaced by what it names


def _key_of(override: str) -> str:
    return override.partition("=")[0].lstrip("+")


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give the texts and lists of nested dicts with their dotted keys."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        elif isinstance(value, (str, list)):
            yield f"{prefix}{key}", value


def _hide_typed(text: str, typed: dict[str, str]) -> str:
    """Hide the secrets of a text that holds overrides as they were typed."""
    for word, hidden in typed.items():
        text = text.replace(word, hidden)
    return hide_passwords(text)


def _without_secrets(value: Any, move: Replacement) -> Any:
    """Give a value with names in place of the secrets in its texts."""
    if isinstance(value, str):
        return hide_passwords_of_value(value, move)
    if isinstance(value, list):
        return [_without_secrets(each, move) for each in value]
    if isinstance(value, dict):
        return {key: _without_secrets(each, move) for key, each in value.items()}
    return value


def _override_value(value: Any) -> str:
    if isinstance(value, str):
        return QuotedString(value, Quote.single).with_quotes()
    if isinstance(value, list):
        return f"[{','.join(map(_override_value, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_override_value(each)}' for key, each in value.items())}}}"
    return "null" if value is None else str(value)


class _Mover:
    """Moves the secrets of one setting into environment variables; gives what names them."""

    def __init__(self, key: str, all_names: dict[str, None]) -> None:
        """Of a setting; the names are added to those of all settings."""
        self._name, self._num_names, self._all_names = f"{key.replace('.', '_').upper()}_PASSWORD", 0, all_names

    def __call__(self, secret: str) -> str:
        """Move a secret, but for the parts of it that are named already."""
        parts = split_names(secret)
        parts[::2] = [self._move(part) if part else "" for part in parts[::2]]
        return "".join(parts)

    def _move(self, secret: str) -> str:
        self._num_names += 1
        name = f"{self._name}_{self._num_names}" if self._num_names > 1 else self._name
        os.environ[name] = secret
        self._all_names[name] = None
        return f"${{oc.env:{name}}}"
