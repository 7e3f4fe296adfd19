"""Studies in PostgreSQL that controllers on several hosts share: no trial too many, and none lost."""

import socket
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState
from test_study import complete, open_study, run_all, run_as_process
from waiting import wait_until

from cnn_sweeps import patience
from cnn_sweeps.errors import StudyError
from cnn_sweeps.sweep import heartbeat
from cnn_sweeps.sweep.heartbeat import HEARTBEAT, Listener
from cnn_sweeps.sweep.kept_study import read_study
from cnn_sweeps.sweep.storage import controllers_lock, open_storage


@pytest.fixture(scope="module")
def address(postgres):
    """Of a database of studies, each of which has the name of its test."""
    return postgres.new_database("studies_of_tests")


@pytest.fixture
def open_shared(address, request, tmp_path):
    return lambda **settings: open_study(tmp_path, storage=address, name=request.node.name, **settings)


@pytest.fixture
def clock(monkeypatch):
    """The time by which signs of life are listened for, which passes only as the test says; signs come quickly."""
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now, sleep=lambda _seconds: time.sleep(0.02))
    monkeypatch.setattr(heartbeat, "time", clock)
    return clock


@contextmanager
def on_another_host():
    """Make this process one of another host while the block runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: "elsewhere")
        yield


def test_processes_that_begin_on_an_empty_database_and_claim_at_once_start_exactly_the_total(postgres, tmp_path):
    address = postgres.new_database("empty")
    code = f"""
        for _ in range(3):
            if os.fork() == 0:
                break
        else:
            codes = [os.wait()[1] for _ in range(3)]
            os._exit(any(codes))
        run_all(open_study(folder, total=25, storage={address!r}))
        os._exit(0)
    """
    assert run_as_process(tmp_path, code) == 0
    study = open_study(tmp_path, total=25, storage=address)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 25
    assert len({trial.user_attrs["owner"]["owner.pid"] for trial in study.trials}) > 1


def test_controllers_of_one_study_exclude_each_other_and_those_of_two_do_not(address, tmp_path):
    with controllers_lock(address, "mine"), controllers_lock(address, "yours"):
        waiting = f"""
            from cnn_sweeps.sweep.storage import controllers_lock
            signal.alarm(1)
            with controllers_lock({address!r}, "mine"):
                os._exit(0)
        """
        assert run_as_process(tmp_path, waiting) == -14
    assert run_as_process(tmp_path, waiting) == 0


def test_trial_of_a_host_that_died_is_taken_over_and_the_total_is_met(open_shared, address, request, tmp_path, clock):
    code = f"""
        import socket
        socket.gethostname = lambda: "elsewhere"
        open_study(folder, total=2, storage={address!r}, name={request.node.name!r}).claim()
        os._exit(9)
    """
    assert run_as_process(tmp_path, code) == 9
    study = open_shared(total=2)
    (lost,) = study.trials
    assert (lost.user_attrs["owner"]["owner.host"], HEARTBEAT in lost.user_attrs) == ("elsewhere", True)
    complete(study, study.claim())
    assert study.claim() is None
    while not (recovered := study.recover()):
        clock.now += 0.9 * heartbeat.EVERY_S
    assert clock.now / heartbeat.EVERY_S == pytest.approx(5.4)  # the first look at more than five beats of silence
    assert [(trial.number, trial.state.name) for trial in recovered] == [(0, "FAIL")]
    assert recovered[0].user_attrs["error"] == "its controller gives no sign of life any more"
    again = study.claim()
    assert (again.user_attrs["retry_of"], again.params) == (0, lost.params)
    complete(study, again)
    assert study.claim() is None
    assert study.ledger.counts == {"COMPLETE": 2, "RETRIED": 1}


def test_trial_of_another_host_that_gives_signs_of_life_is_left_alone(open_shared, clock):
    threads, theirs, mine = set(threading.enumerate()), open_shared(), open_shared()
    with on_another_host():
        trial = theirs.claim()
    signs = set()

    def is_new_sign():
        sign = mine.trials[0].user_attrs[HEARTBEAT]
        return sign not in signs and not signs.add(sign)

    for _ in range(8):
        wait_until(is_new_sign, "a sign of life")
        clock.now += 0.9 * heartbeat.EVERY_S
        assert mine.recover() == []
    complete(theirs, trial)
    begun = {thread for thread in threading.enumerate() if thread.name == "heartbeat"} - threads
    wait_until(lambda: not any(thread.is_alive() for thread in begun), "the end of the signs")
    (last,) = mine.trials
    assert last.state.name == "COMPLETE"


def test_what_comes_of_a_trial_after_it_was_taken_over_does_not_count(open_shared, monkeypatch, request):
    monkeypatch.setattr(heartbeat, "EVERY_S", 1000)
    theirs, mine = open_shared(total=1), open_shared(total=1)
    with on_another_host():
        trial = theirs.claim()
    clock = request.getfixturevalue("clock")  # theirs goes by the other one, and says nothing for so long
    while not mine.recover():
        clock.now += 0.9 * heartbeat.EVERY_S
    again = mine.claim()
    assert complete(theirs, trial).state == TrialState.FAIL
    complete(mine, again, 0.25)
    assert theirs.claim() is mine.claim() is None
    assert theirs.ledger.counts == mine.ledger.counts == {"COMPLETE": 1, "RETRIED": 1}
    assert mine.optuna_study.best_value == 0.25


def test_trial_that_nobody_has_signed_yet_is_not_called_abandoned_where_the_lock_is_on_a_server(
    open_shared, address, request
):
    study = open_shared(total=1)
    study.optuna_study.ask()
    assert read_study(address, request.node.name).abandoned == frozenset()
    study.recover()
    assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]


def test_after_a_break_in_which_nobody_could_be_heard_listening_begins_anew(monkeypatch):
    now = 0.0
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now)
    trials = [SimpleNamespace(number=0, user_attrs={HEARTBEAT: "a"}), SimpleNamespace(number=2, user_attrs={})]
    listener = Listener()
    silent = {}
    for now in (0.0, 25.0, 50.0, 200.0, 225.0, 250.0, 275.0, 300.0, 325.0, 349.0, 351.0):
        silent[now] = [trial.number for trial in listener.silent(trials)]
    assert {time for time, numbers in silent.items() if numbers} == {351.0}
    assert silent[351.0] == [0, 2]


def test_journal_file_does_not_grow_with_signs_of_life(tmp_path):
    study = open_study(tmp_path, total=1)
    study.claim()
    assert HEARTBEAT not in study.trials[0].user_attrs


def test_idle_study_goes_on_after_the_server_was_restarted(open_shared, postgres, monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE_S", 0.1)
    study = open_shared(total=2)
    complete(study, study.claim())
    postgres.kill()
    with pytest.raises(StudyError, match="cannot be used for now"):
        study.claim()
    postgres.start()
    assert len(run_all(study)) == 1


# What is refused.


def refusal(address):
    with pytest.raises(StudyError) as error:
        open_storage(address)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith("hydra.sweeper.storage=")
    assert "pass-word" not in message
    return message


def test_server_that_does_not_answer_is_told():
    message = refusal("postgresql+psycopg://me:pass-word@127.0.0.1:1/studies")
    assert "Connection refused" in message


def test_wrong_password_unknown_database_and_missing_rights_are_told(postgres, address):
    assert 'password authentication failed for user "sweeper"' in refusal(
        postgres.address("studies_of_tests", password="pass-word-no")
    )
    assert 'database "nowhere" does not exist' in refusal(postgres.address("nowhere"))
    postgres.new_database("of_others", user="others")
    message = refusal(postgres.address("of_others"))
    assert "permission denied for schema public; make the user the database's owner, or GRANT" in message


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("mysql+pymysql://me:pass-word@host/db", "its driver is not installed; pip install 'pymysql'"),
        ("postgres://me:pass-word@host/db", "Can't load plugin: sqlalchemy.dialects:postgres"),
        ("postgresql+psycopg://me:pass-word@host:port/db", "invalid literal for int"),
    ],
)
def test_address_that_cannot_be_used_is_told(address, told):
    assert told in refusal(address)
