"""Which process owns a piece of work, and whether it has died without saying so."""

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
"""Of a process; `elsewhere`: where it cannot be seen, on another host, in another container, or before this machine
was restarted; `unknown`: nobody signed, or in no sense."""

WORD = "owner.word"
_BOOT, _NAMESPACE = "owner.boot", "owner.pid_namespace"


def owner_tags() -> dict[str, str]:
    """Name this process.

    Host names may be equal on two machines and numbers are used again, in a container that is restarted at once. So
    there are also the machine's boot and the namespace, in which a number means one process at a time, the process's
    start, and a random word.
    """
    pid = os.getpid()
    return {
        "owner.host": socket.gethostname(),
        _BOOT: _boot(),
        _NAMESPACE: _pid_namespace(),
        "owner.pid": str(pid),
        "owner.started": _start(),
        WORD: _word(pid),
    }


def is_here(tags: Mapping[str, str]) -> bool:
    """Tell whether the process that `owner_tags` named is, or was, one of a host of this name."""
    return tags.get("owner.host") == socket.gethostname()


def has_owner_died(tags: Mapping[str, str]) -> bool:
    """Tell whether the process that `owner_tags` named is gone; False for one that cannot be seen from here."""
    return owner_state(tags) == "dead"


def owner_state(tags: Mapping[str, str], dead_hosts: Collection[str] = ()) -> OwnerState:
    """Tell what is known of the process that `owner_tags` named.

    Those of `dead_hosts` are taken to be gone, unless they are seen to live. A process of another boot, or of another
    PID namespace, is `elsewhere` even if its host has this one's name: nothing tells two machines, or two containers,
    of one name from one that was restarted.
    """
    host = tags.get("owner.host")
    if host is None or not _names_a_process(tags):
        return "unknown"
    state = _state_in_sight(tags) if _is_in_sight(tags) else "elsewhere"
    return "dead" if state == "elsewhere" and host in dead_hosts else state


def _is_in_sight(tags: Mapping[str, str]) -> bool:
    """Tell whether the number of the process means here what it means there."""
    here = (_boot(), _pid_namespace())
    return "unknown" not in here and here == (tags.get(_BOOT), tags.get(_NAMESPACE))


def _state_in_sight(tags: Mapping[str, str]) -> OwnerState:
    pid = int(tags["owner.pid"])
    if pid == os.getpid():
        return "alive" if (tags["owner.started"], tags.get(WORD)) == (_start(), _word(pid)) else "dead"
    if not psutil.pid_exists(pid):
        return "dead"
    try:
        process = psutil.Process(pid)
        is_zombie = process.status() == psutil.STATUS_ZOMBIE  # ended; its parent has not looked
        is_another = _start(process) != tags["owner.started"]
    except psutil.NoSuchProcess:
        return "elsewhere" if psutil.pid_exists(pid) else "dead"  # of another user, whom a machine may hide
    except psutil.AccessDenied:
        return "elsewhere"
    return "dead" if is_zombie or is_another else "alive"


def _start(process: psutil.Process | None = None) -> str:
    """Give when a process, or this one, began, by a clock that nobody sets: a later one of its number began later."""
    if sys.platform != "linux":
        return str((process or psutil.Process()).create_time())
    name = "self" if process is None else process.pid
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
        is_own = Path("/proc/self").readlink().name == str(os.getpid())  # a container may show another one's processes
        return str(Path("/proc/self/ns/pid").stat().st_ino) if is_own else "unknown"
    except OSError:
        return "unknown"


@cache
def _word(_pid: int) -> str:
    """Give this process's own word; one that was forked has another number, and so another word."""
    return secrets.token_hex(8)


def _names_a_process(tags: Mapping[str, str]) -> bool:
    """Tell whether tags, which anybody may have written, have a process's number and start."""
    try:
        return 0 < int(tags["owner.pid"]) < 2**31 and math.isfinite(float(tags["owner.started"]))
    except (KeyError, TypeError, ValueError):
        return False
