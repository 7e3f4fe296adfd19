"""What is made of a composed configuration before Hydra writes it, and all else, into output folders.

Passwords are moved into environment variables; `~` at the beginning of a folder's name becomes the home folder.
"""

from __future__ import annotations

import os
from functools import partial
from itertools import count
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from cnn_sweeps.settings.trees import nodes, with_texts_changed
from cnn_sweeps.system.files import at_home
from cnn_sweeps.text.passwords import (
    Replacement,
    hide_passwords,
    hide_passwords_of_value,
    hide_passwords_of_word,
    split_names,
)

_DERIVED = ("hydra.overrides.", "hydra.job.", "hydra.runtime.")  # by Hydra, from the overrides


def job_overrides() -> list[str]:
    """Return the running job's overrides as they were typed: what they name is not looked up."""
    words: list[str] = _raw(HydraConfig.get().overrides.task)
    return words


class PasswordsToEnvironment(Callback):
    """What Hydra calls for it, under `hydra.callbacks`."""

    def on_run_start(self, config: DictConfig, **_more: Any) -> None:
        """Move them; of a sweep its jobs then get overrides without them."""
        move_passwords(config)

    on_multirun_start = on_run_start


class HomeInFolders(Callback):
    """What Hydra calls for it, likewise: for the folders that Hydra itself makes."""

    def on_run_start(self, config: DictConfig, **_more: Any) -> None:
        """Put the home folder into `hydra.run.dir` and `hydra.sweep.dir`, and of a sweep into its jobs' overrides."""
        for name in ("run", "sweep"):
            given: str = _raw(config.hydra)[name]["dir"]
            if (folder := at_home(given)) != given:
                key, words = f"hydra.{name}.dir", _raw(config.hydra.overrides.hydra)
                with read_write(config.hydra):
                    config.hydra[name].dir = folder
                    kept = [word for word in words if _key_of(word) != key]
                    config.hydra.overrides.hydra = [*kept, f"{key}={_override_value(folder)}"]

    on_multirun_start = on_run_start


def move_passwords(config: DictConfig) -> None:
    """Replace the secrets in a composed configuration's addresses by names, and set the environment variables named.

    `postgresql://me:secret@host/studies` under `hydra.sweeper.storage` becomes
    `postgresql://me:${oc.env:HYDRA_SWEEPER_STORAGE_PASSWORD}@host/studies`. Processes that are started later inherit
    the variables; a launcher that sends variables to workers which run already gets their names. A secret from a file
    becomes an override, since each job composes its configuration again.
    """
    overrides = config.hydra.overrides
    names: dict[str, str] = {}
    with read_write(config), open_dict(config), read_write(config.hydra):
        given, typed = set(), {}
        for words in (overrides.hydra, overrides.task):
            for position, word in enumerate(_raw(words)):
                given.add(_key_of(word))
                typed[word.lstrip("+")] = hide_passwords_of_word(word).lstrip("+")
                words[position] = hide_passwords_of_word(word, _mover(_key_of(word), names))
        for key, value in nodes(_raw(config)):
            is_derived = key.startswith(_DERIVED)
            if not isinstance(value, str if is_derived else (str, list)):
                continue
            move = partial(hide_passwords_of_value, replacement=_mover(key, names))
            moved = with_texts_changed(value, partial(_hide_typed, typed=typed) if is_derived else move)
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


def _hide_typed(text: str, typed: dict[str, str]) -> str:
    """Hide the secrets of a text that holds overrides as they were typed."""
    for word, hidden in typed.items():
        text = text.replace(word, hidden)
    return hide_passwords(text)


def _override_value(value: Any) -> str:
    if isinstance(value, str):
        return QuotedString(value, Quote.single).with_quotes()
    if isinstance(value, list):
        return f"[{','.join(map(_override_value, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_override_value(each)}' for key, each in value.items())}}}"
    return "null" if value is None else str(value)


def _mover(key: str, names: dict[str, str]) -> Replacement:
    """Return what moves the secrets of one setting into environment variables, but for parts that are named already."""
    first, numbers = f"{key.replace('.', '_').upper()}_PASSWORD", count(1)

    def move_part(secret: str) -> str:
        number = next(numbers)
        name = first if number == 1 else f"{first}_{number}"
        os.environ[name] = names[name] = secret
        return f"${{oc.env:{name}}}"

    def move(secret: str) -> str:
        parts = split_names(secret)
        parts[::2] = [move_part(part) if part else "" for part in parts[::2]]
        return "".join(parts)

    return move
