"""Which process owns a piece of work, and whether it has died without saying so."""

from __future__ import annotations

import math
import socket
from collections.abc import Collection, Mapping
from typing import Literal

import psutil

OwnerState = Literal["alive", "dead", "elsewhere", "unknown"]
"""Of a process; `elsewhere`: on another host, where it cannot be seen; `unknown`: nobody signed, or in no sense."""

_CLOCK_SLACK_S = 60  # a process's start time shifts when the machine's clock is set


def owner_tags() -> dict[str, str]:
    """Name this process: host, number and start time, since numbers are used again."""
    process = psutil.Process()
    return {
        "owner.host": socket.gethostname(),
        "owner.pid": str(process.pid),
        "owner.started": str(process.create_time()),
    }


def is_here(tags: Mapping[str, str]) -> bool:
    """Tell whether the process that `owner_tags` named is, or was, one of this host."""
    return tags.get("owner.host") == socket.gethostname()


def has_owner_died(tags: Mapping[str, str]) -> bool:
    """Tell whether the process that `owner_tags` named is gone; False for another host's, which cannot be seen."""
    return owner_state(tags) == "dead"


def owner_state(tags: Mapping[str, str], dead_hosts: Collection[str] = ()) -> OwnerState:
    """Tell what is known of the process that `owner_tags` named; all those of `dead_hosts` are taken to be gone."""
    host = tags.get("owner.host")
    if host is None or not _names_a_process(tags):
        return "unknown"
    if host in dead_hosts:
        return "dead"
    if not is_here(tags):
        return "elsewhere"
    try:
        process = psutil.Process(int(tags["owner.pid"]))
        if process.status() == psutil.STATUS_ZOMBIE:  # ended; its parent has not looked
            return "dead"
        started = process.create_time()
    except psutil.NoSuchProcess:
        return "dead"
    return "dead" if abs(started - float(tags["owner.started"])) >= _CLOCK_SLACK_S else "alive"


def _names_a_process(tags: Mapping[str, str]) -> bool:
    """Tell whether tags, which anybody may have written, have a process's number and start."""
    try:
        return 0 < int(tags["owner.pid"]) < 2**31 and math.isfinite(float(tags["owner.started"]))
    except (KeyError, TypeError, ValueError):
        return False
