"""Studies in a file or in PostgreSQL that controllers on several hosts share: no trial too many, and none lost."""

import socket
import textwrap
import threading
import time
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState, create_trial
from test_study import complete, open_study, run_all, run_as_process
from waiting import wait_until

from cnn_sweeps.errors import StudyError
from cnn_sweeps.sweep.study import heartbeat
from cnn_sweeps.sweep.study.address import parse_address
from cnn_sweeps.sweep.study.heartbeat import Listener, sign_key
from cnn_sweeps.sweep.study.shared import is_abandoned
from cnn_sweeps.sweep.study.storage import controllers_lock, open_storage, selection_lock
from cnn_sweeps.sweep.study.view import read_study
from cnn_sweeps.system import owners, patience


@pytest.fixture(scope="module")
def address(postgres):
    """Of a database of studies, each of which has the name of its test."""
    return postgres.new_database("studies_of_tests")


@pytest.fixture
def open_shared(address, request, tmp_path):
    return lambda **settings: open_study(tmp_path, storage=address, name=request.node.originalname, **settings)


@pytest.fixture(params=["file", "server"])
def place(request, tmp_path):
    """Where a study is that hosts share: a file on a disk that all have, or a database."""
    return str(tmp_path / "study.journal") if request.param == "file" else request.getfixturevalue("address")


@pytest.fixture
def open_at(place, request, tmp_path):
    return lambda **settings: open_study(tmp_path, storage=place, name=request.node.originalname, **settings)


@contextmanager
def on_another_host():
    """Make this process one that cannot be seen from here, of another host of this name, while the block runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owners, "_boot", lambda: "of another host")
        patch.setattr(owners, "_word", lambda _pid: "another")
        yield


@pytest.fixture
def clock(monkeypatch):
    """The time by which is listened and beaten; a sign of life comes when the test releases one."""
    clock = SimpleNamespace(now=0.0, signs=threading.Semaphore(0))
    of_earlier_tests = threading.enumerate()  # their heartbeats go on by the real time, and take no sign released here

    def sleep(seconds):
        if threading.current_thread() in of_earlier_tests:
            time.sleep(seconds)
        else:
            clock.signs.acquire()

    fake = SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep)
    monkeypatch.setattr(heartbeat, "time", fake)
    yield clock
    clock.signs.release(1000)  # so that no thread is left behind


def sign_of(study, trial):
    """The last sign of life of a trial's controller."""
    return study.optuna_study.user_attrs.get(sign_key(trial.user_attrs["owner"]))


def wait_for_another_sign(study, trial, sign):
    wait_until(lambda: sign_of(study, trial) != sign, "another sign of life")


def test_processes_that_begin_on_an_empty_database_and_claim_at_once_start_exactly_the_total(postgres, tmp_path):
    address = postgres.new_database("empty")
    code = f"""
        for _ in range(3):
            if os.fork() == 0:
                break
        else:
            codes = [os.wait()[1] for _ in range(3)]
            os._exit(any(codes))
        run_all(open_study(folder, total=12, storage={address!r}))
        os._exit(0)
    """
    assert run_as_process(tmp_path, code) == 0
    study = open_study(tmp_path, total=12, storage=address)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 12
    assert len({trial.user_attrs["owner"]["owner.pid"] for trial in study.trials}) > 1


def test_controllers_of_one_study_exclude_each_other_and_those_of_two_do_not(address, tmp_path):
    waiting = f"""
        from cnn_sweeps.sweep.study.address import parse_address
        from cnn_sweeps.sweep.study.storage import controllers_lock
        with controllers_lock(parse_address({address!r}, "mine")):
            os._exit(0)
    """
    with controllers_lock(parse_address(address, "mine")), controllers_lock(parse_address(address, "yours")):
        assert run_as_process(tmp_path, f"signal.alarm(2)\n{textwrap.dedent(waiting)}") == -14
    assert run_as_process(tmp_path, waiting) == 0


def test_of_the_controllers_of_one_study_one_tests_the_best_trials_and_the_others_are_told_at_once(address):
    with controllers_lock(parse_address(address, "mine")), ExitStack() as held:
        locks = [selection_lock(parse_address(address, name)) for name in ("mine", "mine", "yours")]
        assert [held.enter_context(lock) for lock in locks] == [True, False, True]
    with selection_lock(parse_address(address, "mine")) as is_held:
        assert is_held


def leave_a_trial(open_at):
    """Claim a trial as a controller of another host, of the same name, that gives one sign of life and dies."""
    with on_another_host():
        study = open_at(total=2)
        study.claim()


def test_trial_of_a_host_that_died_is_taken_over_and_the_total_is_met(open_at, clock):
    leave_a_trial(open_at)
    study = open_at(total=2)
    (lost,) = study.trials
    assert lost.user_attrs["owner"]["owner.host"] == socket.gethostname()
    assert sign_of(study, lost).endswith(" UTC")
    complete(study, study.claim())
    assert study.claim() is None
    while not (recovered := study.recover()):
        clock.now += 25
        assert clock.now < 1000
    assert 150 < clock.now <= 175
    assert [(trial.number, trial.state.name) for trial in recovered] == [(0, "FAIL")]
    assert recovered[0].user_attrs["error"] == "its controller has stopped giving signs of life"
    again = study.claim()
    assert (again.user_attrs["retry_of"], again.params) == (0, lost.params)
    complete(study, again)
    assert study.claim() is None
    assert study.ledger.counts == {"COMPLETE": 2, "RETRIED": 1}


def test_trial_of_another_host_that_gives_signs_of_life_is_left_alone(open_at, clock):
    mine = open_at()
    before = threading.enumerate()
    with on_another_host():
        theirs = open_at()
        trial = theirs.claim()
    (signs,) = (each for each in threading.enumerate() if each not in before)
    for _ in range(12):  # two of the times after which silence would be taken for death
        sign = sign_of(mine, mine.trials[0])
        clock.signs.release()
        wait_for_another_sign(mine, mine.trials[0], sign)
        clock.now += 25
        assert mine.recover() == []
    complete(theirs, trial)
    del theirs
    last = sign_of(mine, mine.trials[0])
    clock.signs.release()
    signs.join()
    assert sign_of(mine, mine.trials[0]) == last


def test_silence_is_not_judged_where_there_never_were_signs_of_life(open_at, clock):
    """As of a controller of an earlier version, whose trials in files had none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heartbeat.Heartbeat, "beat", lambda _heartbeat: None)
        leave_a_trial(open_at)
    study = open_at(total=1)
    for clock.now in range(0, 1000, 25):
        assert study.recover() == []
    (recovered,) = study.recover(dead_hosts=[socket.gethostname()])
    assert recovered.user_attrs["error"] == "its controller died"


def test_controller_of_a_restarted_container_takes_over_what_its_predecessor_of_the_same_number_left(open_at, clock):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owners, "_pid_namespace", lambda: "the container")
        patch.setattr(owners.os, "getpid", lambda: 1)
        leave_a_trial(open_at)
        patch.setattr(owners, "_boot", lambda: "of another host")
        (recovered,) = open_at(total=1).recover()
    assert recovered.user_attrs["error"] == "its controller died"


def test_what_comes_of_a_trial_after_it_was_taken_over_does_not_count(open_at, clock):
    mine = open_at(total=1)
    with on_another_host():
        theirs = open_at(total=1)
        trial = theirs.claim()
    while not mine.recover():
        clock.now += 25
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
    assert read_study(parse_address(address, request.node.originalname)).abandoned == frozenset()
    study.recover()
    assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]


@pytest.mark.parametrize(
    ("storage", "age_s", "is_left"),
    [("mysql://host/studies", 50, False), ("mysql://host/studies", 70, True), ("study.journal", 0, True)],
)
def test_trial_that_nobody_has_signed_is_left_at_once_if_the_lock_is_held_and_after_a_minute_if_there_is_none(
    storage, age_s, is_left
):
    trial = create_trial(state=TrialState.RUNNING)
    trial.datetime_start = datetime.now() - timedelta(seconds=age_s)  # as Optuna has it
    assert is_abandoned(trial, parse_address(storage)) == is_left


def test_after_a_break_in_which_nobody_could_be_heard_listening_begins_anew(clock):
    trials = [
        SimpleNamespace(number=number, user_attrs={"owner": {"owner.word": word}})
        for number, word in [(0, "a"), (2, "a"), (3, "never heard")]
    ]
    listener, silent = Listener(), {}
    for clock.now in (0.0, 25.0, 50.0, 200.0, 225.0, 250.0, 275.0, 300.0, 325.0, 349.0, 351.0):
        found = listener.silent(trials, {sign_key({"owner.word": "a"}): "a while ago"})
        silent[clock.now] = [trial.number for trial in found]
    assert {time: numbers for time, numbers in silent.items() if numbers} == {351.0: [0, 2]}


def test_signs_of_life_make_a_journal_little_longer_whatever_the_number_of_trials(tmp_path, clock):
    study = open_study(tmp_path, total=3)
    trials = [study.claim() for _ in range(3)]
    journal = tmp_path / "study.journal"
    before, sign = journal.stat().st_size, sign_of(study, trials[0])
    clock.signs.release()
    wait_for_another_sign(study, trials[0], sign)
    assert 0 < journal.stat().st_size - before < 250
    assert not any("sign" in key for trial in study.trials for key in trial.user_attrs)


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
        open_storage(parse_address(address))
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
