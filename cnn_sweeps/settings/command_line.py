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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cnn_sweeps.errors import UserError
from cnn_sweeps.settings.targets import targets_in_folder, targets_in_text, trusting
from cnn_sweeps.system.files import is_disk_full
from cnn_sweeps.system.output import outlive_display, shown_whole
from cnn_sweeps.system.signals import exit_on_signals
from cnn_sweeps.text.passwords import hide_passwords

_PACKAGE = Path(__file__).parents[1]
_HARDLY_ANY_BYTES = 2**20
_MOST_CHARACTERS = 200  # of what a library says
_FIX_MEMORY = "set a smaller training.batch_size, data.image_size or model.filters, or give fewer images"
CONF_DIR = str(next(path for path in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if path.is_dir()))
"""The config groups: inside the package in a wheel, beside it in a checkout."""
VERSION_BASE = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}
"""Which defaults Hydra is to use: before 1.4 it asks for that, from 1.4 on it advises against it."""

_HELP = """\
Train a CNN on a folder of images, with every setting composed by Hydra and every run recorded in MLflow.

Examples:
  python -m cnn_sweeps.train                              train on the default data
  python -m cnn_sweeps.train data=folder data.root=PATH   train on your own images
  python -m cnn_sweeps.train model=residual regularization=l2 model.l2=1e-4 seed=1

Groups, chosen with group=option:
{groups}

Flags:
  --cfg job            show the configuration and stop
  --config-dir PATH    add groups and options of your own; they go before those of the same name here
  --hydra-help         what else Hydra offers
Tab completion: eval "$(cnn-sweeps-train -sc install=bash)", then type cnn-sweeps-train and press Tab

Settings, changed with key=value (here with the options that this command line chooses):
"""


def run_application(task: Callable[[DictConfig], Any]) -> None:
    """Run `task` as a Hydra application on conf/config.yaml; end the process with what went wrong, if anything.

    Exit codes: 1 for an error, 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
    """
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then hands its errors on instead of printing several lines
    exit_on_signals()
    task_began = False

    @functools.wraps(task)
    def run_task(config: DictConfig) -> Any:
        nonlocal task_began
        task_began = True
        outlive_display()
        gc.enable()
        try:
            return task(config)
        except Exception as error:
            # of a sweep the sweeper must see it
            is_told = HydraConfig.get().mode == RunMode.RUN and not wants_traceback
            told = _explain_failure(error) if is_told else None
            if told is None:
                raise
            sys.exit(f"error: {told}")

    try:
        _run_with_hydra(run_task)
    except (HydraException, OmegaConfBaseException, UserError) as error:
        if wants_traceback or _is_bug(error):
            raise
        sys.exit(f"error: {hide_passwords(_explain(error))}")
    except (ValueError, yaml.YAMLError, OSError) as error:
        has_begun = task_began or bool({"--multirun", "-m"} & set(sys.argv))  # a sweep's tasks begin elsewhere
        told = None if wants_traceback else _explain_start(error, has_begun=has_begun)
        if told is None:
            raise
        sys.exit(f"error: {told}")
    except KeyboardInterrupt:
        sys.exit(130)


def _run_with_hydra(task: Callable[[DictConfig], Any]) -> None:
    search_path = _search_path()
    with shown_whole():
        if {"--help", "-h"} & set(sys.argv):
            _show_help(search_path)
        with trusting(_named_by_user(search_path)):
            hydra.main(config_path=search_path, config_name="config", **VERSION_BASE)(task)()


def _explain_failure(error: Exception) -> str | None:
    """Say in one line what a user can do about a failure of the task; None if that is not known."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and is_disk_full(error):
        return _explain_full_disk(error, HydraConfig.get().runtime.output_dir)
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return f"there is not enough memory ({' '.join(str(error).split())[:_MOST_CHARACTERS]}); {_FIX_MEMORY}"
    return None


def _explain_start(error: Exception, *, has_begun: bool) -> str | None:
    """Say in one line why Hydra could not start; None if it is no matter of that."""
    if isinstance(error, OSError) and is_disk_full(error):
        return _explain_full_disk(error, os.curdir)
    if has_begun:
        return None
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}; name a place that can be written with hydra.run.dir=PATH"
    return " ".join(str(error).split())


def _explain_full_disk(error: OSError, output_dir: str) -> str:
    """Name the file or, where the error does not, the folders in use whose disk is full."""
    folders = dict.fromkeys([output_dir, str(Path.cwd()), tempfile.gettempdir()])
    full = [folder for folder in folders if shutil.disk_usage(folder).free < _HARDLY_ANY_BYTES]
    place = error.filename or " or ".join(full) or output_dir
    return f"{place}: {os.strerror(errno.ENOSPC)}; make space there and give the same command again"


def _search_path() -> str:
    """Put the user's --config-dir before CONF_DIR, since the first place that holds a group option wins."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd")
    known, rest = parser.parse_known_args(sys.argv[1:])
    if known.config_dir is None:
        return CONF_DIR
    if not Path(known.config_dir).is_dir():
        sys.exit(f"error: --config-dir={known.config_dir}: no such folder; give one that holds config groups")
    sys.argv[1:] = [*rest, "--config-dir", CONF_DIR]
    return str(Path(known.config_dir).absolute())


def _named_by_user(search_path: str) -> Iterator[str]:
    """Give what the user's own command line and folder of config groups name for Hydra itself to call."""
    for word in sys.argv[1:]:
        yield from targets_in_text(word)
    if search_path != CONF_DIR:
        yield from targets_in_folder(Path(search_path))


def _show_help(search_path: str) -> None:
    """Print all but the settings, which `--cfg job` then does; Hydra's own --help takes twice as long."""
    options: dict[str, set[str]] = {}
    for folder in (search_path, CONF_DIR):
        for file in Path(folder).glob("*/*.yaml"):
            options.setdefault(file.parent.name, set()).add(file.stem)
    print(
        _HELP.format(groups="\n".join(f"  {group}: {', '.join(sorted(options[group]))}" for group in sorted(options)))
    )
    sys.argv[1:] = [argument for argument in sys.argv[1:] if argument not in ("--help", "-h")] + [
        "--cfg",
        "job",
    ]


def _is_bug(error: Exception) -> bool:
    """Tell Hydra's complaints about a configuration from exceptions that it only passes on."""
    return (
        isinstance(error, HydraException)
        and not isinstance(error, ConfigCompositionException)
        and error.__cause__ is not None
    )


def _explain(error: Exception) -> str:
    if isinstance(error, MissingConfigException) and error.options is not None:
        return _explain_missing_option(error)
    if "Could not override 'hydra/sweeper/pruner'" in str(error):
        return "hydra/sweeper: allowed: optuna, whose sweeps are grids where every key lists its values; leave it out"
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.full_key and cause.parent_node is not None:
        return _explain_unknown_key(cause)
    return " ".join(str(error if str(error) else cause).split())


def _explain_missing_option(error: MissingConfigException) -> str:
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    options = sorted(error.options or ())
    return f"{group}={option}: no such option{_nearest(option, options)}; allowed: {', '.join(options)}"


def _explain_unknown_key(cause: OmegaConfBaseException) -> str:
    root = cause.parent_node._get_root()
    keys = _dotted_keys(root)
    return f"{cause.full_key}: no such setting{_nearest(str(cause.full_key), keys)}; --cfg job shows all"


def _dotted_keys(root: Any) -> list[str]:
    keys: list[str] = []

    def collect(node: Any, prefix: str) -> None:
        for key, value in node.items():
            keys.append(f"{prefix}{key}")
            if isinstance(value, dict):
                collect(value, f"{prefix}{key}.")

    collect(OmegaConf.to_container(root, resolve=False), "")
    return keys


def _nearest(name: str, candidates: list[str]) -> str:
    matches = difflib.get_close_matches(name, candidates, n=1)
    return f" (did you mean {matches[0]}?)" if matches else ""
