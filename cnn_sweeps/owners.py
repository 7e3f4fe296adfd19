"""Which process owns a piece of work, and whether it has died without saying so."""

from __future__ import annotations

import socket
from collections.abc import Mapping

import psutil

_CLOCK_SLACK_S = 60  # a process's start time shifts when the machine's clock is set


def owner_tags() -> dict[str, str]:
    """Name this process: host, number and start time, since numbers are used again."""
    process = psutil.Process()
    return {
        "owner.host": socket.gethostname(),
        "owner.pid": str(process.pid),
        "owner.started": str(process.create_time()),
    }


def has_owner_died(tags: Mapping[str, str]) -> bool:
    """Tell whether the process that `owner_tags` named is gone; False for another host's, which cannot be seen."""
    if tags.get("owner.host") != socket.gethostname():
        return False
    try:
        process = psutil.Process(int(tags["owner.pid"]))
        if process.status() == psutil.STATUS_ZOMBIE:  # ended; its parent has not looked
            return True
        started = process.create_time()
    except psutil.NoSuchProcess:
        return True
    return bool(abs(started - float(tags["owner.started"])) >= _CLOCK_SLACK_S)
