"""Runs a Hydra application so that whatever a user can fix is told in one line."""

from __future__ import annotations

import argparse
import difflib
import errno
import functools
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NoReturn

import hydra
import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cnn_sweeps.errors import ConfigError, UserError
from cnn_sweeps.settings.arguments import SEE_HELP
from cnn_sweeps.settings.targets import targets_in_folder, targets_in_text, trusting
from cnn_sweeps.settings.trees import nodes
from cnn_sweeps.settings.typed import explain_ambiguous, explain_unread, settings_first
from cnn_sweeps.system.ends import ending_on_signals
from cnn_sweeps.system.files import at_home, is_disk_full
from cnn_sweeps.system.output import outlive_display, shown_whole
from cnn_sweeps.text.passwords import hide_passwords

_PACKAGE = Path(__file__).parents[1]
_HARDLY_ANY_BYTES = 2**20
_MOST_CHARACTERS = 200  # of what a library says
_FIX_MEMORY = "set a smaller training.batch_size, data.image_size or model.filters, or give fewer images"
CONF_DIR = str(next(path for path in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if path.is_dir()))
"""The config groups: inside the package in a wheel, beside it in a checkout."""
VERSION_BASE = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}
"""Which defaults Hydra is to use: before 1.4 it asks for that, from 1.4 on it advises against it."""

_HELP_FLAGS = {"--help", "-h"}
_SWEEP_FLAGS = {"--multirun", "-m"}
_HELP = """\
Train a CNN on a folder of images, with every setting composed by Hydra and every run recorded in MLflow.

Examples:
  python -m cnn_sweeps.train                              train on the default data
  python -m cnn_sweeps.train data=folder data.root=PATH   train on your own images
  python -m cnn_sweeps.train model=residual regularization=l2 model.l2=1e-4 seed=1
  python -m cnn_sweeps.train --multirun                   a sweep: search the best dropout, L2 and decay

Groups, chosen with group=option:
{groups}

Flags:
  --multirun           run a sweep: many trials, ranked; docs/sweeps.md says how to choose what is searched
  --cfg job            show the configuration and stop
  --config-dir PATH    add groups and options of your own; they go before those of the same name here
  --hydra-help         what else Hydra offers
Tab completion: eval "$(cnn-sweeps-train -sc install=bash)", then type cnn-sweeps-train and press Tab

Settings, changed with key=value; docs/settings.md explains each (here with the options that this command line chooses):
"""


def run_application(task: Callable[[DictConfig], Any]) -> None:
    """Run `task` as a Hydra application on conf/config.yaml; end the process with what went wrong, if anything.

    Exit codes: 1 for an error, 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
    """
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then hands its errors on instead of printing several lines
    has_begun = bool(_SWEEP_FLAGS & set(sys.argv))  # a sweep's tasks begin elsewhere

    def tell(error: Exception) -> None:
        told = None if wants_traceback else _explain(error, has_begun=has_begun)
        if told is not None:
            sys.exit(f"error: {told}")

    @functools.wraps(task)
    def run_task(config: DictConfig) -> Any:
        nonlocal has_begun
        has_begun = True
        outlive_display()
        gc.enable()
        try:
            return task(config)
        except Exception as error:
            if HydraConfig.get().mode == RunMode.RUN:  # that of a trial is for the sweeper, where it calls this
                tell(error)
            raise

    with ending_on_signals():
        try:
            _run_with_hydra(run_task)
        except Exception as error:
            tell(error)
            raise


def _run_with_hydra(task: Callable[[DictConfig], Any]) -> None:
    sys.argv[1:] = settings_first(sys.argv[1:])
    _check_flags(sys.argv[1:])
    search_path = _search_path()
    with shown_whole():
        if _HELP_FLAGS & set(sys.argv):
            _show_help(search_path)
        words = [target for word in sys.argv[1:] for target in targets_in_text(word)]
        files = targets_in_folder(Path(search_path)) if search_path != CONF_DIR else ()
        with trusting(chain(words, files)):  # what the user names for Hydra itself to call
            hydra.main(config_path=search_path, config_name="config", **VERSION_BASE)(task)()


def _check_flags(words: Sequence[str]) -> None:
    """Raise a ConfigError where Hydra's own reading of the command line would end with a screen of usage."""

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; {SEE_HELP}")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]  # argparse has no other way
    parser.parse_args(words)


def _search_path() -> str:
    """Put the user's --config-dir before CONF_DIR, since the first place that holds a group option wins."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("-c", dest="shown")  # Hydra's `--cfg`, else taken for the beginning of `-cd`
    known, rest = parser.parse_known_args(sys.argv[1:])
    if known.config_dir is None:
        return CONF_DIR
    folder = Path(at_home(known.config_dir)).absolute()
    if not folder.is_dir():
        raise ConfigError(f"--config-dir={known.config_dir}: no such folder; give one that holds config groups")
    shown = [] if known.shown is None else ["--cfg", known.shown]
    sys.argv[1:] = [*rest, *shown, "--config-dir", CONF_DIR]
    return str(folder)


def _show_help(search_path: str) -> None:
    """Print all but the settings, which `--cfg job` then does.

    Hydra's own --help copies all that plugins have registered for each group: 0.8 s of CPU time instead of 0.3.
    """
    files = [file for folder in {search_path, CONF_DIR} for file in Path(folder).glob("*/*.yaml")]
    options = groupby(sorted({(file.parent.name, file.stem) for file in files}), key=itemgetter(0))
    groups = [f"  {group}: {', '.join(option for _, option in known)}" for group, known in options]
    print(_HELP.format(groups="\n".join(groups)))
    sys.argv[1:] = [*(word for word in sys.argv[1:] if word not in _HELP_FLAGS | _SWEEP_FLAGS), "--cfg", "job"]


def _explain(error: Exception, *, has_begun: bool) -> str | None:
    """Say in one line what a user can do about what went wrong; None if that is not known.

    Before the task has begun, it is what Hydra reads and makes that can be wrong in any way.
    """
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return None if _is_bug(error) else hide_passwords(_explain_composition(error))
    if is_disk_full(error):
        return _explain_full_disk(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return f"there is not enough memory ({_in_one_line(error)[:_MOST_CHARACTERS]}); {_FIX_MEMORY}"
    if isinstance(error, OSError) and not has_begun:
        return f"{error.filename}: {error.strerror}; name a place that can be written with hydra.run.dir=PATH"
    is_of_flags = str(error).startswith("Only one of --run, ")  # Hydra's word on --multirun with --cfg
    is_of_a_value = isinstance(error, (ValueError, yaml.YAMLError)) and not has_begun
    return _in_one_line(error) if is_of_flags or is_of_a_value else None


def _explain_full_disk(error: OSError) -> str:
    """Name the file or, where the error does not, the folders in use whose disk is full."""
    output_dir = HydraConfig.get().runtime.output_dir if HydraConfig.initialized() else os.curdir
    folders = dict.fromkeys([output_dir, str(Path.cwd()), tempfile.gettempdir()])
    full = [folder for folder in folders if shutil.disk_usage(folder).free < _HARDLY_ANY_BYTES]
    place = error.filename or " or ".join(full) or output_dir
    return f"{place}: {os.strerror(errno.ENOSPC)}; free space there and run the same command again"


def _is_bug(error: Exception) -> bool:
    """Tell Hydra's complaints about a configuration from exceptions that it only passes on."""
    return (
        isinstance(error, HydraException)
        and not isinstance(error, ConfigCompositionException)
        and error.__cause__ is not None
    )


def _explain_composition(error: Exception) -> str:
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        options = sorted(error.options)
        return f"{group}={option}: no such option{_nearest(option, options)}; allowed: {', '.join(options)}"
    if isinstance(error, OverrideParseException):
        return explain_unread(error.override)
    if (told := explain_ambiguous(str(error))) is not None:
        return told
    if "Could not override 'hydra/sweeper/pruner'" in str(error):
        return "hydra/sweeper: allowed: optuna; leave it out: a sweep whose keys all list values is a grid already"
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.full_key and cause.parent_node is not None:
        composed: Any = OmegaConf.to_container(cause.parent_node._get_root(), resolve=False)
        if isinstance(composed, dict):  # else a file of a group could not be read
            key = str(cause.full_key)
            known = sorted((each for each, _ in nodes(composed)), key=lambda each: each.startswith("hydra."))
            hint = _options_with(key) or _nearest(key, known)
            return f"{key}: no such setting{hint}; --cfg job shows all"
    return _in_one_line(error if str(error) else cause)


def _options_with(key: str) -> str:
    """Name the options of the key's group that have it: the command has chosen another one."""
    group, _, name = key.partition(".")
    files = [file for file in sorted(Path(CONF_DIR, group).glob("*.yaml")) if name in set(OmegaConf.load(file))]
    return f" here; add {' or '.join(f'{group}={file.stem}' for file in files)}" if files else ""


def _nearest(name: str, candidates: list[str]) -> str:
    same = [each for each in candidates if each.rpartition(".")[2] == name.rpartition(".")[2]]  # in another group
    matches = same[:1] or difflib.get_close_matches(name, candidates, n=1)
    return f" (did you mean {matches[0]}?)" if matches else ""


def _in_one_line(error: object) -> str:
    return " ".join(str(error).split())
