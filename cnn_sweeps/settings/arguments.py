"""Command lines of the programs that work on what is recorded: flags, names and settings."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from cnn_sweeps.errors import ConfigError, UserError
from cnn_sweeps.system.ends import ending_on_signals
from cnn_sweeps.system.output import outlive_display, shown_whole

_SETTING = re.compile(r"([a-z_]\w*(?:\.\w+)*)=(.*)", re.DOTALL)
SEE_HELP = "--help shows what there is"


class CommandLine(argparse.ArgumentParser):
    """Reads flags, names (of files, or of runs), and settings as key=value, in any order."""

    def __init__(
        self, help_text: str, required: Sequence[str], optional: Sequence[str], repeatable: Sequence[str] = ()
    ) -> None:
        """Know the help, and the keys of the settings that must, that may, and that may repeatedly be given."""
        super().__init__(allow_abbrev=False)
        self._help, self._required, self._repeatable = help_text, required, repeatable
        self._keys = [*required, *optional, *repeatable]
        self.add_argument("words", nargs="*")

    def format_help(self) -> str:
        """Return the help as it was written."""
        return self._help

    def error(self, message: str) -> NoReturn:
        """Tell argparse's complaint as all errors of a command line are told."""
        raise ConfigError(f"{message}; {SEE_HELP}")

    def read(self, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str], dict[str, str]]:
        """Return the flags, the names, and the settings that are given; commas between what is given repeatedly.

        Raises:
            ConfigError: if a setting is unknown, missing, empty or given twice.
        """
        flags = self.parse_intermixed_args(arguments)
        names: list[str] = []
        settings: dict[str, str] = {}
        for word in flags.words:
            setting = _SETTING.fullmatch(word)
            if setting is None:
                names.append(word)
                continue
            key, value = setting.groups()
            if key not in self._keys:
                hint = f"; the file is ./{word}" if Path(word).exists() else ""
                raise ConfigError(f"{key}: no such setting; allowed: {', '.join(self._keys)}{hint}")
            if key in self._repeatable and value:
                settings[key] = f"{settings[key]},{value}" if key in settings else value
                continue
            if key in settings or not value:
                raise ConfigError(f"{word}: {'given twice' if value else 'it has no value'}; give {key} one value")
            settings[key] = value
        if missing := [key for key in self._required if key not in settings]:
            raise ConfigError(f"{'=, '.join(missing)}= is missing; {SEE_HELP}")
        return flags, names, settings


def run_command(command: Callable[[Sequence[str]], None]) -> None:
    """Run a command on the process's arguments; end the process with what went wrong, if anything, in one line.

    Exit codes: 1 for an error, 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
    """
    with ending_on_signals():
        outlive_display("stderr")
        try:
            with shown_whole():
                command(sys.argv[1:])
        except UserError as error:
            sys.exit(f"error: {error}")
