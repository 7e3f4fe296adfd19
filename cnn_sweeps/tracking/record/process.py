"""What a run's tags say of the process that makes it."""

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
"""Where the project's own `.git` is if this code runs from a checkout."""


def describe_process() -> dict[str, str]:
    """Name versions, platform, command line, owner and commit."""
    tags = {
        "version.python": platform.python_version(),
        "platform": platform.platform(),
        THREADS_TAG: str(count_threads()),
        "command": shlex.join(["python", *map(hide_passwords_of_word, sys.orig_argv[1:])]),
    }
    return {f"version.{package}": version(package) for package in _PACKAGES} | tags | owner_tags() | _git_tags()


def run_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Add to the tags of a run what names its process, and what MLflow says of the user and the program."""
    return {key: str(text) for key, text in resolve_tags(describe_process() | dict(tags)).items()}


@cache  # git takes longer the more this process holds in memory
def _git_tags() -> dict[str, str]:
    """Commit of this code's own checkout, and whether files differ from it; nothing if it runs from no checkout.

    No other repository is asked, such as one around the working folder or around an environment: `git status` runs
    programs that a repository's configuration names.
    """
    if not (_CHECKOUT / ".git").exists():
        return {}
    try:
        return {"git.commit": _git("rev-parse", "HEAD"), "git.dirty": str(bool(_git("status", "--porcelain"))).lower()}
    except (OSError, subprocess.SubprocessError):
        return {}


def _git(*words: str) -> str:
    # A git that started this process, for a hook, names its own repository in variables.
    environment = {key: text for key, text in os.environ.items() if not key.startswith("GIT_") or "_CONFIG" in key}
    command = ["git", "-C", str(_CHECKOUT), *words]
    return subprocess.check_output(command, env=environment, text=True, timeout=10, stderr=subprocess.DEVNULL).strip()
