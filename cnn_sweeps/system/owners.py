"""Names the process that owns a piece of work, and finds out whether it is still alive."""

from __future__ import annotations

import math
import os
import secrets
import socket
import sys
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Literal

import psutil

OwnerState = Literal["alive", "dead", "elsewhere", "unknown"]
"""State of a process. `elsewhere`: it cannot be seen from here, since it ran on another host, in another container, or
before this machine was restarted. `unknown`: the tags are missing or make no sense."""

WORD = "owner.word"
_HOST, _BOOT, _NAMESPACE, _PID, _STARTED = (
    f"owner.{name}" for name in ("host", "boot", "pid_namespace", "pid", "started")
)


def owner_tags() -> dict[str, str]:
    """Return tags that identify this process.

    Two machines may have the same host name, and process ids are used again, in a restarted container at once. So the
    tags also name the machine's boot, the PID namespace, the process's start, and a random word.
    """
    pid = os.getpid()
    return {
        _HOST: socket.gethostname(),
        _BOOT: _boot(),
        _NAMESPACE: _pid_namespace(),
        _PID: str(pid),
        _STARTED: _start(),
        WORD: _word(pid),
    }


def is_here(tags: Mapping[str, str]) -> bool:
    """Return whether the process of `owner_tags` ran on a host with this host's name."""
    return tags.get(_HOST) == socket.gethostname()


def owner_state(tags: Mapping[str, str], dead_hosts: Collection[str] = ()) -> OwnerState:
    """Return the state of the process of `owner_tags`; the tags may be anybody's and are checked.

    Processes of `dead_hosts` count as dead unless they are seen alive. A process of another boot or PID namespace is
    `elsewhere` even if its host has this one's name: two machines of one name look like one that was restarted.
    """
    try:
        host, pid = tags[_HOST], int(tags[_PID])
        if not (0 < pid < 2**31 and math.isfinite(float(tags[_STARTED]))):
            return "unknown"
    except (KeyError, TypeError, ValueError):
        return "unknown"
    here = (_boot(), _pid_namespace())
    is_in_sight = "unknown" not in here and here == (tags.get(_BOOT), tags.get(_NAMESPACE))
    state = _state_in_sight(tags, pid) if is_in_sight else "elsewhere"
    return "dead" if state == "elsewhere" and host in dead_hosts else state


def _state_in_sight(tags: Mapping[str, str], pid: int) -> OwnerState:
    if pid == os.getpid():
        return "alive" if (tags[_STARTED], tags.get(WORD)) == (_start(), _word(pid)) else "dead"
    try:
        process = psutil.Process(pid)
        has_ended = process.status() == psutil.STATUS_ZOMBIE  # its parent has not waited for it
        return "dead" if has_ended or _start(process) != tags[_STARTED] else "alive"
    except psutil.NoSuchProcess:
        return "elsewhere" if psutil.pid_exists(pid) else "dead"  # a machine may hide other users' processes
    except psutil.AccessDenied:
        return "elsewhere"


def _start(process: psutil.Process | None = None) -> str:
    """Return when a process, or this one, started, by a clock that nobody can set."""
    if sys.platform != "linux":
        return str((process or psutil.Process()).create_time())
    name = process.pid if process else "self"
    try:
        about = Path(f"/proc/{name}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError) as error:
        raise psutil.NoSuchProcess(process.pid if process else os.getpid()) from error
    return about.rpartition(")")[2].split()[19]  # in clock ticks since the machine was started


@cache
def _boot() -> str:
    if sys.platform != "linux":
        return str(int(psutil.boot_time()))
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return "unknown"


@cache
def _pid_namespace() -> str:
    if sys.platform != "linux":
        return ""
    try:
        is_own = Path("/proc/self").readlink().name == str(os.getpid())  # /proc may be another container's
        return str(Path("/proc/self/ns/pid").stat().st_ino) if is_own else "unknown"
    except OSError:
        return "unknown"


@cache
def _word(_pid: int) -> str:
    """Return this process's random word; a forked process has another id, and so another word."""
    return secrets.token_hex(8)
