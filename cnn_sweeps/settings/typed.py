"""What people type, as Hydra's grammar takes it: flags among settings, and texts that it wants in quotes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString, Transformer

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.text.names import in_unicode

_WITH_A_WORD = {"-cp", "-cn", "-cd", "-c", "-p", "--config-path", "--config-name", "--config-dir", "--cfg", "--package"}
_WITH_A_WORD |= {"--experimental-rerun"}
_MAY_HAVE_A_WORD = {"--info", "-i"}
_SETTING = re.compile(r"([\w./@+~-]+)=(.+)", re.DOTALL)
_AMBIGUOUS = re.compile(r"Ambiguous value for argument '(.*)'\n1\. ", re.DOTALL)


def settings_first(words: Sequence[str]) -> list[str]:
    """Return the words of a command line with all settings before all flags, the one order in which Hydra takes them.

    Raises:
        ConfigError: if one is no UTF-8, as a folder's name may be: no record, page or database could hold it.
    """
    if wrong := [word for word in words if in_unicode(word) != word]:
        raise ConfigError(
            f"{wrong[0]}: holds bytes that are no UTF-8, which no record can keep; rename what it names, or make a "
            "link to it (ln -s) and name that"
        )
    settings: list[str] = []
    flags: list[str] = []
    for word, flag in zip(words, ["", *words], strict=False):
        is_of_flag = flag in _WITH_A_WORD or (flag in _MAY_HAVE_A_WORD and "=" not in word)
        (flags if word.startswith("-") or is_of_flag else settings).append(word)
    return [*settings, *flags]


def as_text(key: str, value: Any) -> str:
    """Return the argument that sets a key to a text, quoted for Hydra and the shell; `value` is as Hydra read it."""
    text = value if isinstance(value, str) else Transformer.str(value)
    return shlex.quote(f"{key}={QuotedString(text, Quote.double).with_quotes()}")


def explain_unread(override: str) -> str:
    """Say how to type a setting that Hydra cannot read."""
    found = _SETTING.fullmatch(override)
    if found is None:
        return f"{override}: is no setting; type key=value, without spaces around the ="
    return f"{override}: Hydra cannot read this value; if it is a text, type {as_text(found[1], found[2])}"


def explain_ambiguous(complaint: str) -> str | None:
    """Say how to type what Hydra takes for several values; None if it complains of something else."""
    found = _AMBIGUOUS.match(complaint)
    if found is None:
        return None
    key, _, values = found[1].partition("=")
    return (
        f"{found[1]}: has several values; to try each, add --multirun; for a list, type "
        f"{shlex.quote(f'{key}=[{values}]')}; for a text, {as_text(key, values)}"
    )
