"""Commands as a person would type them, which run this program again."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cnn_sweeps.text.passwords import hide_passwords, hide_passwords_of_word

_ONCE = ("resume=",)  # what was for the one time
_OF_HYDRA = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp")


class Command(NamedTuple):
    """A command to copy, and what it is for."""

    what: str
    command: str


def describe_command(overrides: Sequence[str], *, multirun: bool = False) -> str:
    """Give the command that runs this program with these overrides."""
    program, flags = _program_and_flags()
    return shlex.join([*program, *flags, *["--multirun"] * multirun, *overrides])


def command_to_repeat(program: str, overrides: Sequence[str]) -> str:
    """Give the command that makes a run of a program again: without passwords and what was for the one time.

    The program is as a shell takes it, with its flags.
    """
    lasting = [override for override in overrides if not override.lstrip("+").startswith(_ONCE)]
    words = [shlex.quote(hide_passwords_of_word(override)) for override in lasting]
    return " ".join([hide_passwords(program), *words])


def one_word_a_line(command: str) -> str:
    """Give a command of one line as several, as a shell takes it all the same.

    Variables have the first line, if there are any, and each override has its own.
    """
    words = shlex.split(command)
    is_override = [not word.startswith("-") and "=" in word and not word.partition("=")[0].isupper() for word in words]
    first = is_override.index(True) if any(is_override) else len(words)
    variables = [word for word in words[:first] if "=" in word and word.partition("=")[0].isupper()]
    starts = [variables, words[len(variables) : first]]
    return " \\\n  ".join([*(shlex.join(start) for start in starts if start), *map(shlex.quote, words[first:])])


def short_overrides(overrides: Sequence[str]) -> list[str]:
    """Give overrides with the last part of their keys alone, where no other has it: `l2=0.1` for `model.l2=0.1`.

    Of several for one key it is the last one that counts.
    """
    by_key = {text.partition("=")[0]: text for text in (override.lstrip("+") for override in overrides)}
    short = {key: key if key.startswith("~") else key.rpartition(".")[2] for key in by_key}
    several = {name for name in short.values() if list(short.values()).count(name) > 1}
    return [(key if short[key] in several else short[key]) + text[len(key) :] for key, text in by_key.items()]


def _program_and_flags() -> tuple[list[str], list[str]]:
    """Give how this program was started, and its arguments that are neither overrides nor about the kind of run."""
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
