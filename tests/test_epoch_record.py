"""How often finished epochs are kept, and that none is lost when the training ends."""

from types import SimpleNamespace

import mlflow
import pytest

from cnn_sweeps.experiment import epoch_record
from cnn_sweeps.experiment.epoch_record import EpochRecord
from cnn_sweeps.settings.schema import TrackingConfig
from cnn_sweeps.tracking.runs import tracked_run


@pytest.fixture
def recorded(store, tmp_path):
    """Give the epochs that the store has, within one run."""
    config = TrackingConfig(uri=None, experiment_name="epochs", run_name=None, registered_model=None, log_model=False)
    with tracked_run(f"sqlite:///{store}/mlflow.db", config, "run", {}, tmp_path / "train.log") as run_id:
        yield lambda: [metric.step for metric in mlflow.MlflowClient().get_metric_history(run_id, "a")]


def add_epochs(record, epochs):
    for epoch in epochs:
        record.add({"a": 0.5 * epoch, "b": 1.0}, epoch)


def test_each_epoch_is_kept_at_once_without_a_limit(recorded):
    saved = []
    with EpochRecord(lambda: saved.append(recorded()), max_share_of_time=None) as record:
        add_epochs(record, (1, 2, 3))
        assert saved == [[1], [1, 2], [1, 2, 3]]
    assert len(saved) == 3


def test_first_epoch_is_kept_at_once_and_short_ones_after_it_together(recorded):
    saved = []
    with EpochRecord(lambda: saved.append(recorded()), max_share_of_time=1e-6) as record:
        add_epochs(record, (1, 2, 3))
        assert saved == [[1]]
    assert recorded() == [1, 2, 3]
    assert len(saved) == 1  # the training is over, so that its checkpoint is of no use


def test_epoch_is_kept_again_once_enough_time_has_passed(recorded, monkeypatch):
    clock, saved_at = SimpleNamespace(now=0.0), []
    monkeypatch.setattr(epoch_record, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def save():
        saved_at.append(clock.now)
        clock.now += 0.05

    with EpochRecord(save, max_share_of_time=0.5) as record:
        add_epochs(record, (1, 2))
        for epoch in (3, 4, 5):
            clock.now += 0.06
            add_epochs(record, (epoch,))
    assert saved_at == pytest.approx([0.0, 0.17])


@pytest.mark.parametrize("end", [KeyboardInterrupt, RuntimeError])
def test_training_that_is_cut_off_leaves_the_metrics_of_all_its_epochs_and_no_state_of_an_unfinished_one(recorded, end):
    saved = []
    with pytest.raises(end), EpochRecord(lambda: saved.append(recorded()), max_share_of_time=1e-6) as record:
        add_epochs(record, (1, 2, 3))
        raise end
    assert recorded() == [1, 2, 3]
    assert saved == [[1]]


def test_thousands_of_metrics_are_kept_at_once(recorded):
    with EpochRecord(lambda: None, max_share_of_time=1e-6) as record:
        add_epochs(record, range(1, 1501))
    assert recorded() == list(range(1, 1501))
