"""`python -m cnn_sweeps.doctor`: which disagreements of a sweep's records it finds, what it mends, what it leaves."""

import re
import shutil
import sqlite3
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import mlflow
import numpy as np
import optuna
import pytest
from conftest import TINY
from kept_models import SLOW, refusal, started_command
from optuna.trial import FrozenTrial, TrialState
from tiny_sweeps import IN_THIS_PROCESS, command_in

from cnn_sweeps.doctor.__main__ import doctor
from cnn_sweeps.doctor.checkup import Sweep, find_disagreements
from cnn_sweeps.doctor.diagnosis import diagnose
from cnn_sweeps.doctor.evidence import CutJournal, DeliverRecord, Evidence, RecoverTrials, RemoveCheckpoint
from cnn_sweeps.doctor.sweep_files import SweepFiles
from cnn_sweeps.selection.leftovers import AmendRun
from cnn_sweeps.selection.sweep_records import RunState, SweepRecord
from cnn_sweeps.sweep.console import summarize
from cnn_sweeps.sweep.study.definition import settings_id_of
from cnn_sweeps.sweep.study.view import StudyRecord
from cnn_sweeps.system.owners import owner_tags
from cnn_sweeps.tracking.outbox import Outbox
from cnn_sweeps.training.checkpoint import Checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

# The comparison, on records made by hand.

DIED = {"trial.state": "FAIL", "error": "its controller died"}
SETTINGS = {"objective": "val_log_loss"}
OWNER = {"owner.host": "here", "owner.pid": "7", "settings": settings_id_of(SETTINGS)}


def trial(number, state, value=None, **user_attrs):
    """A trial of one parameter that notes its run and its folder, and was begun an hour ago."""
    noted = {"mlflow.run_id": f"run{number}", "folder": str(number)} if state != "WAITING" else {}
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


def run(number, status, state, **changes):
    """The run of a trial."""
    tags = {"mlflow.parentRunId": "sweep", "trial.number": str(number), "trial.state": state}
    final = {"final_val_log_loss": 0.1 * (number + 1)} if state == "COMPLETE" else {}
    made = RunState(
        f"run{number}", f"trial {number}", status, "dead", tags=tags, params={"model.l2": "0.001"}, metrics=final
    )
    return replace(made, **changes)


def tagged(made, **tags):
    return replace(made, tags=made.tags | {key.replace("_", ".", 1): text for key, text in tags.items()})


def study(*trials, owners=None, abandoned=(), **user_attrs):
    attrs = {"definition": {"settings": SETTINGS}, "mlflow.run_id": "sweep"} | user_attrs
    return StudyRecord("s", attrs, ["minimize"], list(trials), owners or {}, frozenset(abandoned))


def evidence(trials, runs, *, files=None, champions=None, parents=None, sweep_run=True, **of_study):
    """The records of a sweep whose own run has ended and is up to date."""
    record = study(*trials, **of_study)
    metrics, tags = summarize(record.ledger, "val_log_loss")
    own = [RunState("sweep", "sweep s", "FINISHED", "dead", tags=tags, metrics=metrics)] if sweep_run else []
    found = {each.run_id: each for each in [*own, *runs]}
    noted = {each.user_attrs["folder"] for each in trials if "folder" in each.user_attrs}
    disk = SweepFiles(Path("outputs/sweeps/s"), frozenset(noted), None, {}, {})
    return Evidence(record, SweepRecord(found, champions or {}), files or disk, parents or {})


HEALTHY_TRIALS = [
    trial(0, "COMPLETE", 0.1),
    trial(1, "PRUNED"),
    trial(2, "FAIL", retried=True, error="its controller died"),
    trial(3, "COMPLETE", 0.4, retry_of=2, attempt=0),
    trial(4, "FAIL", error="ValueError: no"),
]
HEALTHY_RUNS = [
    run(0, "FINISHED", "COMPLETE"),
    run(1, "FINISHED", "PRUNED"),
    run(2, "KILLED", "FAIL"),
    tagged(run(3, "FINISHED", "COMPLETE"), trial_retry_of="2"),
    run(4, "FAILED", "FAIL"),
]


def changed(*changes):
    """The healthy runs, some of them in another state; None for one that is not there."""
    by_number = dict(changes)
    runs = [by_number.get(number, made) for number, made in enumerate(HEALTHY_RUNS)]
    return [made for made in runs if made is not None]


def only(found):
    (finding,) = diagnose(found)
    return finding


def test_records_that_agree_have_no_findings():
    assert diagnose(evidence(HEALTHY_TRIALS, HEALTHY_RUNS)) == []


def test_sweep_that_runs_has_no_findings():
    trials = [*HEALTHY_TRIALS, trial(5, "RUNNING"), trial(6, "WAITING")]
    runs = [*HEALTHY_RUNS, run(5, "RUNNING", "RUNNING", owner="alive")]
    running = evidence(trials, runs, owners={5: "alive"})
    own = replace(running.sweep.runs["sweep"], status="RUNNING", metrics={}, owner="alive")
    running = replace(running, sweep=SweepRecord(running.sweep.runs | {"sweep": own}, {}))
    assert diagnose(running) == []
    assert "trial 5" in running.owners_at_work


@pytest.mark.parametrize(
    ("number", "status", "state", "repair"),
    [
        (0, "KILLED", "COMPLETE", AmendRun("run0", "FINISHED", {"trial.state": "COMPLETE"})),
        (0, "FINISHED", "RUNNING", AmendRun("run0", None, {"trial.state": "COMPLETE"})),
        (0, "RUNNING", "COMPLETE", AmendRun("run0", "FINISHED", {"trial.state": "COMPLETE"})),
        (1, "FAILED", "FAIL", AmendRun("run1", "FINISHED", {"trial.state": "PRUNED"})),
        (
            2,
            "FINISHED",
            "COMPLETE",
            AmendRun("run2", "KILLED", DIED),
        ),
        (2, "KILLED", "RUNNING", AmendRun("run2", None, DIED)),
        (4, "RUNNING", "RUNNING", AmendRun("run4", "KILLED", {"trial.state": "FAIL", "error": "ValueError: no"})),
    ],
)
def test_run_that_ended_otherwise_than_its_trial_gets_the_trials_end(number, status, state, repair):
    ended = replace(run(number, status, state), metrics=HEALTHY_RUNS[number].metrics)
    finding = only(evidence(HEALTHY_TRIALS, changed((number, ended))))
    assert finding.repair == repair
    assert finding.what.startswith(f"trial {number} is {HEALTHY_TRIALS[number].state.name} in the study")


def test_objective_of_a_trial_with_other_settings_is_compared_with_nothing():
    """As `hydra.sweeper.on_change=continue` leaves them."""
    earlier = trial(0, "COMPLETE", 0.7, owner=OWNER | {"settings": "of another objective"})
    assert diagnose(evidence([earlier, *HEALTHY_TRIALS[1:]], HEALTHY_RUNS)) == []


def test_trial_that_began_after_the_study_was_read_is_no_stranger():
    runs = [*HEALTHY_RUNS, run(5, "RUNNING", "RUNNING", owner="alive"), run(6, "RUNNING", "RUNNING", owner="alive")]
    found = evidence([*HEALTHY_TRIALS, trial(5, "RUNNING")], runs, owners={5: "alive"})
    assert diagnose(replace(found, files=replace(found.files, subfolders=frozenset("0123456")))) == []


def test_run_of_a_lost_trial_on_another_host_is_closed():
    lost = run(2, "RUNNING", "RUNNING", owner="elsewhere")
    assert only(evidence(HEALTHY_TRIALS, changed((2, lost)))).repair == AmendRun("run2", "KILLED", DIED)


def test_run_that_a_living_process_tests_is_left_alone():
    tested = run(0, "RUNNING", "COMPLETE", owner="alive")
    assert diagnose(evidence(HEALTHY_TRIALS, changed((0, tested)))) == []


def test_running_trial_of_a_dead_controller_is_to_be_recovered():
    trials = [*HEALTHY_TRIALS, trial(5, "RUNNING")]
    runs = [*HEALTHY_RUNS, run(5, "RUNNING", "RUNNING")]
    finding = only(evidence(trials, runs, owners={5: "dead"}, abandoned=[5]))
    assert finding.repair == RecoverTrials()
    assert finding.what == "trial 5 is RUNNING in the study and process 7 on here, its controller, is dead"


def test_running_trial_of_another_host_is_told_with_its_age_and_left():
    finding = only(evidence([*HEALTHY_TRIALS, trial(5, "RUNNING")], HEALTHY_RUNS, owners={5: "elsewhere"}))
    assert finding.repair is None
    assert "RUNNING since 1 h 00 min, and process 7 on here" in finding.what
    assert "dead_host=here" in finding.remedy


@pytest.mark.parametrize(
    ("run0", "what"),
    [
        (None, "trial 0 is COMPLETE and its run run0 is not in MLflow"),
        (run(0, "FINISHED", "COMPLETE", is_deleted=True), "trial 0 is COMPLETE and its run run0 is deleted in MLflow"),
    ],
)
def test_completed_trial_whose_run_is_gone_is_told_and_nothing_is_made_up(run0, what):
    finding = only(evidence(HEALTHY_TRIALS, changed((0, run0))))
    assert (finding.what, finding.repair) == (what, None)


def test_completed_trial_that_notes_no_run_is_told():
    nameless = trial(0, "COMPLETE", 0.1)
    del nameless.user_attrs["mlflow.run_id"]
    finding = only(evidence([nameless, *HEALTHY_TRIALS[1:]], changed((0, None))))
    assert (finding.what, finding.repair) == ("trial 0 is COMPLETE and notes no run", None)


def test_second_whole_run_of_a_trial_is_told_and_a_cut_off_one_is_closed():
    second = replace(run(0, "FINISHED", "COMPLETE"), run_id="second")
    finding = only(evidence(HEALTHY_TRIALS, [*HEALTHY_RUNS, second]))
    assert finding.what == "trial 0 notes run run0, and run second records it, too"
    assert finding.repair is None
    cut_off = replace(run(0, "RUNNING", "RUNNING"), run_id="second")
    assert only(evidence(HEALTHY_TRIALS, [*HEALTHY_RUNS, cut_off])).repair == AmendRun(
        "second", "KILLED", {"trial.state": "FAIL"}
    )


def test_run_that_a_lost_trial_had_no_time_to_note_is_closed():
    lost = trial(2, "FAIL", retried=True, error="its controller died")
    del lost.user_attrs["mlflow.run_id"], lost.user_attrs["folder"]
    trials = [*HEALTHY_TRIALS[:2], lost, *HEALTHY_TRIALS[3:]]
    finding = only(evidence(trials, changed((2, run(2, "KILLED", "RUNNING")))))
    assert finding.repair == AmendRun("run2", None, DIED)


@pytest.mark.parametrize("tags", [{"trial.number": "9"}, {}])
def test_child_run_without_a_trial_is_told(tags):
    stray = RunState("stray", "stray", "FINISHED", "dead", tags={"mlflow.parentRunId": "sweep"} | tags)
    finding = only(evidence(HEALTHY_TRIALS, [*HEALTHY_RUNS, stray]))
    assert "run stray (stray) is below the sweep's and of" in finding.what
    assert finding.repair is None


def test_retrained_run_is_no_stray_one():
    tags = {"mlflow.parentRunId": "sweep", "retrained.trial": "0"}
    retrained = RunState("again", "retrained", "FINISHED", "dead", tags=tags)
    assert diagnose(evidence(HEALTHY_TRIALS, [*HEALTHY_RUNS, retrained])) == []
    left = only(evidence(HEALTHY_TRIALS, [*HEALTHY_RUNS, replace(retrained, status="RUNNING")]))
    assert left.repair == AmendRun("again", "KILLED")


def test_part_of_a_trial_that_was_left_running_is_closed():
    part = RunState("part", "seed 1", "RUNNING", "dead", tags={"mlflow.parentRunId": "run0"})
    assert only(evidence(HEALTHY_TRIALS, [*HEALTHY_RUNS, part])).repair == AmendRun("part", "KILLED")
    assert diagnose(evidence(HEALTHY_TRIALS, [*HEALTHY_RUNS, replace(part, owner="alive")])) == []
    elsewhere = replace(part, owner="elsewhere", tags=part.tags | {"owner.host": "there"})
    finding = only(evidence(HEALTHY_TRIALS, [*HEALTHY_RUNS, elsewhere]))
    assert finding.what == "run part (seed 1) is RUNNING, and its process on there cannot be seen from here"
    assert "dead_host=there" in finding.remedy


def test_trials_run_below_another_run_is_put_below_the_sweeps():
    moved = replace(HEALTHY_RUNS[0], tags=HEALTHY_RUNS[0].tags | {"mlflow.parentRunId": "before"})
    finding = only(evidence(HEALTHY_TRIALS, changed((0, moved))))
    assert finding.repair == AmendRun("run0", tags={"mlflow.parentRunId": "sweep"})


def test_retry_whose_run_does_not_say_so_gets_the_tag():
    finding = only(evidence(HEALTHY_TRIALS, changed((3, run(3, "FINISHED", "COMPLETE")))))
    assert finding.repair == AmendRun("run3", tags={"trial.retry_of": "2"})


def test_trial_that_nothing_tries_again_is_queued():
    trials = [*HEALTHY_TRIALS[:3], trial(3, "COMPLETE", 0.4), HEALTHY_TRIALS[4]]
    assert only(evidence(trials, HEALTHY_RUNS)).repair == RecoverTrials()
    assert only(evidence(HEALTHY_TRIALS, HEALTHY_RUNS, set_aside=[4])).repair == RecoverTrials()


@pytest.mark.parametrize("value", [np.nextafter(0.1, 1), 0.2])
def test_objective_that_differs_in_the_last_bit_is_told_and_left(value):
    finding = only(
        evidence(HEALTHY_TRIALS, changed((0, replace(HEALTHY_RUNS[0], metrics={"final_val_log_loss": value}))))
    )
    assert finding.what == f"trial 0 reached 0.1 in the study, its run run0 has final_val_log_loss={value!r}"
    assert finding.repair is None
    assert "python -m cnn_sweeps.reproduce run0" in finding.remedy


def test_objective_that_the_run_lacks_is_taken_from_the_study():
    finding = only(evidence(HEALTHY_TRIALS, changed((0, replace(HEALTHY_RUNS[0], metrics={})))))
    assert finding.repair == AmendRun("run0", metrics={"final_val_log_loss": 0.1})


def test_parameter_that_differs_is_told_and_one_that_is_missing_is_taken_from_the_study():
    differs = replace(HEALTHY_RUNS[0], params={"model.l2": "0.01"})
    finding = only(evidence(HEALTHY_TRIALS, changed((0, differs))))
    assert finding.what == "trial 0 has model.l2=0.001 in the study, its run run0 has 0.01"
    assert finding.repair is None
    finding = only(evidence(HEALTHY_TRIALS, changed((0, replace(differs, params={})))))
    assert finding.repair == AmendRun("run0", params={"model.l2": "0.001"})


@pytest.mark.parametrize(
    ("value", "recorded"),
    [
        (1e-05, "1e-05"),
        (1, "1.0"),
        ("[4,8]", "[4, 8]"),
        ("adam", "adam"),
        (True, "True"),
        (None, "None"),
        ("null", "None"),
        ("${model.filters}", "[4, 8]"),
        ("'a b'", "a b"),
        ("[1e-3,0.1]", "[0.001, 0.1]"),
        ("[a,null]", "['a', None]"),
    ],
)
def test_parameter_may_be_written_otherwise_in_an_override(value, recorded):
    varied = trial(0, "COMPLETE", 0.1)
    varied.params = {"key": value}
    runs = changed((0, replace(HEALTHY_RUNS[0], params={"key": recorded})))
    assert not [each for each in diagnose(evidence([varied, *HEALTHY_TRIALS[1:]], runs)) if "key" in each.what]


def test_sweeps_run_that_is_behind_the_study_is_brought_up_to_date():
    found = evidence(HEALTHY_TRIALS, HEALTHY_RUNS)
    own = found.sweep.runs["sweep"]
    behind = replace(own, tags=own.tags | {"best.trial": "3"}, metrics=dict(own.metrics) | {"trials.complete": 1.0})
    finding = only(replace(found, sweep=SweepRecord(found.sweep.runs | {"sweep": behind}, {})))
    assert finding.repair == AmendRun("sweep", tags={"best.trial": "0"}, metrics={"trials.complete": 2.0})


@pytest.mark.parametrize(
    ("own", "what", "is_mended"),
    [
        (None, "the sweep has 5 trials and its run sweep is not in MLflow", False),
        ({"is_deleted": True}, "the sweep's run sweep is deleted in MLflow", False),
        ({"status": "RUNNING"}, "the sweep's run sweep is RUNNING and no controller lives", True),
        (
            {"status": "RUNNING", "owner": "elsewhere", "tags": {"owner.host": "there"}},
            "run sweep (sweep s) is RUNNING, and its process on there cannot be seen from here",
            False,
        ),
    ],
)
def test_sweeps_run_that_is_gone_or_was_left_running_is_told(own, what, is_mended):
    found = evidence(HEALTHY_TRIALS, HEALTHY_RUNS)
    runs = dict(found.sweep.runs)
    changed_run = None if own is None else replace(runs["sweep"], **own)
    runs = runs | {"sweep": changed_run} if changed_run else {key: each for key, each in runs.items() if key != "sweep"}
    finding = only(replace(found, sweep=SweepRecord(runs, {})))
    assert (finding.what, finding.repair is not None) == (what, is_mended)


@pytest.mark.parametrize(
    ("files", "what", "repair"),
    [
        ({"subfolders": frozenset("1234")}, "trial 0 has written into outputs/sweeps/s/0, and it is not there", None),
        ({"subfolders": frozenset("01234") | {"7"}}, "outputs/sweeps/s/7 is there, and the study has no trial 7", None),
        ({"cut_journal": Path("j")}, "j: its last line is unfinished", CutJournal(Path("j"))),
        ({"checkpoints": {Path("c"): ""}}, "c has nothing to resume", RemoveCheckpoint(Path("c"))),
        ({"checkpoints": {Path("c"): "run0"}}, "c is of trial 0, which is COMPLETE", RemoveCheckpoint(Path("c"))),
        ({"checkpoints": {Path("c"): "run2"}}, "c is of trial 2, tried again as trial 3", RemoveCheckpoint(Path("c"))),
        ({"checkpoints": {Path("c"): "part"}}, "c is of trial 1, which is PRUNED", RemoveCheckpoint(Path("c"))),
    ],
)
def test_file_that_is_missing_or_left_is_told(files, what, repair):
    found = evidence(HEALTHY_TRIALS, HEALTHY_RUNS, parents={"part": "run1"})
    finding = only(replace(found, files=replace(found.files, **files)))
    assert finding.what.startswith(what)
    assert finding.repair == repair


def test_folder_of_a_trial_that_another_host_ran_is_not_looked_for_here():
    there = run(0, "FINISHED", "COMPLETE", owner="dead")
    found = evidence(HEALTHY_TRIALS, changed((0, replace(there, tags=there.tags | {"owner.host": "there"}))))
    assert diagnose(replace(found, files=replace(found.files, subfolders=frozenset("1234")))) == []


@pytest.mark.parametrize("run_id", ["run4", "another sweep's"])
def test_checkpoint_that_may_be_resumed_is_kept(run_id):
    found = evidence([*HEALTHY_TRIALS, trial(5, "WAITING", retry_of=4)], HEALTHY_RUNS)
    assert diagnose(replace(found, files=replace(found.files, checkpoints={Path("c"): run_id}))) == []


def test_record_that_waits_for_the_store_is_delivered_before_anything_is_compared():
    found = evidence(HEALTHY_TRIALS, changed((0, replace(HEALTHY_RUNS[0], metrics={}))))
    folder = Path("outputs/sweeps/s/0/outbox/run0")
    finding = only(replace(found, files=replace(found.files, waiting={folder: 3})))
    assert finding.what == f"{folder}: 3 entries of the run's record wait for the tracking store"
    assert finding.repair == DeliverRecord(folder)


def test_champion_whose_run_is_gone_is_told():
    finding = only(evidence(HEALTHY_TRIALS, HEALTHY_RUNS, champions={"model/3": "run9"}))
    assert finding.what == "the champion model/3 is of run run9, which is deleted or not in MLflow"
    assert finding.repair is None


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
    assert find_disagreements(Sweep(NAME)) == []
    assert run_doctor(capsys) == ([f"{NAME}: nothing found"], 0)
    assert run_doctor(capsys, "--fix") == ([f"{NAME}: nothing found"], 0)
    assert Path(f"outputs/sweeps/{NAME}/study.journal").read_bytes() == journal


CHECKPOINTS = Path("outputs/checkpoints")


def leave_checkpoint(letter, run_id):
    path = CHECKPOINTS / f"{letter * 24}-{'0' * 8}.npz"
    Checkpoint(path).save_parts([], run_id)
    return path


def leave_what_a_killed_controller_leaves(study, client):
    """As if it had been killed while it tested the first trial and another worker had just begun a fourth one."""
    dead = owner_tags() | {"owner.started": "1000.0"}
    parent = study.user_attrs["mlflow.run_id"]
    first = study.trials[0].user_attrs["mlflow.run_id"]
    left = study.ask({"model.dropout": optuna.distributions.FloatDistribution(0, 0.7)})
    left.set_user_attr("owner", dead | {"settings": "x"})
    tags = dead | {"mlflow.parentRunId": parent, "trial.number": "3", "trial.state": "RUNNING", "study": NAME}
    experiment = client.get_run(parent).info.experiment_id
    unnoted = client.create_run(experiment, tags=tags, run_name="trial 3").info.run_id
    client.create_run(experiment, tags=dead | {"mlflow.parentRunId": first}, run_name="seed 1")
    client.set_terminated(first, "KILLED")
    client.update_run(parent, status="RUNNING")
    client.set_tag(parent, "owner.started", "1000.0")
    client.log_metric(parent, "trials.complete", 1)
    leave_checkpoint("a", first)
    with Path(f"outputs/sweeps/{NAME}/study.journal").open("ab") as journal:
        journal.write(b'{"op_code":8,"wor')
    return unnoted


def change_more(study, client, unnoted):
    """What a killed controller does not leave."""
    _, second, third = (trial.user_attrs["mlflow.run_id"] for trial in study.trials[:3])
    client.set_tag(second, "trial.state", "RUNNING")
    client.set_tag(third, "mlflow.parentRunId", "0" * 32)
    leave_checkpoint("b", unnoted)
    leave_checkpoint("c", "").rename(CHECKPOINTS / f"{'c' * 24}-{'0' * 8}.unfinished")


def test_what_a_killed_controller_leaves_is_put_right_when_the_sweep_goes_on(copied, run_train, capsys):
    study, client = copied
    unnoted = leave_what_a_killed_controller_leaves(study, client)
    named = f"tracking.uri={study.user_attrs['tracking.uri']}"
    assert run_doctor(capsys, named)[1] == 2
    run_train(*COMMAND, named, "hydra.sweeper.n_trials=4")
    assert run_doctor(capsys, named) == ([f"{NAME}: nothing found"], 0)
    assert [trial.state.name for trial in open_study().trials] == ["COMPLETE"] * 3 + ["FAIL", "COMPLETE"]
    assert client.get_run(unnoted).data.tags["trial.state"] == "FAIL"


def test_everything_that_can_be_mended_is_found_and_mended(copied, capsys):
    study, client = copied
    unnoted = leave_what_a_killed_controller_leaves(study, client)
    change_more(study, client, unnoted)
    lines, code = run_doctor(capsys)
    assert code == 2
    assert lines[-1] == f"{NAME}: {len(lines) - 1} disagreements left"
    assert all(line.startswith("for --fix: ") for line in lines[:-1])
    expected = [
        "study.journal: its last line is unfinished",
        r"trial 3 is RUNNING in the study and process \d+ on \S+, its controller, is dead",
        "trial 0 is COMPLETE in the study, its run .* is KILLED with trial.state=COMPLETE",
        "trial 1 is COMPLETE in the study, its run .* is FINISHED with trial.state=RUNNING",
        "trial 2: its run .* is below 0+, not below the sweep's",
        r"run \w+ \(seed 1\) is RUNNING and the process that made it is dead",
        "the sweep's run .* is RUNNING and no controller lives",
        "the sweep's run .* has trials.complete=1.0 for 3.0",
        "c-00000000.npz has nothing to resume",
        "a-00000000.npz is of trial 0, which is COMPLETE",
    ]
    for what in expected:
        assert sum(bool(re.search(what, line)) for line in lines) == 1, (what, lines)
    assert len(lines) == len(expected) + 1

    lines, code = run_doctor(capsys, "--fix")
    assert (lines[-1], code) == (f"{NAME}: all mended", 0)
    assert all(line.startswith("mended: ") for line in lines[:-1])
    assert run_doctor(capsys) == ([f"{NAME}: nothing found"], 0)

    trials = open_study().trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3 + ["FAIL", "WAITING"]
    assert trials[4].user_attrs["retry_of"] == 3
    closed = client.get_run(unnoted)
    assert (closed.info.status, closed.data.tags["trial.state"]) == ("KILLED", "FAIL")
    assert closed.data.tags["error"] == "its controller died"
    assert client.get_run(study.user_attrs["mlflow.run_id"]).info.status == "KILLED"
    assert [path.name for path in Path("outputs/checkpoints").glob("*.npz")] == [f"{'b' * 24}-00000000.npz"]
    assert not list(Path("outputs").rglob("*.unfinished"))


def test_what_waits_for_the_store_is_delivered_and_the_rest_is_mended_then(copied, capsys):
    study, client = copied
    first = study.trials[0].user_attrs["mlflow.run_id"]
    waiting = Outbox(Path(f"outputs/sweeps/{NAME}/0"), first)
    waiting.keep("metrics", {"metrics": [["waited", 0.5, 1000, 1]]})
    waiting.keep("end", {"status": "KILLED", "end_time": 2000})
    lines, code = run_doctor(capsys)
    assert (lines[-1], code) == (f"{NAME}: 1 disagreement left", 2)
    assert f"for --fix: outputs/sweeps/{NAME}/0/outbox/{first}: 2 entries" in lines[0]
    lines, code = run_doctor(capsys, "--fix")
    assert code == 0
    assert re.match("mended: .*: 2 entries.*they are delivered", lines[0])
    assert re.match("mended: trial 0 is COMPLETE in the study, its run .* is KILLED", lines[1])
    assert lines[2:] == [f"{NAME}: all mended"]
    assert client.get_run(first).data.metrics["waited"] == 0.5
    assert not list(Path("outputs").rglob("outbox"))


def test_what_only_a_person_can_decide_is_left_and_told(copied, capsys):
    study, client = copied
    first, second, third = (trial.user_attrs["mlflow.run_id"] for trial in study.trials)
    client.log_metric(first, "final_val_log_loss", 0.5, step=9)
    client.delete_run(second)
    Path(f"outputs/sweeps/{NAME}/9").mkdir()
    shutil.rmtree(f"outputs/sweeps/{NAME}/2")
    champion = client.get_model_version_by_alias(f"{NAME}-synthetic", "champion")
    if champion.tags["trial.run_id"] != second:
        client.set_model_version_tag(champion.name, champion.version, "trial.run_id", second)
    lines, code = run_doctor(capsys, "--fix")
    assert code == 2
    assert all(line.startswith("for you: ") for line in lines[:-1])
    expected = [
        f"trial 0 reached .* in the study, its run {first} has final_val_log_loss=0.5",
        f"trial 1 is COMPLETE and its run {second} is deleted in MLflow; mlflow runs restore --run-id {second}",
        f"trial 2 has written into outputs/sweeps/{NAME}/2, and it is not there",
        f"outputs/sweeps/{NAME}/9 is there, and the study has no trial 9",
        f"the champion {NAME}-synthetic/1 is of run {second}, which is deleted or not in MLflow",
    ]
    for what in expected:
        assert sum(bool(re.search(what, line)) for line in lines) == 1, (what, lines)
    assert len(lines) == len(expected) + 1
    assert client.get_run(third).info.status == "FINISHED"


def test_fix_is_refused_while_a_controller_lives(copied, capsys):
    study, _ = copied
    study.ask({}).set_user_attr("owner", owner_tags())
    assert run_doctor(capsys) == ([f"{NAME}: nothing found"], 0)
    message = refusal(doctor, NAME, "--fix")
    assert message.startswith(f"{NAME}: living processes are at work on it (trial 3); wait for the sweep's end")


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
        ([], "no study: give the name of one study"),
        (["a", "b"], "a b: give the name of one study"),
        (["a", "storage=x"], "storage: no such setting; allowed: hydra.sweeper.storage"),
        (["a", "--mend"], "unrecognized arguments: --mend"),
        (["nowhere"], f"nowhere: no such sweep here, outputs/sweeps/nowhere/study.journal is not there; .*: {NAME}$"),
        (["a", "hydra.sweeper.storage=foreign.journal"], "a: no such study in foreign.journal; there are: foreign"),
        (["a", "hydra.sweeper.storage=text.journal"], "hydra.sweeper.storage=text.journal: is no journal"),
        (
            ["a", "hydra.sweeper.storage=database.journal"],
            "is an SQLite database; did you mean sqlite:///database.j",
        ),
        (
            ["a", "hydra.sweeper.storage=sqlite:///no.db"],
            "hydra.sweeper.storage=sqlite:///no.db: there is no such file",
        ),
        (["a", "hydra.sweeper.storage=sqlite:///other.db"], "sqlite:///other.db: holds no studies of Optuna's"),
        (
            ["a", "hydra.sweeper.storage=postgresql://me:pw@127.0.0.1:1/x"],
            r"//me:\*\*\*@127.0.0.1:1/x: cannot be",
        ),
        (["foreign", "hydra.sweeper.storage=foreign.journal"], "foreign: this study was not made by a sweep"),
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
    shown, imported = done.stdout.split("IMPORTED")
    assert done.returncode == code
    assert not set(imported.split()) & SLOW
    assert "python -m cnn_sweeps.doctor NAME --fix" in shown if code == 0 else re.fullmatch("error: .*\n", done.stderr)
