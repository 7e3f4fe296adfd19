"""`python -m cnn_sweeps.doctor`: which disagreements of a sweep's records it finds, what it mends, what it leaves."""

import json
import re
import shutil
import sqlite3
from datetime import datetime
from pathlib import Path

import mlflow
import optuna
import pytest
from commands import SLOW, refusal, started_command
from conftest import TINY
from optuna.trial import FrozenTrial, TrialState
from records import change_owner
from tiny_sweeps import IN_THIS_PROCESS, command_in

from cnn_sweeps.doctor.__main__ import doctor
from cnn_sweeps.doctor.mend import Place, find_disagreements
from cnn_sweeps.errors import StudyError
from cnn_sweeps.selection.agreement import made
from cnn_sweeps.selection.outcome import Sweep
from cnn_sweeps.sweep.study.address import parse_address, sweep_folder
from cnn_sweeps.sweep.study.definition import settings_id_of
from cnn_sweeps.sweep.study.storage import open_storage
from cnn_sweeps.sweep.study.view import StudySnapshot
from cnn_sweeps.system.owners import owner_tags
from cnn_sweeps.tracking.projection import project
from cnn_sweeps.tracking.record.entry import RECORD_FILE, read_record
from cnn_sweeps.tracking.record.position import num_waiting
from cnn_sweeps.tracking.record.record import Record, find_records
from cnn_sweeps.training.checkpoint import Checkpoint, RunLeft

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

# The comparison, on records made by hand.

SETTINGS = {"objective": "val_log_loss"}
OWNER = {"owner.host": "here", "owner.pid": "7", "settings": settings_id_of(SETTINGS)}
DEAD = owner_tags() | {"owner.started": "1000.0"}


def trial(number, state, value=None, **user_attrs):
    """A trial of one parameter that notes its record and its folder, and was begun an hour ago."""
    noted = {"record": f"{number}" * 32, "folder": str(number)} if state != "WAITING" else {}
    return FrozenTrial(
        number=number,
        trial_id=number,
        state=TrialState[state],
        value=value,
        datetime_start=None if state == "WAITING" else datetime.fromtimestamp(datetime.now().timestamp() - 3600),
        datetime_complete=datetime.now() if TrialState[state].is_finished() else None,
        params={"model.l2": 0.001},
        distributions={"model.l2": optuna.distributions.FloatDistribution(0, 1)},
        user_attrs={"owner": OWNER} | noted | user_attrs,
        system_attrs={},
        intermediate_values={},
    )


TRIALS = [
    trial(0, "COMPLETE", 0.1),
    trial(1, "PRUNED"),
    trial(2, "FAIL", retried=True, error="its controller died"),
    trial(3, "COMPLETE", 0.4, retry_of=2, attempt=0),
    trial(4, "FAIL", error="ValueError: no"),
]
ENDS = {0: "FINISHED", 1: "FINISHED", 2: "KILLED", 3: "FINISHED", 4: "FAILED"}


@pytest.fixture
def found(tmp_path, uri, monkeypatch):
    """Give what is found in records of trials, all of which MLflow has; `make` has it mended as it is found."""

    def find(*more, owners=None, abandoned=(), change=lambda _folder: None, make=False, **user_attrs):
        folder = tmp_path / "sweep"
        folder.mkdir()
        (folder / "study.journal").touch()
        for each in TRIALS:
            record = begun(folder / str(each.number), uri, {"trial.number": str(each.number)})
            record.log_tags({"trial.state": each.state.name})
            record.end(ENDS[each.number])
        change(folder)
        for number in ENDS:
            project(folder / str(number), uri)
        attrs = {"definition": {"settings": SETTINGS}, "mlflow.run_id": "0" * 32} | user_attrs
        study = StudySnapshot("s", attrs, ["minimize"], [*TRIALS, *more], owners or {}, frozenset(abandoned))
        address = parse_address(str(folder / "study.journal"), "s")
        place = Place(address, folder, uri, checkpoint_dir=tmp_path / "checkpoints")
        sweep = Sweep("s", study.objectives, attrs, study.trials, study.ledger, folder, uri)
        monkeypatch.setattr(Place, "read", lambda _: (study, sweep))
        disagreements = find_disagreements(place)
        return [each for each, is_made in made(disagreements) if is_made] if make else list(disagreements)

    return find


def begun(folder, uri, tags, owner=None):
    record = Record(folder)
    record.begin("doctor", folder.name, uri, tags)
    change_owner(folder, owner or {})
    return record


def only(findings):
    (finding,) = findings
    return finding


def test_records_that_agree_have_no_findings(found):
    assert found() == []


def test_sweep_that_runs_has_no_findings(found, uri):
    def begin(folder):
        begun(folder / "5", uri, {"trial.number": "5"})
        project(folder / "5", uri)

    assert found(trial(5, "RUNNING"), trial(6, "WAITING"), owners={5: "alive"}, change=begin) == []


def test_record_that_ended_otherwise_than_its_trial_gets_the_trials_end(found, tmp_path):
    def close(folder):
        Record(folder / "0").close("KILLED", {})
        Record(folder / "2").close("FINISHED", {"trial.state": "COMPLETE"})

    folder = tmp_path / "sweep"
    first, second = found(change=close)
    assert first.what == f"trial 0 is COMPLETE in the study, and the record in {folder}/0 says otherwise"
    assert second.what == f"trial 2 is FAIL in the study, and the record in {folder}/2 says otherwise"
    for finding in (first, second):
        finding.make()
    ends = [read_record(folder / number) for number in "02"]
    assert [(each.status, each.tags["trial.state"]) for each in ends] == [("FINISHED", "COMPLETE"), ("KILLED", "FAIL")]
    assert ends[1].tags["error"] == "its controller died"


def test_record_of_a_part_or_a_retraining_that_a_dead_process_left_open_is_closed(found, uri, tmp_path):
    folder = tmp_path / "sweep/0/seed_1"
    finding = only(found(change=lambda _: begun(folder, uri, {}, DEAD)))
    assert finding.what.startswith(f"{folder}: the run has no end")
    finding.make()
    assert read_record(folder).status == "KILLED"
    assert "the process that made it is dead" in finding.what


def test_open_record_of_another_host_is_told_and_left(found, uri):
    there = owner_tags() | {"owner.host": "there", "owner.boot": "another"}

    def begin(folder):
        begun(folder / "0/retrained", uri, {}, there)
        project(folder / "0/retrained", uri)

    finding = only(found(change=begin))
    assert finding.make is None
    assert "its process on there cannot be seen from here" in finding.what
    assert "dead_host=there" in finding.remedy


def test_record_that_mlflow_does_not_have_is_brought(found, uri, tmp_path):
    def wait(folder):
        record = begun(folder / "0/retrained", uri, {})
        record.log_metrics({"a": 1.0}, 1)
        record.end("FINISHED")

    finding = only(found(change=wait))
    folder = tmp_path / "sweep/0/retrained"
    assert finding.what == f"{folder}: MLflow lacks 3 entries of the run's record"
    finding.make()
    assert num_waiting(folder, uri) == 0


def test_record_that_is_closed_is_brought_at_once(found, uri, tmp_path):
    folder = tmp_path / "sweep/0/seed_1"
    closed, brought = found(change=lambda _: begun(folder, uri, {}, DEAD), make=True)
    assert closed.what.startswith(f"{folder}: the run has no end")
    assert brought.what == f"{folder}: MLflow lacks 2 entries of the run's record"
    assert num_waiting(folder, uri) == 0


def test_running_trial_of_a_dead_controller_is_to_be_recovered(found):
    finding = only(found(trial(5, "RUNNING"), owners={5: "dead"}, abandoned=[5]))
    assert finding.remedy == "the trial fails and is queued again, and its run is closed"
    assert finding.what == "trial 5 is RUNNING in the study, but its controller, process 7 on here, is dead"


def test_running_trial_of_another_host_is_told_with_its_age_and_left(found):
    finding = only(found(trial(5, "RUNNING"), owners={5: "elsewhere"}))
    assert finding.make is None
    assert "has been RUNNING for 1 h 00 min, and its controller, process 7 on here" in finding.what
    assert "dead_host=here" in finding.remedy


def test_trial_that_nothing_tries_again_is_queued(found):
    assert only(found(set_aside=[4])).remedy == "it is queued again"


def test_journal_with_an_unfinished_line_is_cut(found, tmp_path):
    journal = tmp_path / "sweep/study.journal"
    finding = only(found(change=lambda _: journal.write_bytes(b'{"op_code":8,"wor')))
    finding.make()
    assert journal.read_bytes() == b""


def test_journal_with_blank_or_broken_lines_is_read_once_they_are_out_unless_one_may_have_made_a_trial(copied, capsys):
    study, _ = copied
    journal = Path(f"outputs/sweeps/{NAME}/study.journal")
    whole = journal.read_bytes().splitlines(keepends=True)
    attributes = [number for number, line in enumerate(whole) if line.startswith(b'{"op_code":8,')]
    broken = [
        *whole[:1],
        b"\n",
        *whole[1 : attributes[-1]],
        b'{"op_code":8,"wor\n',
        *whole[attributes[-1] + 1 :],
        b" \n",
    ]
    journal.write_bytes(b"".join(broken))
    with pytest.raises(StudyError, match=rf"line 2 is blank or broken\); `python -m cnn_sweeps.doctor {NAME} --fix`"):
        open_storage(parse_address(str(journal), NAME))
    lines, code = run_doctor(capsys, "--fix")
    assert sum("are blank or broken" in line for line in lines) == 1
    assert code == 0
    assert Path(f"{journal}.before").read_bytes() == b"".join(broken[:-1])
    assert [trial.state for trial in open_study().trials] == [trial.state for trial in study.trials]
    made = next(number for number, line in enumerate(whole) if line.startswith(b'{"op_code":4,'))
    journal.write_bytes(b"".join([*whole[:made], b'{"op_co\n', *whole[made + 1 :]]))
    lines, code = run_doctor(capsys, "--fix")
    assert f"for you: {journal}: its line {made + 1} is broken" in lines[0]
    assert "choose another hydra.sweeper.study_name" in lines[0]
    assert code == 2


def leave(folder, letter, whole):
    path = folder / f"{letter * 24}-{'0' * 8}.npz"
    Checkpoint(path).save_parts({}, RunLeft(whole, "", whole))
    return path


@pytest.mark.parametrize(
    ("whole", "what"),
    [
        ("0" * 32, "belongs to trial 0, which is COMPLETE"),
        ("2" * 32, "belongs to trial 2, tried again as trial 3, which is COMPLETE"),
        ("1" * 32, "belongs to trial 1, which is PRUNED"),
        ("4" * 32, None),
        ("of another sweep", None),
    ],
)
def test_checkpoint_is_removed_if_nobody_resumes_it(whole, what, found, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    path = leave(tmp_path / "checkpoints", "a", whole)
    findings = found(trial(5, "WAITING", retry_of=4))
    assert [finding.what for finding in findings] == ([f"{path} {what}: nobody will resume it"] if what else [])


# A real sweep, with disagreements made by hand.

NAME = "examined"
COMMAND = [
    *("--multirun", *TINY, IN_THIS_PROCESS, f"hydra.sweeper.study_name={NAME}", f"tracking.experiment_name={NAME}"),
    *("evaluation.pictures=none", "training.epochs=1"),
]


@pytest.fixture(scope="module")
def swept(tmp_path_factory, store):
    """The folder in which a sweep of three trials was made."""
    folder = tmp_path_factory.mktemp("examined")
    with command_in(folder, store) as run_train_here:
        run_train_here(*COMMAND, "hydra.sweeper.n_trials=3")
    return folder


@pytest.fixture
def copied(swept, store, tmp_path, monkeypatch):
    """A copy of that folder and of the database, in which the test works; gives the study and the address."""
    shutil.copytree(swept, tmp_path, dirs_exist_ok=True)
    shutil.copy(store / "mlflow.db", tmp_path / "copied.db")
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/copied.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    study = open_study()
    study.set_user_attr("tracking.uri", uri)
    for folder in find_records(Path("outputs")):  # which has all of it, and only another address
        project(folder, uri)
    return study, mlflow.MlflowClient()


def open_study():
    journal = optuna.storages.journal.JournalFileBackend(f"outputs/sweeps/{NAME}/study.journal")
    return optuna.load_study(study_name=NAME, storage=optuna.storages.JournalStorage(journal))


def run_doctor(capsys, *arguments):
    """Give what the command says, and its exit code."""
    capsys.readouterr()
    code = 0
    try:
        doctor([NAME, *arguments])
    except SystemExit as end:
        code = end.code
    return capsys.readouterr().out.splitlines(), code


def test_sweep_that_was_left_alone_has_nothing_to_find(copied, capsys):
    journal = Path(f"outputs/sweeps/{NAME}/study.journal").read_bytes()
    assert list(find_disagreements(Place(parse_address(None, NAME), sweep_folder(NAME)))) == []
    assert run_doctor(capsys) == ([f"{NAME}: nothing is wrong"], 0)
    assert run_doctor(capsys, "--fix") == ([f"{NAME}: nothing is wrong"], 0)
    assert Path(f"outputs/sweeps/{NAME}/study.journal").read_bytes() == journal


CHECKPOINTS = Path("outputs/checkpoints")


def reopen(folder):
    """Take the end off a record, as if its process had been killed before it, and have that be dead."""
    *entries, end = map(json.loads, (folder / RECORD_FILE).read_text().splitlines())
    assert end["kind"] == "end"
    for entry in entries:
        entry["tags"] = entry.get("tags", {}) | (DEAD if "owner.pid" in entry.get("tags", {}) else {})
    (folder / RECORD_FILE).write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    (folder / "projected.json").unlink()
    project(folder, mlflow.get_tracking_uri())


def leave_what_a_killed_controller_leaves(study, client):
    """As if it had been killed while it tested the best trial and another worker had just begun a fourth one."""
    parent, uri = study.user_attrs["mlflow.run_id"], study.user_attrs["tracking.uri"]
    folder = Path(f"outputs/sweeps/{NAME}")
    left = study.ask({"model.dropout": optuna.distributions.FloatDistribution(0, 0.7)})
    left.set_user_attr("owner", DEAD | {"settings": "x"})
    tags = {"mlflow.parentRunId": parent, "trial.number": "3", "trial.state": "RUNNING", "study": NAME}
    unnoted = begun(folder / "3", uri, tags, DEAD)
    begun(folder / "3/seed_1", uri, {}, DEAD)
    for each in (folder / "3", folder / "3/seed_1"):
        project(each, uri)
    reopen(folder / str(study.best_trial.number))
    reopen(folder)
    leave(CHECKPOINTS, "a", study.trials[0].user_attrs["record"])
    with (folder / "study.journal").open("ab") as journal:
        journal.write(b'{"op_code":8,"wor')
    return unnoted


def state_of(client, record):
    (run,) = mlflow.search_runs(
        search_all_experiments=True, filter_string=f"tags.`record.id` = '{record}'", output_format="list"
    )
    return run.info.status, run.data.tags.get("trial.state"), run.data.tags.get("error")


def test_what_a_killed_controller_leaves_is_put_right_when_the_sweep_goes_on(copied, run_train, capsys):
    study, client = copied
    unnoted = leave_what_a_killed_controller_leaves(study, client)
    named = f"tracking.uri={study.user_attrs['tracking.uri']}"
    assert run_doctor(capsys, named)[1] == 2
    run_train(*COMMAND, named, "hydra.sweeper.n_trials=4")
    assert run_doctor(capsys, named) == ([f"{NAME}: nothing is wrong"], 0)
    assert [trial.state.name for trial in open_study().trials] == ["COMPLETE"] * 3 + ["FAIL", "COMPLETE"]
    assert state_of(client, unnoted.record_id)[:2] == ("KILLED", "FAIL")


def test_everything_that_can_be_mended_is_found_and_mended(copied, capsys):
    study, client = copied
    unnoted = leave_what_a_killed_controller_leaves(study, client)
    leave(CHECKPOINTS, "b", unnoted.record_id)
    leave(CHECKPOINTS, "c", "").rename(CHECKPOINTS / f"{'c' * 24}-{'0' * 8}.unfinished")
    elsewhere = client.create_run(
        client.get_run(study.user_attrs["mlflow.run_id"]).info.experiment_id,
        tags=DEAD | {"mlflow.parentRunId": study.user_attrs["mlflow.run_id"], "trial.number": "1"},
    )
    lines, code = run_doctor(capsys)
    assert code == 2
    assert lines[-1] == f"{NAME}: {len(lines) - 1} disagreements left"
    assert all(line.startswith("for --fix: ") for line in lines[:-1])
    best = study.best_trial.number
    expected = [
        "study.journal: its last line is unfinished",
        r"trial 3 is RUNNING in the study, but its controller, process \d+ on \S+, is dead",
        f"trial {best} is COMPLETE in the study, and the record in outputs/sweeps/{NAME}/{best} says otherwise",
        f"outputs/sweeps/{NAME}: the run has no end in its record",
        f"outputs/sweeps/{NAME}/3: the run has no end in its record",
        f"outputs/sweeps/{NAME}/3/seed_1: the run has no end in its record",
        rf"trial 1 is COMPLETE in the study, its run {elsewhere.info.run_id} says otherwise",
        "c-00000000.npz has nothing to resume",
        "a-00000000.npz belongs to trial 0, which is COMPLETE",
    ]
    for what in expected:
        assert sum(bool(re.search(what, line)) for line in lines) == 1, (what, lines)
    assert len(lines) == len(expected) + 1

    lines, code = run_doctor(capsys, "--fix")
    assert (lines[-1], code) == (f"{NAME}: all mended", 0)
    assert all(line.startswith("mended: ") for line in lines[:-1])
    assert sum(f"trial 1 is COMPLETE in the study, its run {elsewhere.info.run_id}" in line for line in lines) == 1
    assert run_doctor(capsys) == ([f"{NAME}: nothing is wrong"], 0)

    trials = open_study().trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3 + ["FAIL", "WAITING"]
    assert trials[4].user_attrs["retry_of"] == 3
    assert state_of(client, unnoted.record_id) == ("KILLED", "FAIL", "its controller died")
    assert state_of(client, study.best_trial.user_attrs["record"])[:2] == ("FINISHED", "COMPLETE")
    parent = client.get_run(study.user_attrs["mlflow.run_id"])
    assert (parent.info.status, parent.data.metrics["trials.waiting"]) == ("KILLED", 1.0)
    assert client.get_run(elsewhere.info.run_id).info.status == "FINISHED"
    assert [path.name for path in Path("outputs/checkpoints").glob("*.npz")] == [f"{'b' * 24}-00000000.npz"]
    assert not list(Path("outputs").rglob("*.unfinished"))


def test_what_a_living_controller_is_at_work_on_is_left_alone(copied, capsys):
    study, client = copied
    alive = study.ask({})
    alive.set_user_attr("owner", owner_tags())
    folder, uri = Path(f"outputs/sweeps/{NAME}"), mlflow.get_tracking_uri()
    begun(folder / "3", uri, {"trial.number": "3", "mlflow.parentRunId": study.user_attrs["mlflow.run_id"]})
    Record(folder).again()
    for place in (folder, folder / "3"):
        project(place, uri)
    before = [(folder / name / RECORD_FILE).read_bytes() for name in ("", "3")]
    for flags in ([], ["--fix"]):
        assert run_doctor(capsys, *flags) == ([f"{NAME}: nothing is wrong"], 0)
    assert [(folder / name / RECORD_FILE).read_bytes() for name in ("", "3")] == before
    assert open_study().trials[3].state.name == "RUNNING"
    assert client.get_run(study.user_attrs["mlflow.run_id"]).info.status == "RUNNING"


def test_trial_of_another_host_is_mended_if_that_one_is_said_to_be_dead(copied, capsys):
    study, _ = copied
    study.ask({}).set_user_attr("owner", owner_tags() | {"owner.host": "another", "owner.boot": "another"})
    lines, code = run_doctor(capsys, "--fix")
    assert (len(lines), code) == (2, 2)
    assert "process" in lines[0]
    assert "dead_host=another" in lines[0]
    lines, code = run_doctor(capsys, "--fix", "dead_host=another")
    assert (lines[-1], code) == (f"{NAME}: all mended", 0)
    assert [trial.state.name for trial in open_study().trials] == ["COMPLETE"] * 3 + ["FAIL", "WAITING"]


# What cannot be looked at.


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A folder with what a name or a storage may lead to by mistake."""
    monkeypatch.chdir(tmp_path)
    Path("text.journal").write_text("no journal")
    with sqlite3.connect("other.db") as database:
        database.execute("CREATE TABLE mine (x)")
    shutil.copy("other.db", "database.journal")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend("foreign.journal"))
    optuna.create_study(study_name="foreign", storage=storage)
    storage = f"outputs/sweeps/{NAME}/study.journal"
    Path(storage).parent.mkdir(parents=True)
    shutil.copy("foreign.journal", storage)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tracking.uri=sqlite:///no.db"], "tracking.uri=sqlite:///no.db: there is no such database here"),
        (["a", "b"], "a b: give the name of one study"),
        (["a", "storage=x"], "storage: no such setting; allowed: hydra.sweeper.storage"),
        (["a", "--mend"], "unrecognized arguments: --mend"),
        (["nowhere"], f"nowhere: there is no such sweep here, outputs/sweeps/nowhere/study.journal does .*: {NAME}$"),
        (["a", "hydra.sweeper.storage=foreign.journal"], "no such study in foreign.journal; name one of: foreign"),
        (["a", "hydra.sweeper.storage=text.journal"], "text.journal: the file is no journal of Optuna"),
        (
            ["a", "hydra.sweeper.storage=database.journal"],
            "is an SQLite database; did you mean sqlite:///database.j",
        ),
        (
            ["a", "hydra.sweeper.storage=sqlite:///no.db"],
            "hydra.sweeper.storage=sqlite:///no.db: there is no such file",
        ),
        (["a", "hydra.sweeper.storage=sqlite:///other.db"], "sqlite:///other.db: the file holds no studies of Optuna"),
        (
            ["a", "hydra.sweeper.storage=postgresql://me:pw@127.0.0.1:1/x"],
            r"//me:\*\*\*@127.0.0.1:1/x: cannot be",
        ),
        (["foreign", "hydra.sweeper.storage=foreign.journal"], "foreign: no sweep of cnn-sweeps has made this"),
        (
            ["foreign", "hydra.sweeper.storage=foreign.journal", "tracking.uri=http://127.0.0.1:1"],
            "tracking.uri=http://127.0.0.1:1: the tracking server does not answer",
        ),
        (
            ["foreign", "hydra.sweeper.storage=foreign.journal", "tracking.uri=sqlite:///no.db"],
            "tracking.uri=sqlite:///no.db: there is no such database here",
        ),
    ],
)
def test_what_cannot_be_looked_at_is_told_in_one_line(arguments, message, places):
    before = sorted(Path().rglob("*"))
    assert re.search(message, refusal(doctor, *arguments))
    assert sorted(Path().rglob("*")) == before


def test_store_that_is_not_the_studys_is_refused(copied, store):
    other = f"sqlite:///{store}/mlflow.db"
    message = refusal(doctor, NAME, f"tracking.uri={other}")
    assert message.startswith(f"tracking.uri={other}: the study {NAME} is recorded in 'sqlite:///")


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["nowhere"], 1), (["foreign"], 1)])
def test_help_and_refusals_import_nothing_slow(arguments, code, tmp_path):
    done = started_command("cnn_sweeps.doctor", tmp_path, *arguments)
    assert done.returncode == code
    assert not done.imported & SLOW
    shows_help = "python -m cnn_sweeps.doctor NAME --fix" in done.stdout
    assert shows_help if code == 0 else re.fullmatch("error: .*\n", done.stderr)
