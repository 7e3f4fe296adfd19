"""How busy this machine is."""

from __future__ import annotations

import time

import psutil

FIRST_S, PAUSE_S = 1.0, 5.0
"""The CPU's share of less than a second is hardly one: systems count in hundredths."""


class MachineLoad:
    """Measures this machine, with all that runs on it, once in a while, however often it is asked."""

    def __init__(self) -> None:
        """Begin to watch the CPU."""
        psutil.cpu_percent()  # which gives the share since the call before
        self._next_time = time.monotonic() + FIRST_S

    def measure(self) -> dict[str, float] | None:
        """Return the load under MLflow's names: CPU in percent, mean since the time before; memory in percent and MB.

        None in the first second, and within five seconds of the time before.
        """
        if (now := time.monotonic()) < self._next_time:
            return None
        self._next_time = now + PAUSE_S
        memory = psutil.virtual_memory()
        return {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
        }
