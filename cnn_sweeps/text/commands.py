"""Commands that run this program again, as a person would type them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cnn_sweeps.text.passwords import hide_passwords, hide_passwords_of_word

_ONCE = ("resume=",)  # overrides that are only meant for one call
_OF_HYDRA = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp")


class Command(NamedTuple):
    """A command to copy, and what it is for."""

    what: str
    command: str


def describe_command(overrides: Sequence[str], *, multirun: bool = False) -> str:
    """Return the command that runs this program with these overrides."""
    program, flags = _program_and_flags()
    return shlex.join([*program, *flags, *["--multirun"] * multirun, *overrides])


def command_to_repeat(program: str, overrides: Sequence[str]) -> str:
    """Return the command that repeats a run, without passwords and `resume=`; `program` is quoted for a shell."""
    lasting = [override for override in overrides if not override.lstrip("+").startswith(_ONCE)]
    words = [shlex.quote(hide_passwords_of_word(override)) for override in lasting]
    return " ".join([hide_passwords(program), *words])


def one_word_a_line(command: str) -> str:
    """Break a command into several lines, variables first, each override on its own; a shell runs it as before."""
    words = shlex.split(command)
    is_override = [not word.startswith("-") and "=" in word and not word.partition("=")[0].isupper() for word in words]
    first = is_override.index(True) if any(is_override) else len(words)
    variables = [word for word in words[:first] if "=" in word and word.partition("=")[0].isupper()]
    starts = [variables, words[len(variables) : first]]
    return " \\\n  ".join([*(shlex.join(start) for start in starts if start), *map(shlex.quote, words[first:])])


def short_overrides(overrides: Sequence[str]) -> list[str]:
    """Shorten keys of overrides to their last part where that is unique: `l2=0.1` for `model.l2=0.1`.

    Of several overrides for one key, the last one counts.
    """
    by_key = {text.partition("=")[0]: text for text in (override.lstrip("+") for override in overrides)}
    short = {key: key if key.startswith("~") else key.rpartition(".")[2] for key in by_key}
    several = {name for name in short.values() if list(short.values()).count(name) > 1}
    return [(key if short[key] in several else short[key]) + text[len(key) :] for key, text in by_key.items()]


def _program_and_flags() -> tuple[list[str], list[str]]:
    """Return the words that start this program, and Hydra's flags that say where its configuration is."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None and spec.name in sys.orig_argv:
        start = sys.orig_argv.index(spec.name)
        program = ["python", "-m", spec.name]
    else:
        program_path = sys.argv[0]
        start = sys.orig_argv.index(program_path) if program_path in sys.orig_argv else len(sys.orig_argv)
        is_script = program_path.endswith(".py")
        program = ["python", program_path] if is_script else [Path(program_path).name]
    flags: list[str] = []
    words = iter(sys.orig_argv[start + 1 :])
    for word in words:
        if word.partition("=")[0] in _OF_HYDRA:
            flags += [word] if "=" in word else [word, next(words, "")]
    return program, flags
