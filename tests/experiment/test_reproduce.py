"""Runs repeated from their record: what their pages say, what is compared, and what is refused before training."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from statistics import mean, stdev
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
from commands import started_command
from conftest import TINY_CNN
from tiny_sweeps import (
    IN_THIS_PROCESS,
    child_runs,
    command_in,
    measured_on_test,
    parent_run,
    run_of,
    study_in,
    write_dark_and_light_photos,
)

from cnn_sweeps import reproduce
from cnn_sweeps.compare import compare
from cnn_sweeps.errors import ConfigError, TrackingError
from cnn_sweeps.evaluation.per_image import PerImage
from cnn_sweeps.experiment.reproduction import Pair, describe_differences, judge, pair_up
from cnn_sweeps.system import machine_load
from cnn_sweeps.text.commands import command_to_repeat
from cnn_sweeps.tracking.page import tags_of
from cnn_sweeps.tracking.reading import RecordedTraining
from cnn_sweeps.use.comparison import judge_images

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

EXPERIMENT = "repeated"
RUN = [
    *("data=folder", "data.root=photos", "data.image_size=16", "data.channels=1", "data.cache_dir=cache"),
    *(*TINY_CNN, "training.epochs=2", "training.batch_size=16", "tracking.log_model=false"),
    "evaluation.pictures=none",
    f"tracking.experiment_name={EXPERIMENT}",
]
SWEEP = ["--multirun", *RUN, IN_THIS_PROCESS, "hydra.sweeper.study_name=tiny"]


def newest_run():
    """The newest run of the experiment that is no part of another one."""
    runs = mlflow.search_runs(experiment_names=[EXPERIMENT], output_format="list")
    return next(run for run in runs if "mlflow.parentRunId" not in run.data.tags)


def num_runs():
    return len(mlflow.search_runs(experiment_names=[EXPERIMENT], output_format="list"))


def artifact(run, name):
    return mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/{name}")


def page(run):
    return run.data.tags["mlflow.note.content"]


def to_reproduce(run):
    return f"python -m cnn_sweeps.reproduce {run.info.run_id} \\\n  tracking.uri={mlflow.get_tracking_uri()}\n"


def command_on(page):
    """The words of the first command on a page, which has several lines."""
    return shlex.split(re.search(r"```bash\n(.*?)\n```", page, re.DOTALL)[1].replace("\\\n", ""))


def measured(run):
    """Every recorded value that tells neither the time nor of the machine, in order."""
    client = mlflow.MlflowClient()
    varying = ("epoch_s", "images_per_s", "system/")
    names = [name for name in run.data.metrics if not name.startswith(varying)]
    return {name: [each.value for each in client.get_metric_history(run.info.run_id, name)] for name in names}


@pytest.fixture(scope="module")
def made(tmp_path_factory, store):
    """A run, a sweep of two trials, and a run with two repeats, in a folder with their images."""
    folder = tmp_path_factory.mktemp("made")
    write_dark_and_light_photos(folder / "photos")
    mlflow.set_tracking_uri(f"sqlite:///{store}/mlflow.db")
    with command_in(folder, store) as run, pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine_load, "FIRST_S", 0.0)  # so that they have what their reproductions do not have
        run(*RUN, "regularization=full", "resume=true")
        single = newest_run()
        run(*SWEEP, "model.dropout=0.1,0.3", "evaluate_best=false")
        run(*RUN, "repeats=2", "training.epochs=1")
        group = newest_run()
    study = study_in(folder)
    trials = [run_of(trial) for trial in study.trials]
    return SimpleNamespace(folder=folder, single=single, sweep=parent_run(study), trials=trials, group=group)


@pytest.fixture
def again(made, store, monkeypatch):
    """Type `python -m cnn_sweeps.reproduce ...` in the folder of `made`; give what comes out."""
    monkeypatch.chdir(made.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db")
    monkeypatch.setenv("HOME", str(made.folder))  # where decoded images are kept, whatever the run says
    mlflow.set_tracking_uri(f"sqlite:///{store}/mlflow.db")

    def reproduce_run(run, *arguments, log="log"):
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        run_id = run if isinstance(run, str) else run.info.run_id
        monkeypatch.setattr(sys, "argv", ["reproduce", run_id, *arguments, f"hydra.run.dir={log}"])
        shutil.rmtree(log, ignore_errors=True)
        code = 0
        try:
            reproduce.main()
        except SystemExit as end:
            code = end.code
        file = made.folder / log / "reproduce.log"
        told = file.read_text() if file.exists() else ""
        return SimpleNamespace(code=code, told=told, run=newest_run())

    return reproduce_run


@pytest.fixture
def forge(again):
    """Record a run as somebody else might have: another one's tags and files, changed."""
    client = mlflow.MlflowClient()

    def record(run, *, without_tags=(), metrics=None, **files):
        tags = {key: value for key, value in tags_of(run).items() if not key.startswith(("mlflow.", *without_tags))}
        forged = client.create_run(run.info.experiment_id, tags=tags, run_name="forged").info.run_id
        names = {"config": "config.yaml", "overrides": "overrides.yaml", "data": "data.json"}
        for name, file in names.items():
            if (text := files.get(name, artifact(run, file))) is not None:
                client.log_text(forged, text, file)
        for key, value in run.data.metrics.items():
            client.log_metric(forged, key, (metrics or {}).get(key, value), step=2)
        for each in client.get_metric_history(run.info.run_id, "val_log_loss")[:-1]:
            client.log_metric(forged, each.key, each.value, step=each.step)
        client.set_terminated(forged)
        return client.get_run(forged)

    return record


# What pages say.


def test_page_of_a_run_shows_a_command_that_makes_the_same_metrics(made, again, run_train, monkeypatch):
    monkeypatch.chdir(made.folder)
    program, *overrides = command_on(page(made.single))
    assert (program, overrides) == ("train", [*RUN, "regularization=full"])
    assert tags_of(made.single)["command"] == shlex.join([program, *overrides])
    run_train(*overrides)
    assert measured(newest_run()) == measured(made.single)


def test_page_of_a_run_says_how_to_reproduce_it_and_of_which_images_it_is(made):
    text = page(made.single)
    assert to_reproduce(made.single) in text
    assert f"- **fingerprint**: {made.single.data.tags['data.fingerprint']}\n" in text
    assert f"- **data**: `photos`, from `{made.folder}/photos`\n" in text
    assert "- **images**: 36 train, 12 val, 12 test, of 2 classes" in text


def test_page_of_a_trial_shows_the_command_of_its_configuration(made):
    for trial, dropout in zip(made.trials, ("0.1", "0.3"), strict=True):
        without_evaluate_best = ["train", *RUN, f"model.dropout={dropout}"]  # which a sweep alone reads
        assert sorted(command_on(page(trial))) == sorted(without_evaluate_best)
        assert to_reproduce(trial) in page(trial)
        assert "12 test" in page(trial)


def test_page_of_a_part_shows_how_to_repeat_the_whole(made):
    _, second = child_runs(made.group)
    assert "This run is part 'seed 1' of" in page(second)
    assert command_on(page(second)) == command_on(page(made.group)) == ["train", *RUN, "repeats=2", "training.epochs=1"]
    assert to_reproduce(made.group) in page(second)
    assert to_reproduce(made.group) in page(made.group)


def test_page_of_a_sweep_shows_the_command_of_a_new_study(made):
    words = command_on(page(made.sweep))
    assert words[:2] == ["train", "--multirun"]
    expected = {*SWEEP[1:], "model.dropout=0.1,0.3", "evaluate_best=false"} - {"hydra.sweeper.study_name=tiny"}
    assert set(words[2:]) == expected
    assert "- **search space**: `model.dropout in" in page(made.sweep)


def test_commands_hide_passwords_and_what_was_for_the_one_time():
    overrides = ["tracking.uri=postgresql://me:secret@host/runs", "resume=true", "data.root=my photos"]
    assert (
        command_to_repeat("python -m a", overrides)
        == "python -m a 'tracking.uri=postgresql://me:***@host/runs' 'data.root=my photos'"
    )


def test_run_with_repeats_records_the_mean_of_its_child_runs(made):
    trainings = child_runs(made.group)
    assert [run.info.run_name for run in trainings] == ["seed 0", "seed 1"]
    assert [run.data.params["seed"] for run in trainings] == ["0", "1"]
    assert {run.info.status for run in (made.group, *trainings)} == {"FINISHED"}
    for name in ("final_val_log_loss", "test_log_loss"):
        values = [run.data.metrics[name] for run in trainings]
        assert made.group.data.metrics[name] == pytest.approx(mean(values))
        assert made.group.data.metrics[f"{name}_se"] == pytest.approx(stdev(values) / 2**0.5)
    assert "decision_threshold" not in made.group.data.metrics  # each has its own


# What comes out the same.


def test_same_run_agrees_bit_for_bit_in_another_process_and_is_a_run_of_its_own(made, store):
    mlflow.set_tracking_uri(f"sqlite:///{store}/mlflow.db")
    done = reproduced(made, store, made.single.info.run_id)
    assert (done.returncode, done.stderr) == (0, "")
    assert "differs:" not in done.stdout
    assert done.stdout.rstrip().endswith(f"{made.single.info.run_name}: agrees bit for bit")
    assert re.search(r"val_log_loss, epoch 2 +0\.\d+ +0\.\d+ +0\n", done.stdout)
    assert re.search(r"test_accuracy +[01]\S* +[01]\S* +0\n", done.stdout)

    run = newest_run()
    assert (run.info.run_name, run.info.status) == (f"reproduction of {made.single.info.run_name}", "FINISHED")
    assert run.data.tags["reproduces"] == made.single.info.run_id
    assert run.data.tags["reproduction.verdict"] == "agrees bit for bit"
    assert "test_accuracy" in artifact(run, "reproduction.txt")
    assert measured(run) == measured(made.single)
    assert tags_of(run)["command"] == tags_of(made.single)["command"]
    assert artifact(run, "overrides.yaml") == artifact(made.single, "overrides.yaml")
    changed = {key for key, value in run.data.params.items() if made.single.data.params.get(key) != value}
    assert changed == {"resume", "data.cache_dir", "training.cache_dir"}


def test_trial_of_a_sweep_agrees_bit_for_bit_as_a_single_run(made, again):
    done = again(made.trials[1])
    assert done.code == 0
    assert done.run.data.tags["reproduction.verdict"] == "agrees bit for bit"
    name = made.trials[1].info.run_name
    assert done.run.info.run_name == f"reproduction of {name}"
    assert "trial.number" not in done.run.data.tags
    assert not measured_on_test(done.run)  # as of the trial, which was not chosen
    assert "final_val_accuracy" in measured(done.run)
    for metric in ("val_log_loss", "val_accuracy"):
        assert measured(done.run)[metric] == measured(made.trials[1])[metric]


def test_pruned_trial_is_trained_and_compared_as_far_as_it_was(again, run_train, made, monkeypatch):
    monkeypatch.chdir(made.folder)
    pruner = [
        "hydra/sweeper/pruner=threshold",
        "hydra.sweeper.pruner.upper=1e-6",
        "hydra.sweeper.pruner.n_warmup_steps=2",
    ]
    words = [word for word in SWEEP if not word.startswith("hydra.sweeper.study_name=")]
    with pytest.raises(SystemExit, match="no trial completed"):
        run_train(*words, *pruner, "training.epochs=4", "hydra.sweeper.study_name=pruned", "hydra.sweeper.n_trials=1")
    (pruned,) = child_runs(newest_run())
    done = again(pruned)
    assert done.code == 0
    assert [len(measured(run)["val_log_loss"]) for run in (pruned, done.run)] == [2, 2]
    assert done.run.data.tags["trial.state"] == "PRUNED"
    assert done.run.data.tags["reproduction.verdict"] == "agrees bit for bit"


def test_number_of_threads_is_the_recorded_one_and_a_large_difference_does_not_agree(again, forge, made, monkeypatch):
    """As of a trial whose worker had a part of the cores; it bears on the last bits, and they on all that follows."""
    for key in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        monkeypatch.setenv(key, "2")
    forged = forge(made.single, metrics={"test_log_loss": 1.234567891e-05})
    mlflow.MlflowClient().set_tag(forged.info.run_id, "cpu.threads", "1")
    done = again(forged)
    assert done.code == 2
    assert done.told.rstrip().endswith("forged: does not agree (largest relative difference 1.0e+00, of test_log_loss)")
    assert done.run.info.status == "FINISHED"
    assert "number of threads: 1, as in the recorded run, instead of 2" in done.told
    *table, _verdict = artifact(done.run, "reproduction.txt").splitlines()
    assert len({len(line) for line in table}) == 1
    assert os.environ["TF_NUM_INTRAOP_THREADS"] == "1"
    assert done.run.data.tags["cpu.threads"] == "1"
    assert command_on(page(done.run))[:4] == [
        *("OMP_NUM_THREADS=1", "TF_NUM_INTRAOP_THREADS=1", "TF_NUM_INTEROP_THREADS=1", "train")
    ]


def test_run_with_repeats_is_compared_part_by_part(made, again):
    done = again(made.group)
    assert done.code == 0
    assert "seed 1: val_log_loss, epoch 1" in done.told
    assert "seed 0: test_log_loss" in done.told
    assert [run.info.run_name for run in child_runs(done.run)] == ["seed 0", "seed 1"]
    assert measured(done.run) == measured(made.group)


# What does not.


def test_small_difference_and_another_package_are_told_and_judged_by_the_tolerance(made, again, forge):
    slightly = made.single.data.metrics["final_val_log_loss"] * (1 + 1e-5)
    forged = forge(made.single, metrics={"final_val_log_loss": slightly})
    mlflow.MlflowClient().set_tag(forged.info.run_id, "version.keras", "3.0.0")
    done = again(forged, "--tolerance", "1e-6")
    assert done.code == 2
    assert re.search(r"differs: version.keras was 3.0.0, is 3\.\d+", done.told)
    assert done.run.data.tags["reproduction.verdict"] == (
        "does not agree (largest relative difference 1.0e-05, of final_val_log_loss)"
    )


@pytest.mark.parametrize(
    ("recorded", "now", "verdict"),
    [
        (0.5, 0.5, "agrees bit for bit"),
        (0.0, 0.0, "agrees bit for bit"),
        (0.5, 0.5004, "agrees within 0.001 (largest relative difference 8.0e-04, of x)"),
        (0.5, 0.501, "does not agree (largest relative difference 2.0e-03, of x)"),
        (0.5, None, "does not agree (x: recorded 0.5, now none)"),
        (None, 0.5, "does not agree (x: recorded none, now 0.5)"),
        (float("nan"), 0.5, "does not agree (x: recorded nan, now 0.5)"),
    ],
)
def test_verdict_is_on_the_largest_relative_difference(recorded, now, verdict):
    agrees, told = judge([Pair("same", 1.0, 1.0), Pair("x", recorded, now)], 1e-3)
    assert (agrees, told) == (verdict.startswith("agrees"), verdict)


def test_nothing_to_compare_is_no_agreement():
    assert judge([], 1e-3) == (False, "does not agree (nothing was recorded that can be compared)")


def names_of(recorded, now):
    return [pair.name for pair in pair_up({"": recorded}, {"": now})]


def test_all_epochs_of_a_whole_training_are_compared_and_the_final_metrics_that_both_have():
    recorded = RecordedTraining({1: 0.5, 2: 0.4}, {"final_val_log_loss": 0.4, "test_auc": 0.9})
    now = RecordedTraining({1: 0.5, 2: 0.4, 3: 0.3}, {"final_val_log_loss": 0.4, "final_train_log_loss": 0.4})
    assert names_of(recorded, now) == [
        *("val_log_loss, epoch 1", "val_log_loss, epoch 2", "val_log_loss, epoch 3", "final_val_log_loss")
    ]


def test_of_a_training_that_was_cut_off_its_epochs_are_compared():
    recorded, now = (
        RecordedTraining({1: 0.5, 2: 0.4}, {}),
        RecordedTraining({1: 0.5, 2: 0.4, 3: 0.3}, {"final_val_log_loss": 0.3}),
    )
    assert names_of(recorded, now) == ["val_log_loss, epoch 1", "val_log_loss, epoch 2"]
    agrees, _ = judge(list(pair_up({"": recorded}, {"": RecordedTraining({1: 0.5}, {})})), 1e-3)
    assert not agrees


def test_gap_between_losses_is_judged_by_what_they_are():
    recorded = {"final_val_log_loss": 0.5, "final_generalization_gap": 1e-7}
    now = {"final_val_log_loss": 0.5, "final_generalization_gap": 2e-7}
    pairs = list(pair_up({"": RecordedTraining({}, recorded)}, {"": RecordedTraining({}, now)}))
    assert judge(pairs, 1e-6)[0]


def test_what_differs_is_named_and_what_was_not_recorded_is_not():
    now = {"version.keras": "3.1", "git.commit": "b", "git.dirty": "false", "platform": "Linux"}
    recorded = {"version.keras": "3.1", "git.commit": "a", "git.dirty": "true", "platform": "Linux", "owner.pid": "1"}
    assert describe_differences(recorded, now) == [
        "differs: git.commit was a, is b",
        "differs: git.dirty was true, is false",
        "the recorded code had changes that are not in commit a",
    ]


# What is refused.


def test_other_images_are_refused_before_training_and_the_same_ones_elsewhere_are_not(made, again):
    shutil.copytree(made.folder / "photos", made.folder / "moved")
    assert again(made.single, "data.root=moved").code == 0
    (made.folder / "moved/dark/0.png").unlink()
    before, done = num_runs(), again(made.single, "data.root=moved")
    assert re.fullmatch(
        rf"error: data: the images in {made.folder}/moved have changed \(fingerprint \w+\); "
        rf"restore the images of {re.escape(made.single.info.run_name)} "
        rf"\(36 train, 12 val, 12 test images from {made.folder}/photos, fingerprint "
        rf"{made.single.data.tags['data.fingerprint']}\), or give their folder with data.root=PATH",
        done.code,
    )
    assert num_runs() == before


def test_images_that_are_gone_are_named(made, again):
    told = again(made.single, "data.root=nowhere").code
    assert told.startswith(
        f"error: data.root=nowhere: there is no such folder; restore the images of {made.single.info.run_name} "
    )


def test_images_of_a_project_that_was_moved_are_those_at_the_same_place_in_it(made, again, forge):
    config = artifact(made.single, "config.yaml").replace("root: photos", f"root: /gone/{made.folder.name}/photos")
    done = again(forge(made.single, config=config))
    assert done.code == 0
    assert f"/gone/{made.folder.name}/photos is gone; taking photos of this folder" in done.told


def test_part_and_sweep_name_the_run_to_give(made, again):
    part, whole = child_runs(made.group)[0], made.group.info.run_id
    assert (
        again(part).code
        == f"error: {part.info.run_id}: the run seed 0 is a part of another run; give that run, {whole}"
    )
    assert re.fullmatch(
        r"error: \w+: the run photos tiny is a whole sweep; give one of its trials, or repeat the sweep: "
        r"train --multirun .*",
        again(made.sweep).code,
    )


@pytest.mark.parametrize("change", [{"without_tags": ("version.",)}, {"config": None}])
def test_run_of_another_program_is_refused(change, made, again, forge):
    told = again(forge(made.single, **change)).code
    assert re.fullmatch(
        r"error: \w+: the run forged (was made by another program|has no config.yaml; it ended before .*).*", told
    )


def test_run_that_would_call_what_is_not_ours_is_refused_unless_it_is_allowed(made, again, forge, monkeypatch):
    monkeypatch.syspath_prepend(str(made.folder))
    (made.folder / "own_data.py").write_text("def load():\n    raise SystemExit('called')\n")
    config = artifact(made.single, "config.yaml")
    own = re.sub(r"^data:\n(  .*\n)*", "data:\n  _target_: own_data.load\n", config, flags=re.MULTILINE)
    forged, before = forge(made.single, config=own), num_runs()
    assert again(forged).code == (
        f"error: {forged.info.run_id}: its config.yaml: would call own_data.load, which is not ours; "
        "if you know what it does, add allow_target=own_data.load"
    )
    assert again(forged, "allow_target=other", "allow_target=own_data.load").code == "called"
    assert num_runs() == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"data": "[" * 100_000}, "make no sense (ValidationError); give another run"),
        ({"data": '{"images": 3}'}, "make no sense (ValidationError); give another run"),
        (
            {"config": "a: " + "x" * 2_000_000},
            "config.yaml of the run forged has 2,000,003 bytes, allowed: 1,048,576",
        ),
    ],
)
def test_files_that_are_none_of_ours_are_refused_in_one_line(change, told, made, again, forge):
    code = again(forge(made.single, **change)).code
    assert code.startswith("error: ")
    assert told in code


def test_settings_of_other_code_are_named_with_its_commit(made, again, forge):
    config = artifact(made.single, "config.yaml")
    older = config.replace("  padding: same\n", "").replace("seed: 0\n", "seed: 0\nspeed: 1\n", 1)
    forged = forge(made.single, config=older)
    mlflow.MlflowClient().set_tag(forged.info.run_id, "git.commit", "abc123")
    assert again(forged).code == (
        f"error: {forged.info.run_id}: the settings of forged do not fit this code (speed: no such setting here; "
        "model.padding: no value given); reproduce it with the code that made it, commit abc123"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no run: give the id of one run; --help shows what there is"),
        (["a", "b"], "a b: give the id of one run"),
        (["a", "model.l2=0"], "model.l2: no such setting; allowed: tracking.uri, data.root"),
        (["a", "--multirun"], "unrecognized arguments: --multirun"),
        (["a", "allow_target=a b"], "allow_target=a b: should be PACKAGE.MODULE.FUNCTION or PACKAGE.MODULE"),
        (["a", "--tolerance=-1"], "--tolerance -1.0: should be a number of at least 0"),
        (
            ["a", "tracking.uri=sqlite:///nothing.db"],
            "tracking.uri=sqlite:///nothing.db: there is no such database here",
        ),
        (["a", "tracking.uri=http://127.0.0.1:9"], "the tracking server does not answer"),
    ],
)
def test_error_of_the_command_line_is_one_line(arguments, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["reproduce", *arguments])
    with pytest.raises(SystemExit) as end:
        reproduce.main()
    told = str(end.value)
    assert told.startswith("error: ")
    assert message in told
    assert "\n" not in told


# The command as it is typed.


def reproduced(made, store, *arguments):
    environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db", "HOME": str(made.folder)}
    return started_command("cnn_sweeps.reproduce", made.folder, *arguments, **environment)


def refused_in_own_process(made, store, *arguments):
    """Give the line on stderr, and the packages that were imported until then."""
    done = reproduced(made, store, "0" * 32, *arguments)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    return line, done.imported


def test_unknown_run_is_told_before_tensorflow_is_imported(made, store):
    line, imported = refused_in_own_process(made, store)
    told = f"{'0' * 32}: no such run in sqlite:///{store}/mlflow.db"
    assert line == f"error: {told}; give the id that MLflow's page of the run shows"
    assert not {"tensorflow", "keras"} & imported


def test_store_that_is_not_there_is_told_before_mlflow_is_imported(made, store):
    line, imported = refused_in_own_process(made, store, "tracking.uri=sqlite:///nowhere.db")
    assert "sqlite:///nowhere.db: there is no such database here" in line
    assert not {"mlflow", "tensorflow", "keras"} & imported


def test_help_shows_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "cnn_sweeps.reproduce", "--help"], capture_output=True, text=True, check=True
    )
    assert "python -m cnn_sweeps.reproduce RUN_ID\n" in done.stdout


# Two runs side by side.


@pytest.fixture
def compared(made, store, monkeypatch, capsys):
    """Give what `python -m cnn_sweeps.compare` says of two runs."""
    monkeypatch.chdir(made.folder)
    mlflow.set_tracking_uri(f"sqlite:///{store}/mlflow.db")

    def compare_runs(*runs):
        compare([*(run.info.run_id for run in runs), f"tracking.uri=sqlite:///{store}/mlflow.db"])
        return capsys.readouterr().out

    return compare_runs


def test_two_trials_are_compared_by_their_settings_and_on_the_images_that_they_were_validated_on(made, compared):
    told = compared(*made.trials)
    assert re.search(r"^model\.dropout +0\.1 +0\.3$", told, re.MULTILINE)
    assert "the same data" in told
    assert "model.filters" not in told
    assert re.search(r"^final_val_log_loss +0\.\d+ +0\.\d+$", told, re.MULTILINE)
    assert "on the same 12 validation images, which may have chosen these runs (95 % intervals):\n  log loss " in told
    assert "This compares only two trainings; another seed may change either" in told


def test_runs_that_were_tested_are_compared_on_the_test_images_and_of_several_trainings_the_mean_is(made, compared):
    told = compared(made.single, made.group)
    assert re.search(r"^repeats +1 +2$", told, re.MULTILINE)
    assert "on the same 12 test images (95 % intervals):" in told
    losses = [run.data.metrics["test_log_loss"] for run in (made.single, made.group)]
    difference = float(re.search(r"  log loss (\S+) \(.* to .*\): (may be|more than) chance", told)[1])
    assert difference == pytest.approx(losses[1] - losses[0], abs=2e-4)
    assert "another seed may change" not in told


def test_metrics_that_only_one_of_two_runs_has_are_counted(made, compared):
    told = compared(made.single, made.trials[0])
    assert "test_accuracy" not in told
    assert re.search(r"^metrics that the other lacks +\d+ +0$", told, re.MULTILINE)


def test_trial_of_several_trainings_is_compared_by_their_mean_though_it_has_a_file_of_the_first_as_it_was_tested(
    made, compared
):
    before = compared(made.trials[0], made.group)
    text = artifact(made.single, "val_images.csv")
    mlflow.MlflowClient().log_text(made.group.info.run_id, text, "val_images.csv")
    assert compared(made.trials[0], made.group) == before


def test_what_is_chance_is_not_told_where_single_images_are_not_known_or_are_others(made, compared, forge):
    nothing = forge(made.single)
    cannot = "cannot tell whether the difference is chance"
    told = compared(made.single, nothing)
    assert f"{cannot}: forged kept no results of single images" in told
    assert "the same settings\nthe same data\nthe same metrics\n" in told
    others = forge(made.single)
    header, row, *rows = artifact(made.single, "test_images.csv").splitlines()
    text = "\n".join([header, f"0{row[1:]}" if row[0] != "0" else f"1{row[1:]}", *rows])
    mlflow.MlflowClient().log_text(others.info.run_id, text, "test_images.csv")
    assert f"{cannot}: they have different test images" in compared(made.single, others)
    mlflow.MlflowClient().log_text(others.info.run_id, "a,b\n", "test_images.csv")
    with pytest.raises(TrackingError, match=r"test_images\.csv of the run forged makes no sense"):
        compared(made.single, others)


def test_two_runs_are_to_be_given():
    with pytest.raises(ConfigError, match="a b c: give the ids of two runs"):
        compare(["a", "b", "c"])
    with pytest.raises(ConfigError, match="a: is given twice"):
        compare(["a", "a"])


def test_what_is_longer_than_a_column_stands_below_its_name_so_that_lines_stay_narrow(made, compared, forge):
    config = artifact(made.single, "config.yaml").replace("root: photos", f"root: {'photos/' * 10}")
    told = compared(made.single, forge(made.single, config=config)).splitlines()
    at = told.index("data.root")
    assert told[at + 1 : at + 3] == ["  first:  photos", f"  second: {'photos/' * 10}"]
    assert max(map(len, told[2 : told.index("the same metrics")])) <= 80


@pytest.mark.parametrize(
    ("losses", "right", "verdict"),
    [
        ([0.1, -0.1], [0, 0], "Neither is better by more than chance."),
        ([-0.5, -0.4], [1, 1], "By more than chance the second is better in log loss and accuracy."),
        ([0.5, 0.4], [1, 1], "By more than chance the first is better in log loss, the second is better in accuracy."),
    ],
)
def test_which_run_is_better_is_said_in_one_sentence(losses, right, verdict):
    names = np.array([f"{number:02}" for number in range(20)])
    first = PerImage(names, np.ones(20), np.zeros(20))
    second = PerImage(names, 1 + np.resize(losses, 20), np.resize(right, 20).astype(float))
    assert [*judge_images(first, second, "test images")][-1] == verdict
