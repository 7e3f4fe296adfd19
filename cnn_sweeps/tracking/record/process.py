"""Describes the process of a run in tags: versions, machine, command, owner, commit."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path

from mlflow.tracking.context.registry import resolve_tags

import cnn_sweeps
from cnn_sweeps.system.libraries import count_threads
from cnn_sweeps.system.owners import owner_tags
from cnn_sweeps.text.passwords import hide_passwords_of_word

THREADS_TAG = "cpu.threads"
_PACKAGES = ("cnn-sweeps", "tensorflow", "keras", "mlflow", "numpy")
_CHECKOUT = Path(cnn_sweeps.__file__).parents[1]
"""The folder with the project's own `.git`, if this code runs from a checkout."""


def describe_process() -> dict[str, str]:
    """Return tags with versions, platform, threads, command line, owner and commit."""
    tags = {
        "version.python": platform.python_version(),
        "platform": platform.platform(),
        THREADS_TAG: str(count_threads()),
        "command": shlex.join(["python", *map(hide_passwords_of_word, sys.orig_argv[1:])]),
    }
    return {f"version.{package}": version(package) for package in _PACKAGES} | tags | owner_tags() | _git_tags()


def run_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Add tags of this process, and MLflow's tags of the user and the program, to the tags of a run."""
    return {key: str(text) for key, text in resolve_tags(describe_process() | dict(tags)).items()}


@cache  # git takes longer the more this process holds in memory
def _git_tags() -> dict[str, str]:
    """Return the commit of this code's checkout, and whether files differ from it; empty without a checkout.

    Other repositories, such as one around the working folder, are not asked: `git status` runs programs that a
    repository's configuration names.
    """
    if not (_CHECKOUT / ".git").exists():
        return {}
    try:
        return {"git.commit": _git("rev-parse", "HEAD"), "git.dirty": str(bool(_git("status", "--porcelain"))).lower()}
    except (OSError, subprocess.SubprocessError):
        return {}


def _git(*words: str) -> str:
    # If a git hook started this process, variables name the hook's repository.
    environment = {key: text for key, text in os.environ.items() if not key.startswith("GIT_") or "_CONFIG" in key}
    command = ["git", "-C", str(_CHECKOUT), *words]
    return subprocess.check_output(command, env=environment, text=True, timeout=10, stderr=subprocess.DEVNULL).strip()
