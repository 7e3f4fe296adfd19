"""How busy the machine is, asked of it now and then."""

from types import SimpleNamespace

import psutil
import pytest

from cnn_sweeps.system import machine_load
from cnn_sweeps.system.machine_load import MachineLoad


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(machine_load, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_load_is_measured_after_a_second_and_then_every_five_however_often_it_is_asked_for(clock):
    load, measured_at = MachineLoad(), []
    for _ in range(110):
        clock.now += 0.125
        if load.measure() is not None:
            measured_at.append(clock.now - 100)
    assert measured_at == [1, 6, 11]


def test_cpu_is_that_since_the_time_before_and_memory_that_of_the_whole_machine(clock, monkeypatch):
    shares = iter([0.0, 42.0, 43.0])  # the first one is of no time at all
    monkeypatch.setattr(psutil, "cpu_percent", lambda: next(shares))
    load, found = MachineLoad(), []
    for _ in range(2):
        clock.now += 6
        found.append(load.measure())
    assert [each["cpu_utilization_percentage"] for each in found] == [42, 43]
    megabytes, percent = (found[0][f"system_memory_usage_{unit}"] for unit in ("megabytes", "percentage"))
    assert 0 < percent < 100
    assert megabytes / percent * 100 == pytest.approx(psutil.virtual_memory().total / 1e6)
