"""What a run's tags say of the process that makes it."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cnn_sweeps.owners import owner_tags
from cnn_sweeps.passwords import hide_passwords_of_word
from cnn_sweeps.threads import count_threads

THREADS_TAG = "cpu.threads"
_PACKAGES = ("cnn-sweeps", "tensorflow", "keras", "mlflow", "numpy")
_GIT: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 10}


def describe_process() -> dict[str, str]:
    """Name versions, platform, command line, owner and commit."""
    tags = {f"version.{package}": version(package) for package in _PACKAGES}
    tags["version.python"] = platform.python_version()
    tags["platform"] = platform.platform()
    tags[THREADS_TAG] = str(count_threads())
    tags["command"] = shlex.join(["python", *map(hide_passwords_of_word, sys.orig_argv[1:])])
    return tags | owner_tags() | _git_tags()


@cache  # git takes longer the more this process holds in memory
def _git_tags() -> dict[str, str]:
    """Commit of this code's checkout, else of the working folder's, and whether files differ from it; else nothing."""
    for folder in (Path(__file__).parent, Path.cwd()):
        git = ["git", "-C", str(folder)]
        try:
            commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, **_GIT).stdout.strip()
            changes = subprocess.run([*git, "status", "--porcelain"], check=True, **_GIT).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            continue
        return {"git.commit": commit, "git.dirty": str(bool(changes)).lower()}
    return {}
