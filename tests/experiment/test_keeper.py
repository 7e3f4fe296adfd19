"""How often finished epochs are kept, and that none is lost when the training ends."""

from types import SimpleNamespace

import pytest

from cnn_sweeps.experiment import recording
from cnn_sweeps.experiment.recording import EpochRecorder
from cnn_sweeps.experiment.roles import Role
from cnn_sweeps.experiment.trial import TrialRole
from cnn_sweeps.system import machine_load
from cnn_sweeps.tracking.record.entry import Machine, read_entries, read_record
from cnn_sweeps.tracking.record.record import Record


class Run:
    """A run whose record is brought to a list."""

    def __init__(self, folder):
        self.record, self.brought = Record(folder), []
        self.record.begin("epochs", "run", "sqlite:///mlflow.db", {})

    def epochs(self):
        return list(read_record(self.record.folder).metrics.get("a", []))

    def catch_up(self):
        self.brought.append(self.epochs())


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


@pytest.fixture
def clock(monkeypatch):
    """A clock that only tests, and each save of 0.05 s, advance; `saved_at` has the times at which saves began."""
    clock = SimpleNamespace(now=0.0, saved_at=[])
    monkeypatch.setattr(recording, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def save(_model):
        clock.saved_at.append(clock.now)
        clock.now += 0.05

    clock.save = save
    return clock


def add_epochs(keeper, epochs):
    for epoch in epochs:
        keeper.add({"a": 0.5 * epoch, "b": 1.0}, epoch, None)


def test_each_epoch_is_kept_at_once_without_a_limit(run):
    saved = []
    add_epochs(EpochRecorder(run, lambda _model: saved.append(run.epochs()), max_share_of_time=None), (1, 2, 3))
    assert saved == run.brought == [[1], [1, 2], [1, 2, 3]]


def test_first_epoch_is_kept_at_once_and_short_ones_after_it_are_in_the_record(run):
    saved = []
    add_epochs(EpochRecorder(run, lambda _model: saved.append(run.epochs()), max_share_of_time=1e-6), (1, 2, 3))
    assert saved == run.brought == [[1]]
    assert run.epochs() == [1, 2, 3]


def test_epoch_is_kept_again_once_enough_time_has_passed(run, clock):
    keeper = EpochRecorder(run, clock.save, max_share_of_time=0.5)
    add_epochs(keeper, (1, 2))
    for epoch in (3, 4, 5):
        clock.now += 0.06
        add_epochs(keeper, (epoch,))
    assert clock.saved_at == pytest.approx([0.0, 0.17])


def test_trial_spends_two_percent_of_its_time_on_keeping_and_a_run_on_its_own_keeps_each_epoch(run, clock):
    keeper = EpochRecorder(run, clock.save, TrialRole.max_share_of_time)
    for epoch in range(1, 201):
        clock.now += 0.1
        add_epochs(keeper, (epoch,))
    assert 0.05 * len(clock.saved_at) / clock.now == pytest.approx(0.02, abs=0.003)
    assert Role.max_share_of_time is None


def test_thousands_of_epochs_are_kept_quickly(run):
    add_epochs(EpochRecorder(run, lambda _model: None, max_share_of_time=1e-6), range(1, 1501))
    assert run.epochs() == list(range(1, 1501))


def test_machines_load_is_recorded_every_few_seconds_and_is_none_of_the_metrics(run, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(machine_load, "time", SimpleNamespace(monotonic=lambda: clock.now))
    keeper = EpochRecorder(run, lambda _model: None, max_share_of_time=1e-6)
    for epoch in range(1, 25):
        clock.now += 0.5
        add_epochs(keeper, (epoch,))
    loads = [entry for entry, _ in read_entries(run.record.folder) if isinstance(entry, Machine)]
    assert [entry.epoch for entry in loads] == [2, 12, 22]
    assert read_record(run.record.folder).newest == {"a": 12.0, "b": 1.0}
