"""A study's database that is away for a while: the controller waits, a trial trains on, and nothing is told twice."""

import threading
import time
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState

from cnn_sweeps.errors import StudyOutageError
from cnn_sweeps.sweep.jobs.outcome import read_outcome
from cnn_sweeps.sweep.study.address import parse_address
from cnn_sweeps.sweep.study.heartbeat import Heartbeat
from cnn_sweeps.sweep.study.job_trial import JobTrial
from cnn_sweeps.sweep.study.storage import open_patient_storage
from cnn_sweeps.sweep.study.waiting import PatientStorage
from cnn_sweeps.system import patience

NOP_PRUNER = {"_target_": "optuna.pruners.ThresholdPruner", "upper": 10.0}


@pytest.fixture
def address(postgres, request):
    """A database of the test's own."""
    if not postgres.answers():
        postgres.start()
    yield postgres.new_database(f"study_{abs(hash(request.node.name))}")
    if not postgres.answers():
        postgres.start()


@pytest.fixture
def study(address):
    return optuna.create_study(study_name="study", storage=open_patient_storage(parse_address(address)))


def test_controller_waits_for_its_database_and_tells_what_it_had_to_tell(study, postgres, caplog):
    trial = study.ask()
    postgres.kill()
    restart = threading.Timer(1.5, postgres.start)
    restart.start()
    study.tell(trial, 1.0)
    restart.join()
    assert [each.value for each in study.trials] == [1.0]
    assert (
        caplog.text.count("waiting up to 60 s: hydra.sweeper.storage=postgresql+psycopg://sweeper:***@127.0.0.1") == 1
    )


def test_database_that_stays_away_is_told_in_one_line_without_its_password_and_then_at_once(
    study, postgres, monkeypatch
):
    monkeypatch.setattr(patience, "PATIENCE_S", 0.6)
    trial = study.ask()
    postgres.kill()
    started = time.monotonic()
    with pytest.raises(StudyOutageError) as error:
        study.tell(trial, 1.0)
    assert time.monotonic() - started >= 0.5
    assert "\n" not in str(error.value)
    assert "cannot be used for now" in str(error.value)
    assert postgres.password not in str(error.value)
    monkeypatch.setattr(patience, "PATIENCE_S", 60.0)
    monkeypatch.setattr(patience, "time", SimpleNamespace(monotonic=time.monotonic))  # which cannot sleep
    with pytest.raises(StudyOutageError):
        study.tell(trial, 1.0)


def test_trial_trains_on_unpruned_while_the_database_is_away_and_reports_later(
    study, address, postgres, monkeypatch, caplog
):
    monkeypatch.setattr(patience.Backoff, "_SHORTEST_PAUSE_S", 0.1)
    monkeypatch.setattr(patience.Backoff, "_LARGEST_SHARE", 1e9)
    study.ask()
    trial = JobTrial(parse_address(address, "study"), NOP_PRUNER, 0)
    assert not trial.report(1.0, 1)
    postgres.kill()
    assert not trial.report(99.0, 2)
    assert not trial.report(2.0, 3)
    assert trial.would_be_among_best(2.0, 1)
    trial.note_if_possible("values", [2.0])
    assert trial.best_trial() is None
    assert "the trial goes on, without pruning for now" in caplog.text
    postgres.start()
    time.sleep(0.2)
    assert not trial.report(3.0, 4)
    assert study.trials[0].intermediate_values == {1: 1.0, 2: 99.0, 3: 2.0, 4: 3.0}
    assert trial.report(99.0, 5)


def test_trial_that_cannot_reach_its_study_is_lost_rather_than_failed(monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE_S", 0.1)
    with pytest.raises(StudyOutageError) as error:
        JobTrial(parse_address("postgresql+psycopg://me:secret@127.0.0.1:1/studies", "study"), NOP_PRUNER, 0)
    outcome = read_outcome(error.value, 1)
    assert (outcome.is_lost, outcome.failure_id) == (True, "StudyOutageError")


class AnswersLost(optuna.storages.InMemoryStorage):
    """Carries out the first request of each kind, but its answer does not arrive."""

    def __init__(self):
        super().__init__()
        self.lost = set()

    def _lose(self, name, result):
        if name not in self.lost:
            self.lost.add(name)
            raise ConnectionResetError(name)
        return result

    def create_new_trial(self, *arguments, **named):
        return self._lose("create", super().create_new_trial(*arguments, **named))

    def set_trial_state_values(self, *arguments, **named):
        return self._lose("state", super().set_trial_state_values(*arguments, **named))

    def set_trial_intermediate_value(self, *arguments):
        return self._lose("report", super().set_trial_intermediate_value(*arguments))

    def set_trial_user_attr(self, *arguments):
        return self._lose("note", super().set_trial_user_attr(*arguments))

    def set_study_user_attr(self, *arguments):
        return self._lose("sign", super().set_study_user_attr(*arguments))


def test_journal_that_cannot_be_reached_is_waited_for_and_told_and_goes_on_once_it_is_back(tmp_path, monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE_S", 1.0)
    journal = tmp_path / "study.journal"
    study = optuna.create_study(storage=open_patient_storage(parse_address(str(journal))))
    journal.rename(tmp_path / "away")
    with pytest.raises(StudyOutageError, match=r"study\.journal: cannot be used for now"):
        study.set_user_attr("key", 1)
    (tmp_path / "away").rename(journal)
    study.set_user_attr("key", 2)
    assert study.user_attrs == {"key": 2}


def test_first_sign_of_life_that_does_not_arrive_ends_nothing():
    storage = AnswersLost()
    storage.lost.add("create")
    study = optuna.create_study(storage=storage)
    Heartbeat(storage, study._study_id).begin()
    assert storage.lost == {"create", "sign"}


def test_request_whose_answer_was_lost_is_not_carried_out_twice():
    storage = AnswersLost()
    study = optuna.create_study(storage=PatientStorage(storage, "here"))
    study.enqueue_trial({"x": 1})
    assert [trial.system_attrs["fixed_params"] for trial in study.trials] == [{"x": 1}]
    storage.lost = {"state"}
    trial = study.ask()
    assert trial.suggest_int("x", 0, 9) == 1
    assert study.ask().number == 1
    assert len(study.trials) == 2
    assert storage.lost == {"state", "create"}
    storage.lost.remove("state")
    trial.report(0.5, 1)
    trial.set_user_attr("key", 1)
    study.tell(trial, 1.0)
    told = study.trials[0]
    assert (told.state, told.value, told.intermediate_values) == (TrialState.COMPLETE, 1.0, {1: 0.5})
    assert storage.lost == {"create", "state", "report", "note"}
    with pytest.raises(ValueError, match="Cannot tell a COMPLETE trial"):
        study.tell(trial, 2.0)


def test_wrong_request_is_told_as_it_was(tmp_path):
    storage = open_patient_storage(parse_address(f"sqlite:///{tmp_path}/study.db"))
    with pytest.raises(KeyError, match="Record does not exist"):
        optuna.load_study(study_name="no such study", storage=storage)
