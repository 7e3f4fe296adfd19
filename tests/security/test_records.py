"""What a folder, a study or a store says is data: it leads to no other file or server; nonsense costs itself alone."""

import json
import os
import shutil
import subprocess
import threading
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import mlflow
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from cnn_sweeps.deliver import deliver
from cnn_sweeps.doctor.__main__ import doctor
from cnn_sweeps.errors import StudyError, TrackingError, UserError
from cnn_sweeps.experiment import reproduction
from cnn_sweeps.experiment.notes import record_of, run_id_of, senseless_notes, subfolder_of, values_of
from cnn_sweeps.selection.agreement import changes, made
from cnn_sweeps.selection.outcome import Sweep
from cnn_sweeps.sweep.study.address import check_study_exists, parse_address
from cnn_sweeps.sweep.study.ledger import TrialLedger, last_attempt
from cnn_sweeps.sweep.study.shared import SharedStudy
from cnn_sweeps.sweep.study.storage import open_storage
from cnn_sweeps.system.files import replace_whole
from cnn_sweeps.system.libraries import count_threads
from cnn_sweeps.system.locks import file_lock
from cnn_sweeps.system.owners import owner_state, owner_tags
from cnn_sweeps.tracking import projection
from cnn_sweeps.tracking.models import _objective_value
from cnn_sweeps.tracking.projection import project
from cnn_sweeps.tracking.reading import read_recorded_run
from cnn_sweeps.tracking.record.entry import RECORD_FILE
from cnn_sweeps.tracking.record.record import Record
from cnn_sweeps.tracking.store import check_place_of_files
from cnn_sweeps.tracking.views import view_tags

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SECRET = "a private key"


@pytest.fixture
def uri(store, monkeypatch):
    """The user's store."""
    uri = f"sqlite:///{store}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    return uri


@pytest.fixture
def home(tmp_path):
    """A folder with a file of the user's that no record may reach."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home/id_rsa").write_text(SECRET)
    return tmp_path / "home"


def begun(folder, uri, experiment="records"):
    """A record that nobody has brought anywhere."""
    record = Record(folder)
    record.begin(experiment, folder.name, uri, {"a": "b"})
    return record


@pytest.fixture
def waiting(client, uri, tmp_path):
    """The folder of a record with one file that waits, `files/report.txt`."""
    folder = tmp_path / "outputs/run"
    record = begun(folder, uri)
    (folder / "files").mkdir()
    (folder / "files/report.txt").write_text("all went well")
    record.log_files([folder / "files/report.txt"])
    return folder


def run_in(client, folder):
    """The run that MLflow has of a record; None if it has none."""
    runs = mlflow.search_runs(
        search_all_experiments=True,
        filter_string=f"tags.`record.id` = '{json.loads(read(folder)[0])['record']}'",
        output_format="list",
    )
    return client.get_run(runs[0].info.run_id) if runs else None


def read(folder):
    return (folder / RECORD_FILE).read_text().splitlines()


def artifacts(client, folder):
    run = run_in(client, folder)
    return set() if run is None else {file.path for file in client.list_artifacts(run.info.run_id)}


def refusal(*words):
    """Give what the command says where it cannot deliver: one line."""
    with pytest.raises(TrackingError) as refused:
        deliver(words)
    assert len(str(refused.value).splitlines()) == 1
    return str(refused.value)


def change_entry(folder, **changes):
    first, about = read(folder)
    (folder / RECORD_FILE).write_text(f"{first}\n{json.dumps(json.loads(about) | changes)}\n")


# A record names files in its own folder alone.


def test_record_that_nobody_has_changed_is_delivered(waiting, client):
    deliver([str(waiting.parent)])
    assert artifacts(client, waiting) == {"report.txt"}
    assert run_in(client, waiting).data.tags["a"] == "b"


@pytest.mark.parametrize(
    "named",
    [
        *("{home}/id_rsa", "../../../home/id_rsa", "..", ".", "", "files/../../home/id_rsa", 7, "files//report.txt"),
        *("files\\report.txt", "files/\0"),
    ],
)
def test_file_that_an_entry_names_elsewhere_is_not_sent(named, waiting, home, client):
    change_entry(waiting, files=[named.format(home=home) if isinstance(named, str) else named])
    assert "cannot be delivered" in refusal(str(waiting.parent))
    assert artifacts(client, waiting) == set()


def link_file(folder, home):
    (folder / "files/report.txt").unlink()
    (folder / "files/report.txt").symlink_to(home / "id_rsa")


def link_file_hard(folder, home):
    (folder / "files/report.txt").unlink()
    (folder / "files/report.txt").hardlink_to(home / "id_rsa")


def link_folder(folder, home):
    shutil.rmtree(folder / "files")
    (folder / "files").symlink_to(home)
    change_entry(folder, files=["files/id_rsa"])


def link_a_folder_in_it(folder, home):
    (folder / "files/more").symlink_to(home)
    change_entry(folder, files=["files"])


def link_a_file_in_it(folder, home):
    (folder / "files/more").mkdir()
    (folder / "files/more/key").symlink_to(home / "id_rsa")
    change_entry(folder, files=["files"])


def link_record(folder, home):
    shutil.move(folder / RECORD_FILE, home / RECORD_FILE)
    (folder / RECORD_FILE).symlink_to(home / RECORD_FILE)


def put_a_pipe(folder, home):
    """Which would be waited for."""
    (folder / "files/report.txt").unlink()
    os.mkfifo(folder / "files/report.txt")


def link_lock(folder, home):
    (folder / "record.lock").unlink(missing_ok=True)
    (folder / "record.lock").symlink_to(home / "made")


@pytest.mark.parametrize(
    "change",
    [
        *(link_file, link_file_hard, link_folder, link_a_folder_in_it, link_a_file_in_it),
        *(link_record, put_a_pipe, link_lock),
    ],
)
def test_link_in_a_record_is_not_followed(change, waiting, home, client):
    change(waiting, home)
    assert "is a link, or no file" in refusal(str(waiting.parent))
    assert artifacts(client, waiting) == set()
    assert (home / "id_rsa").read_text() == SECRET
    assert not (home / "made").exists()


def test_folder_that_is_replaced_by_a_link_after_it_was_looked_at_is_not_followed(waiting, home, client, monkeypatch):
    """As somebody does who waits for the moment."""
    copy = projection.copy_plain_files

    def copy_after(*arguments):
        link_file(waiting, home)
        return copy(*arguments)

    monkeypatch.setattr(projection, "copy_plain_files", copy_after)
    assert "cannot be delivered" in refusal(str(waiting.parent))
    assert artifacts(client, waiting) == set()


@pytest.mark.parametrize("level", ["run", "above"])
def test_record_behind_a_link_is_not_looked_at(level, waiting, client, tmp_path, capsys):
    """It may be one of somebody else's."""
    (tmp_path / "named").mkdir()
    (tmp_path / "named" / level).symlink_to({"run": waiting, "above": waiting.parent}[level])
    deliver([str(tmp_path / "named")])
    assert "nothing waits" in capsys.readouterr().out
    assert run_in(client, waiting) is None


def test_position_that_names_the_run_of_another_record_brings_nothing_there(waiting, client, uri, tmp_path):
    other = begun(tmp_path / "other", uri).folder
    deliver([str(other)])
    position = json.loads((other / "projected.json").read_text()) | {"record": json.loads(read(waiting)[0])["record"]}
    (waiting / "projected.json").write_text(json.dumps(position | {"offset": len(read(waiting)[0]) + 1}))
    assert "names the run of another record" in refusal(str(waiting))
    assert artifacts(client, other) == set()


def test_run_whose_record_is_a_link_writes_nothing_behind_it(waiting, home, uri):
    (home / "made").write_text("")
    (waiting / RECORD_FILE).unlink()
    (waiting / RECORD_FILE).symlink_to(home / "made")
    with pytest.raises(UserError):
        begun(waiting, uri)
    assert (home / "made").read_text() == ""


def test_file_that_is_replaced_as_a_whole_is_not_written_through_a_link(home):
    (home / "about.unfinished").symlink_to(home / "id_rsa")
    replace_whole(home / "about.json", b"{}")
    assert (home / "id_rsa").read_text() == SECRET
    assert (home / "about.json").read_text() == "{}"


def test_lock_is_no_link(home):
    (home / "lock").symlink_to(home / "made")
    with pytest.raises(OSError, match="symbolic links"), file_lock(home / "lock", wait=True):
        pass
    assert not (home / "made").exists()


def test_record_of_another_program_is_left_alone(uri, tmp_path):
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail" / RECORD_FILE).write_text('{"from": "me"}\n')
    assert f"{tmp_path}/mail: cannot be delivered (record.jsonl, at byte 0" in refusal(str(tmp_path / "mail"))
    assert [file.name for file in (tmp_path / "mail").iterdir()] == [RECORD_FILE]


# The user's password goes to no address that a record or a study names.


@pytest.fixture
def stranger(monkeypatch):
    """A server of somebody else's, which keeps what it is asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, dict(self.headers)))
            self.send_error(403)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield SimpleNamespace(uri=f"http://127.0.0.1:{server.server_port}", asked=asked)
    server.shutdown()
    server.server_close()


def address(folder, uri):
    first, *others = read(folder)
    (folder / RECORD_FILE).write_text("\n".join([json.dumps(json.loads(first) | {"uri": uri}), *others, ""]))


@pytest.mark.parametrize("is_set", [True, False])
def test_address_that_a_record_names_is_not_asked_unless_the_user_names_it(
    is_set, waiting, stranger, uri, client, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    if not is_set:
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
    address(waiting, stranger.uri)
    told = refusal("outputs")
    assert told.endswith(
        f"if you trust the first one, run python -m cnn_sweeps.deliver {waiting} tracking.uri={stranger.uri}"
    )
    assert stranger.asked == []
    assert not (tmp_path / "mlflow.db").exists()
    deliver(["outputs", f"tracking.uri={uri}"])  # the user's own, whatever the record says
    assert artifacts(client, waiting) == {"report.txt"}
    assert stranger.asked == []


@pytest.mark.parametrize(
    "named", ["sqlite:///{home}/id_rsa", "sqlite:///{home}/made.db", "file://{home}/made", "{home}/made"]
)
def test_file_that_a_record_names_as_its_store_is_neither_read_nor_written(named, waiting, home, uri):
    address(waiting, named.format(home=home))
    assert "tracking.uri=" in refusal(str(waiting))
    assert [file.name for file in home.iterdir()] == ["id_rsa"]
    assert (home / "id_rsa").read_text() == SECRET


@pytest.mark.parametrize("named", [7, "http://a\nb", "http://a\x1b[2J", "", None])
def test_address_that_makes_no_sense_is_told_in_one_line(named, waiting):
    address(waiting, named)
    assert "cannot be delivered (record.jsonl" in refusal(str(waiting))


def begun_with_a_file(folder, uri, experiment):
    record = begun(folder, uri, experiment)
    (folder / "a.txt").write_text("a")
    record.log_files([folder / "a.txt"])
    return folder


def test_experiment_whose_maker_keeps_its_files_on_another_server_gets_no_password(stranger, client, uri, tmp_path):
    """A colleague on the same tracking server may have made it."""
    place = f"{stranger.uri}/api/2.0/mlflow-artifacts/artifacts"
    experiment = client.create_experiment(f"of {stranger.uri}", artifact_location=place)
    run_id = client.create_run(experiment, tags={"version.cnn-sweeps": "1"}).info.run_id
    with pytest.raises(TrackingError, match="the files are on another server"):
        deliver([str(begun_with_a_file(tmp_path / "run", uri, f"of {stranger.uri}"))])
    with pytest.raises(TrackingError, match="the files are on another server"):
        read_recorded_run(uri, run_id)
    assert stranger.asked == []


@pytest.mark.parametrize(
    ("place", "is_refused"),
    [
        ("http://evil:5000/a", True),
        ("mlflow-artifacts://evil:5000/a", True),
        ("https://server:5000/a", False),
        ("mlflow-artifacts:/a", False),
        ("/data/mlruns", False),
        ("s3://bucket/a", False),
    ],
)
def test_password_goes_with_files_to_the_tracking_server_alone(place, is_refused, stranger, monkeypatch):
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "https://server:5000")
    with pytest.raises(TrackingError) if is_refused else nullcontext():
        check_place_of_files(place)
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    check_place_of_files(place)


# Entries that make no sense.

TAGS = {"kind": "tags", "tags": {"a": "b"}}
SENSELESS = {
    "nothing": b"",
    "no JSON": b"{",
    "no UTF-8": b'{"kind": "\xff"}',
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "no kind": {"tags": {}},
    "unknown kind": TAGS | {"kind": "shell"},
    "nothing in it": {"kind": "tags"},
    "what another kind has": TAGS | {"kind": "metrics"},
    "tags that are none": TAGS | {"tags": {"a": {"b": 1}}},
    "a metric without a value": {"kind": "metrics", "epoch": 1, "time": 1, "metrics": {"a": None}},
    "a time that no database takes": {"kind": "metrics", "epoch": 1, "time": 10**30, "metrics": {"a": 1.0}},
    "an end that is none": {"kind": "end", "status": "DELETED", "time": 1},
    "files that are none": {"kind": "files", "files": None, "to": None},
    "a place above the artifacts": {"kind": "files", "files": ["a"], "to": "../up"},
    "what pip would fetch elsewhere": {
        "kind": "model",
        "metadata": {},
        "num_outputs": 1,
        "requirements": ["evil @ http://127.0.0.1/evil.whl"],
    },
}


def add_entry(folder, content):
    line = content if isinstance(content, bytes) else json.dumps(content).encode()
    with (folder / RECORD_FILE).open("ab") as file:
        file.write(line + b"\n")


@pytest.mark.parametrize("content", SENSELESS.values(), ids=SENSELESS)
def test_entry_that_makes_no_sense_costs_its_record_alone(content, waiting, client, uri, tmp_path, capsys):
    other = begun(tmp_path / "outputs/other", uri).folder
    at = (waiting / RECORD_FILE).stat().st_size
    add_entry(waiting, content)
    told = refusal(str(tmp_path / "outputs"))
    assert told.startswith(
        f"1 of 2 runs could not be delivered: {waiting}: cannot be delivered (record.jsonl, at byte {at}"
    )
    assert f"{other}: 1 entry delivered" in capsys.readouterr().out
    assert run_in(client, other).data.tags["a"] == "b"


def test_what_is_before_an_entry_that_makes_no_sense_is_brought(waiting, client, uri):
    add_entry(waiting, b"{")
    with pytest.raises(TrackingError, match="cannot be delivered"):
        project(waiting, uri)
    assert artifacts(client, waiting) == {"report.txt"}


@pytest.mark.parametrize("place", [RECORD_FILE, "files/report.txt"])
def test_file_of_absurd_size_is_not_read(place, waiting):
    with (waiting / place).open("r+b") as file:
        file.truncate(2**40)
    assert "more than the allowed" in refusal(str(waiting))


def sweep_in(folder, uri, trials=(), **attributes):
    return Sweep(
        "theirs", ["val_log_loss"], attributes, trials, TrialLedger(minimize=True, settings_id=""), folder, uri
    )


def test_sweep_that_goes_on_leaves_a_record_that_makes_no_sense_and_delivers_the_others(waiting, client, uri, tmp_path):
    other = begun(tmp_path / "outputs/sweep", uri).folder
    add_entry(waiting, b"{")
    told = [change.what for change, is_made in made(changes(sweep_in(tmp_path / "outputs", uri))) if not is_made]
    assert run_in(client, other).data.tags["a"] == "b"
    assert ["cannot be delivered" in what for what in told] == [True]


def test_folders_of_any_depth_are_looked_through(waiting, client, tmp_path):
    deep = tmp_path / "outputs" / "/".join(["d"] * 1200)
    subprocess.run(["mkdir", "-p", deep], check=True)  # Python's own goes down by recursion
    try:
        deliver([str(tmp_path / "outputs")])
    finally:
        subprocess.run(["rm", "-r", tmp_path / "outputs/d"], check=True)
    assert artifacts(client, waiting) == {"report.txt"}


# Studies.

OWNER = owner_tags()
STRANGE = [
    None,
    7,
    -1,
    10**30,
    1.5,
    True,
    "",
    "abc",
    "x' OR 'a",
    "../../x",
    "/etc",
    "x" * 5000,
    [],
    [[]],
    {},
    {"a": {"b": 1}},
    "\0",
]


def make_study(_place, *trials, **attributes):
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(_place / "study.journal")))
    study = optuna.create_study(study_name="theirs", storage=storage)
    definition = {"directions": ["minimize"], "space": {}, "settings": {"objective": "val_log_loss"}}
    for key, value in ({"definition": definition} | attributes).items():
        study.set_user_attr(key, value)
    for trial in trials:
        study.add_trial(trial)
    return study


def trial(state="FAIL", **attributes):
    """Made by somebody else."""
    return create_trial(
        state=TrialState[state],
        value=0.5 if state == "COMPLETE" else None,
        params={"model.l2": 0.1},
        distributions={"model.l2": FloatDistribution(0, 1)},
        user_attrs=attributes,
    )


def examine(folder, *words):
    """Give what the doctor says of the study in a folder, and its exit code."""
    try:
        doctor(["theirs", f"hydra.sweeper.storage={folder}/study.journal", f"hydra.sweep.dir={folder}", *words])
    except SystemExit as end:
        return end.code
    return 0


def test_doctor_asks_no_store_that_a_study_names(stranger, uri, tmp_path):
    make_study(tmp_path, **{"tracking.uri": stranger.uri})
    with pytest.raises(TrackingError, match="if you trust that address, give it with tracking"):
        examine(tmp_path)
    assert stranger.asked == []


def test_trials_that_try_each_other_again_in_a_circle_are_no_endless_loop(tmp_path):
    study = make_study(
        tmp_path,
        trial(retried=True, retry_of=2),
        trial(retried=True, retry_of=0),
        trial(retried=True, retry_of=1),
        trial(retried=True, retry_of=3),
    )
    assert [last_attempt(each, study.trials).number for each in study.trials] == [2, 2, 2, 3]
    recovered = SharedStudy(study, parse_address(str(tmp_path / "study.journal"))).recover()
    assert recovered == []
    waiting = [each for each in study.trials if each.state == TrialState.WAITING]
    assert [each.user_attrs["retry_of"] for each in waiting] == [2, 3]


@pytest.mark.parametrize("attribute", ["retry_of", "attempt", "owner", "error", "record", "folder", "set_aside"])
def test_attribute_that_makes_no_sense_costs_its_trial_alone(attribute, uri, tmp_path, capsys):
    trials = [trial(state, **{attribute: value}) for value in STRANGE for state in ("FAIL", "RUNNING", "COMPLETE")]
    study = make_study(tmp_path, *trials, **{attribute: STRANGE, "mlflow.run_id": {"a": []}})
    assert examine(tmp_path) == 2
    said = capsys.readouterr().out
    assert attribute in ("set_aside",) or f"has the attribute {attribute}=" in said
    assert examine(tmp_path, "--fix") == (0 if attribute == "set_aside" else 2)
    states = [each.state.name for each in study.trials[: len(trials)]]
    assert "RUNNING" not in states  # of nobody that is known
    assert states.count("COMPLETE") == len(STRANGE)
    ledger = TrialLedger(minimize=True, settings_id="")
    ledger.read(study.trials)
    assert ledger.best is not None


def test_what_a_trial_notes_of_its_run_is_taken_only_if_it_can_be():
    strange = [trial(**dict.fromkeys(("record", "folder", "objective_of_trainings"), value)) for value in STRANGE]
    assert {record_of(each) for each in strange} <= {None, "abc"}
    assert {run_id_of({"mlflow.run_id": value}) for value in STRANGE} == {None, "abc"}
    folders = [Path(subfolder_of(each)) for each in strange]
    assert not any(folder.is_absolute() or ".." in folder.parts for folder in folders)
    assert [values_of(each) for each in strange if values_of(each)] == []
    assert senseless_notes(trial(folder="/etc")) == ["folder"]


@pytest.mark.parametrize(
    "definition", [*STRANGE[1:], {"directions": [], "space": {}}, {"directions": 1, "space": 2, "settings": 3}]
)
def test_definition_that_makes_no_sense_is_told_in_one_line(definition, uri, tmp_path):
    make_study(tmp_path, definition=definition)
    with pytest.raises(StudyError, match="definition is not valid") as refused:
        examine(tmp_path)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("line", [b'{"op_code":0,\n', b'{"op_code":0,"a":"\xff"}\n', b'{"op_code":0,"study_name":{}\n'])
def test_journal_that_makes_no_sense_is_told_in_one_line(line, tmp_path):
    (tmp_path / "study.journal").write_bytes(line)
    with pytest.raises(StudyError, match="makes no sense") as refused:
        check_study_exists(parse_address(str(tmp_path / "study.journal"), "theirs"))
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    "line",
    [
        b'{"op_code":99,"worker_id":"a"}',
        b'{"op_code":2,"worker_id":"a","study_id":0}',
        b'{"op_code":4,"worker_id":"a","study_id":0,"state":1,"value":null,"params":{"a":1}}',
        b"[]",
        b"[" * 100_000,
    ],
    ids=lambda line: line[:90].decode(),
)
def test_line_of_a_journal_that_makes_no_sense_is_told_in_one_line(line, uri, tmp_path):
    make_study(tmp_path, trial())
    with (tmp_path / "study.journal").open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(StudyError, match="makes no sense") as refused:
        examine(tmp_path)
    assert len(str(refused.value).splitlines()) == 1
    with pytest.raises(StudyError):
        open_storage(parse_address(str(tmp_path / "study.journal")))


def test_trial_of_a_kind_that_optuna_does_not_make_is_told_in_one_line(uri, tmp_path):
    make_study(tmp_path)
    with (tmp_path / "study.journal").open("a") as file:
        file.write('{"op_code":4,"worker_id":"a","study_id":0,"datetime_start":null,"state":1,"user_attrs":[]}\n')
    with pytest.raises(StudyError, match="trial 0 of this study makes no sense"):
        examine(tmp_path)


def test_doctor_tells_of_records_that_cannot_be_delivered_and_looks_at_all_else(waiting, client, uri, tmp_path, capsys):
    refused, other = begun(tmp_path / "outputs/refused", uri), begun(tmp_path / "outputs/other", uri)
    refused.log_metrics({"bad$name": 1.0}, 1)
    add_entry(waiting, b"{")
    for record in (refused, other):
        record.end("FINISHED")
    make_study(tmp_path / "outputs", trial())
    assert examine(tmp_path / "outputs", "--fix") == 2
    said = capsys.readouterr().out
    assert said.count("for you: ") == 2
    assert "cannot be delivered" in said
    assert "bad$name" in said
    assert f"mended: {other.folder}: MLflow lacks 2 entries" in said
    assert run_in(client, other.folder).data.tags["a"] == "b"


# Tags and files of runs.


@pytest.mark.parametrize("pid", ["", "abc", "-1", "0", "1e3", "9" * 30, "9" * 5000, "\0"])
@pytest.mark.parametrize("name", ["owner.pid", "owner.started"])
def test_owner_that_makes_no_sense_is_unknown(name, pid):
    assert owner_state(OWNER) == "alive"
    if (name, pid) not in {
        ("owner.started", "-1"),
        ("owner.started", "0"),
        ("owner.started", "1e3"),
        ("owner.started", "9" * 30),
    }:
        assert owner_state(OWNER | {name: pid}) == "unknown"
    assert owner_state({key: text for key, text in OWNER.items() if key != name}) == "unknown"


@pytest.mark.parametrize("threads", ["abc", "", "-1", "0", "1.5", "9" * 30, "100000"])
def test_number_of_threads_that_makes_no_sense_is_told_and_not_used(threads, caplog):
    before = dict(os.environ)
    reproduction._use_recorded_threads(SimpleNamespace(tags={"cpu.threads": threads}))
    assert dict(os.environ) == before
    assert f"makes no sense; number of threads: {count_threads()}" in caplog.text


@pytest.mark.parametrize(
    "data",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"source": 1, "fingerprint": [], "images": {}}',
        '{"source": "", "fingerprint": "", "images": 7}',
        "[" * 100_000,
    ],
)
def test_file_of_a_run_that_makes_no_sense_is_told_in_one_line(data, client, uri):
    run_id = client.create_run("0", tags={"version.cnn-sweeps": "1"}).info.run_id
    for name, text in {"config.yaml": "{}", "overrides.yaml": "[]", "data.json": data}.items():
        client.log_text(run_id, text, name)
    with pytest.raises(TrackingError, match=r"makes? no sense") as refused:
        read_recorded_run(uri, run_id)
    assert len(str(refused.value).splitlines()) == 1


def test_file_of_a_run_of_absurd_size_is_not_read(client, uri, tmp_path):
    run_id = client.create_run("0", tags={"version.cnn-sweeps": "1"}).info.run_id
    for name in ("config.yaml", "overrides.yaml", "data.json"):
        client.log_text(run_id, "{}", name)
    place = Path(client.get_run(run_id).info.artifact_uri.removeprefix("file://"))
    with (place / "config.yaml").open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(TrackingError, match=r"config.yaml of the run .* has 1,099,511,627,776 bytes"):
        read_recorded_run(uri, run_id)


@pytest.mark.parametrize("number", ["-1", "abc", "", "9" * 30, "0.0"])
def test_run_that_names_no_trial_of_the_study_is_left_as_it_is(number, client, uri, tmp_path):
    parent = project(begun(tmp_path / "sweep", uri).folder, uri)
    tags = {"mlflow.parentRunId": parent, "trial.number": number}
    client.create_run(client.get_run(parent).info.experiment_id, tags=tags)
    trials = make_study(tmp_path, trial(), trial("COMPLETE")).trials
    assert list(changes(sweep_in(tmp_path / "sweep", uri, trials, **{"mlflow.run_id": parent}), trials)) == []


def test_view_that_somebody_has_changed_costs_itself_alone():
    strange = ['{"name"', '{"name": 1}', '{"name": "a", "createdAt": "abc", "state": "{}"}', '{"name": "a"}']
    tags = {f"mlflow.sharedViewState.sweep-{number}": text for number, text in enumerate(strange)}
    assert list(view_tags(tags, "run", "name", {})) == ["mlflow.sharedViewState.sweep-run"]


@pytest.mark.parametrize("tags", [{}, {"objective.value": "abc"}, {"objective.value": ""}])
def test_objective_of_a_champion_that_is_no_number_is_not_known(tags):
    assert _objective_value(tags) is None
