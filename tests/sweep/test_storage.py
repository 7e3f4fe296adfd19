"""Where studies are kept: what works, and what is told in one line if it does not."""

import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from types import SimpleNamespace

import optuna
import pytest
from sqlalchemy.pool import NullPool

from cnn_sweeps.errors import StudyError
from cnn_sweeps.sweep.study import storage as storage_module
from cnn_sweeps.sweep.study.address import parse_address
from cnn_sweeps.sweep.study.storage import (
    controllers_lock,
    open_patient_storage,
    open_storage,
    open_to_read,
)


@pytest.fixture
def storage(request, tmp_path):
    return request.param.format(folder=tmp_path)


FILES = ["{folder}/new/study.journal", "sqlite:///{folder}/new/study.db"]


@pytest.mark.parametrize("storage", FILES, indirect=True)
def test_file_and_its_folder_are_made_and_keep_a_study_for_another_process(storage):
    optuna.create_study(study_name="study", storage=open_storage(parse_address(storage))).enqueue_trial({"x": 0.5})
    code = (
        "import sys, optuna; from cnn_sweeps.sweep.study.storage import open_storage\n"
        "from cnn_sweeps.sweep.study.address import parse_address\n"
        "study = optuna.load_study(study_name='study', storage=open_storage(parse_address(sys.argv[1])))\n"
        "study.tell(study.ask(), 2.5)"
    )
    subprocess.run([sys.executable, "-c", code, storage], check=True)
    assert optuna.load_study(study_name="study", storage=open_storage(parse_address(storage))).best_value == 2.5


def test_relative_path_is_a_journal_in_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    optuna.create_study(study_name="here", storage=open_storage(parse_address("studies/a.journal")))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    names = optuna.get_all_study_names(open_storage(parse_address("../studies/a.journal")))
    assert (names, (tmp_path / "studies" / "a.journal").is_file()) == (["here"], True)


@pytest.mark.parametrize("storage", ["{folder}/study.journal", "sqlite:///{folder}/study.db"], indirect=True)
def test_next_trial_of_a_process_finds_what_was_read_of_the_study(storage):
    """Else a pruner, which looks at all trials, would read all of them anew in each trial."""
    study = optuna.create_study(study_name="study", storage=open_patient_storage(parse_address(storage)))
    study.tell(study.ask(), 0.5)
    (before,) = optuna.load_study(study_name="study", storage=open_patient_storage(parse_address(storage))).get_trials(
        deepcopy=False
    )
    (after,) = optuna.load_study(study_name="study", storage=open_patient_storage(parse_address(storage))).get_trials(
        deepcopy=False
    )
    assert before is after


@pytest.mark.parametrize("storage", FILES, indirect=True)
def test_forked_process_which_has_another_number_opens_its_storage_anew(storage, monkeypatch):
    """Two on one connection would read each other's answers."""
    of_parent = open_storage(parse_address(storage))
    assert open_storage(parse_address(storage)) is of_parent
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert open_storage(parse_address(storage)) is not of_parent


def test_storage_of_optuna_is_built_by_its_target():
    target = "optuna.storages.InMemoryStorage"
    assert isinstance(open_storage(parse_address({"_target_": target})), optuna.storages.InMemoryStorage)
    assert parse_address({"_target_": target}).shown == target


def _cannot_be_used(storage):
    with pytest.raises(StudyError) as error:
        open_storage(parse_address(storage))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("hydra.sweeper.storage=")
    assert "cannot be used" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@127.0.0.1:1/studies",
        "mysql+pymysql://me:secret@127.0.0.1:1/studies",
        "postgresql://me:secret@127.0.0.1:port/studies",
        "postgresql://me:secret@[127.0.0.1/studies",
        "grpc://127.0.0.1",
        "grpc://127.0.0.1:port",
        "no_such_database://me:secret@127.0.0.1/studies",
    ],
)
def test_server_that_cannot_be_reached_is_named_without_its_password(url):
    message = _cannot_be_used(url)
    assert "127.0.0.1" in message
    assert "secret" not in message


@pytest.mark.parametrize("open_address", [open_storage, open_to_read])
@pytest.mark.parametrize("kind", ["redis", "rediss", "no_such_database"])
def test_address_of_an_unknown_kind_is_refused_with_what_is_allowed(kind, open_address):
    with pytest.raises(StudyError) as error:
        open_address(parse_address(f"{kind}://:secret@127.0.0.1:1/0"))
    assert str(error.value).startswith(f"hydra.sweeper.storage={kind}://:***@127.0.0.1:1/0: cannot be used (")
    assert "; allowed: a journal file, sqlite:///FILE, postgresql+psycopg://" in str(error.value)


@pytest.mark.parametrize(
    "storage",
    [
        {"_target_": "optuna.storages.NoSuchStorage"},
        {"_target_": "optuna.storages.RDBStorage", "url": "sqlite:////proc/no/such.db"},
        {"_target_": "optuna.samplers.RandomSampler"},
        {},
    ],
)
def test_target_that_is_no_storage_is_refused(storage):
    _cannot_be_used(storage)


@pytest.mark.parametrize("storage", ["{folder}", "sqlite:///{folder}"], indirect=True)
def test_folder_where_a_file_is_needed_is_refused_by_its_name(storage, tmp_path):
    assert str(tmp_path) in _cannot_be_used(storage)


@pytest.mark.parametrize("storage", ["{folder}/file/study.journal", "sqlite:///{folder}/file/study.db"], indirect=True)
def test_file_where_a_folder_is_needed_is_refused_by_its_name(storage, tmp_path):
    (tmp_path / "file").touch()
    assert str(tmp_path) in _cannot_be_used(storage)


@pytest.mark.parametrize("storage", ["{folder}/study.journal", "sqlite:///{folder}/study.journal"], indirect=True)
@pytest.mark.parametrize("content", ["x: 1\ny: 2\n", '{"x": 1}\n', "[1, 2]\n3\n"])
def test_file_of_another_kind_is_refused_and_left_as_it_is(storage, content, tmp_path):
    (tmp_path / "study.journal").write_text(content)
    assert "study.journal" in _cannot_be_used(storage)
    assert (tmp_path / "study.journal").read_text() == content


def test_journal_whose_writers_are_killed_stays_whole_and_open_to_others(tmp_path):
    code = (
        "import sys; from cnn_sweeps.sweep.study.storage import open_storage\n"
        "from cnn_sweeps.sweep.study.address import parse_address\n"
        "storage = open_storage(parse_address(sys.argv[1]))\n"
        "study = storage.get_study_id_from_name('study')\n"
        "print('writing', flush=True)\n"
        "for i in range(10**9): storage.set_study_user_attr(study, sys.argv[2], i)"
    )
    path = str(tmp_path / "study.journal")
    study = optuna.create_study(study_name="study", storage=open_storage(parse_address(path)))
    pause = random.Random(0)
    for round_ in range(3):
        writers = [
            subprocess.Popen([sys.executable, "-c", code, path, name], stdout=subprocess.PIPE) for name in ("a", "b")
        ]
        for writer in writers:
            writer.stdout.readline()
        time.sleep(pause.uniform(0, 0.05))
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
            writer.communicate()
        study.set_user_attr("mine", round_)
    assert study.user_attrs.keys() == {"a", "b", "mine"}
    assert study.user_attrs["mine"] == 2


def test_journal_whose_last_line_a_power_cut_has_cut_goes_on(tmp_path):
    path = tmp_path / "study.journal"
    study = optuna.create_study(study_name="study", storage=open_storage(parse_address(str(path))))
    study.tell(study.ask(), 1.0)
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines()[-1][:20])
    code = (
        "import sys, optuna; from cnn_sweeps.sweep.study.storage import open_storage\n"
        "from cnn_sweeps.sweep.study.address import parse_address\n"
        "study = optuna.load_study(study_name='study', storage=open_storage(parse_address(sys.argv[1])))\n"
        "study.tell(study.ask(), float(len(study.trials)))"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    open_storage(parse_address(str(tmp_path / "another.journal")))  # so that this process reads the file anew
    study = optuna.load_study(study_name="study", storage=open_storage(parse_address(str(path))))
    assert [trial.value for trial in study.trials] == [1.0, 2.0, 3.0]


def test_write_that_a_full_disk_cuts_short_spoils_no_later_one(tmp_path):
    """A limit on the size of files is to a process what a full disk is: a part of what it writes fits."""
    path = tmp_path / "study.journal"
    study = optuna.create_study(study_name="study", storage=open_storage(parse_address(str(path))))
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, most))
    try:
        with pytest.raises(OSError, match="File too large"):
            study.set_user_attr("lost", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert not path.read_bytes().endswith(b"\n")
    study.set_user_attr("kept", 1)
    open_storage(parse_address(str(tmp_path / "another.journal")))  # so that this process reads the file anew
    assert optuna.load_study(study_name="study", storage=open_storage(parse_address(str(path)))).user_attrs == {
        "kept": 1
    }


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("studies/a.journal", "studies/a.journal"),
        ("postgresql://me:secret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("sqlite:///a.db", "sqlite:///a.db"),
    ],
)
def test_description_hides_the_password(url, shown):
    assert parse_address(url).shown == shown


@pytest.mark.parametrize("storage", FILES[1:], indirect=True)
def test_one_controller_at_a_time_decides_and_a_killed_one_blocks_nobody(storage):
    code = (
        "import sys, time; from cnn_sweeps.sweep.study.storage import controllers_lock\n"
        "from cnn_sweeps.sweep.study.address import parse_address\n"
        "with controllers_lock(parse_address(sys.argv[1], 'study')):\n"
        "    print('locked', flush=True)\n"
        "    time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, storage], stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        waiter = subprocess.Popen([sys.executable, "-c", code, storage], stdout=subprocess.PIPE)
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                waiter.wait(1.0)
            os.set_blocking(waiter.stdout.fileno(), False)
            assert not waiter.stdout.read()
            os.set_blocking(waiter.stdout.fileno(), True)
            holder.kill()
            assert waiter.stdout.readline() == b"locked\n"
        finally:
            waiter.kill()
            waiter.communicate()
    with controllers_lock(parse_address(storage, "study")):
        pass


@pytest.mark.parametrize("storage", ["mysql+pymysql://host/db", {"_target_": "optuna.storages.InMemoryStorage"}])
def test_servers_but_postgresql_have_no_lock(storage):
    assert parse_address(storage).lock_file("controllers") is None
    assert not parse_address(storage).has_lock
    with controllers_lock(parse_address(storage, "study")):
        pass


def test_lock_of_a_database_is_one_connection_whose_end_the_server_notices_within_a_minute(monkeypatch):
    """Also where the host is gone and says nothing."""
    asked, options = [], []

    @contextmanager
    def connected():
        yield None
        asked.append("closed")

    def connect():
        connection = connected()
        connection.execute = connection.scalar = lambda statement, *_: asked.append(str(statement))
        return connection

    def create_engine(_address, **given):
        options.append(given)
        return SimpleNamespace(connect=connect)

    monkeypatch.setattr(storage_module, "create_engine", create_engine)
    with controllers_lock(parse_address("postgresql+psycopg://me@host/studies", "study")):
        pass
    settings, lock, closed = asked
    seconds = {name: int(value) for name, value in re.findall(r"'tcp_keepalives_(\w+)', '(\d+)'", settings)}
    assert seconds["idle"] + seconds["interval"] * seconds["count"] <= 60
    assert "pg_advisory_lock" in lock
    assert closed == "closed"
    assert (options[0]["poolclass"], options[0]["isolation_level"]) == (NullPool, "AUTOCOMMIT")
