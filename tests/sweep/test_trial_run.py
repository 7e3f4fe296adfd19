"""Which weights a trial's job keeps, decided before it is known what comes after it."""

import optuna
import pytest

from cnn_sweeps.sweep.study.address import parse_address
from cnn_sweeps.sweep.study.job_trial import JobTrial
from cnn_sweeps.sweep.study.ledger import FINAL, final_of
from cnn_sweeps.sweep.study.storage import open_storage

NO_PRUNING = {"_target_": "optuna.pruners.NopPruner"}


@pytest.fixture
def study(tmp_path):
    return optuna.create_study(study_name="study", storage=open_storage(parse_address(str(tmp_path / "study.journal"))))


@pytest.fixture
def job(study, tmp_path):
    """Give the trial of a number as its job sees it."""
    return lambda number: JobTrial(parse_address(str(tmp_path / "study.journal"), "study"), NO_PRUNING, number)


@pytest.mark.parametrize(("value", "num_best", "is_kept"), [(0.4, 1, True), (0.6, 1, False), (0.6, 2, True)])
def test_trial_is_kept_while_fewer_than_asked_for_are_better(study, job, value, num_best, is_kept):
    study.tell(study.ask(), 0.5)
    study.ask()
    assert job(1).would_be_among_best(value, num_best) is is_kept


def test_trial_that_equals_one_that_was_started_later_and_ended_before_is_kept(study, job):
    """The ranking puts the lower number first, as with accuracies, which are often equal."""
    study.ask()
    study.tell(study.ask(), 0.5)
    assert job(0).would_be_among_best(0.5, 1)


def test_what_a_trial_measured_in_the_end_is_kept_in_the_study(study, job):
    study.ask()
    job(0).note_final({"val_accuracy": 1, "val_log_loss": float("nan"), "test_accuracy": 0.25})
    assert final_of(study.trials[0]) == {"val_accuracy": 1.0, "test_accuracy": 0.25}


@pytest.mark.parametrize(
    "noted", [None, 1, "x", [0.5], {"val_accuracy": "0.5", "val_log_loss": None, "ece": True, "loss": 10**400}]
)
def test_final_metrics_that_make_no_sense_are_as_if_not_there(study, noted):
    study.ask().set_user_attr(FINAL, noted)
    assert final_of(study.trials[0]) == {}
