"""The command line as a user meets it: fast answers, one line for an error, exit codes."""

import gc
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from commands import SLOW, started_command

from cnn_sweeps import reproduce, train
from cnn_sweeps.settings import command_line
from cnn_sweeps.system.ends import exit_on_signals


def command(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "cnn_sweeps.train", *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("argument", "code"),
    [("--help", 0), ("--cfg=job", 0), ("model.l3=1", 1), ("model=cnnn", 1), ("training.epochs=0", 1)],
)
def test_what_needs_no_training_imports_nothing_slow_and_an_error_is_one_line(argument, code, tmp_path):
    done = started_command("cnn_sweeps.train", tmp_path, argument)
    assert "hydra" in done.imported
    assert not done.imported & SLOW
    assert done.returncode == code
    assert not code or re.fullmatch(r"error: .*\n", done.stderr)


def run_without(missing, folder, *arguments):
    """Run the command in a process in which importing one of the libraries fails."""
    script = (
        "import runpy, sys\n"
        f"sys.modules |= dict.fromkeys({missing})\n"  # so that their import fails
        "runpy.run_module('cnn_sweeps.train', run_name='__main__', alter_sys=True)"
    )
    words = [sys.executable, "-c", script, *arguments, "data=synthetic"]
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError" in done.stderr
    return done.stdout


@pytest.mark.parametrize("arguments", [[], ["--multirun", "hydra/launcher=basic"]])
def test_in_an_empty_folder_says_what_it_does_before_it_imports_what_is_slow(arguments, tmp_path):
    shown = run_without(["mlflow", "tensorflow"], tmp_path, *arguments)
    assert "making MLflow's database mlflow.db; this is done once" in shown


def test_a_sweep_says_its_name_and_what_comes_first_before_all_that_takes_time(tmp_path):
    missing = ["optuna", "sqlalchemy", "numpy", "PIL"]
    shown = run_without(missing, tmp_path, "--multirun", "hydra.sweeper.study_name=mine")
    assert shown == "sweep mine: checking what it searches and the settings of its trials\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("module", "arguments"), [(train, []), (reproduce, ["0" * 32])])
def test_garbage_is_collected_from_the_task_on(module, arguments, tmp_path, monkeypatch):
    """Before, few objects of many are free: it would take a part of the time until a command answers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    is_on, run_application = [], command_line.run_application

    def run(_task):
        is_on.append(gc.isenabled())
        run_application(lambda _config: is_on.append(gc.isenabled()))

    monkeypatch.setattr(command_line, "run_application", run)
    try:
        module.main()
    finally:
        gc.enable()
    assert is_on == [False, True]


def shown_by(run_train, capsys, *arguments):
    """Run the command in this process; give what it shows."""
    capsys.readouterr()
    with suppress(SystemExit):
        run_train(*arguments)
    return capsys.readouterr().out


def test_help_lists_groups_options_settings_and_examples(run_train, capsys):
    shown = shown_by(run_train, capsys, "--multirun", "--help")
    assert "  model: cnn, pretrained, residual\n" in shown
    assert "  regularization: dropout, full, l2, none\n" in shown
    assert "  dropout: 0.5" in shown
    assert shown.count("  python -m cnn_sweeps.train") == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.l3=1"], "model.l3: no such setting (did you mean model.l2?)"),
        (["modle=cnn"], "modle: no such setting (did you mean model?)"),
        (["epochs=3"], "epochs: no such setting (did you mean training.epochs?)"),
        (["n_trials=3"], "n_trials: no such setting (did you mean hydra.sweeper.n_trials?)"),
        (["data.root=photos"], "data.root: no such setting here; add data=folder;"),
        (["optimizer.momentum=0.9"], "optimizer.momentum: no such setting here; add optimizer="),
        (["data", "=", "folder"], "data: is no setting; type key=value, without spaces around the ="),
        (["--multirum"], "unrecognized arguments: --multirum; --help shows what there is"),
        (["-multirun"], "argument --multirun/-m: ignored explicit argument 'ultirun'; --help shows what there is"),
        (["model=cnnn"], "model=cnnn: no such option (did you mean cnn?); allowed: cnn, pretrained, residual"),
        (["--multirun", "hydra/sweeper=basic", "seed=1,2"], "hydra/sweeper: allowed: optuna"),
        (["--multirun", "--cfg", "job"], "Only one of --run, --multirun, --cfg"),
        (["experiment=x"], "experiment=x: no such option; allowed: ablation, dogs_vs_cats"),
        (["training.epochs=0"], "training.epochs=0: should be greater than or equal to 1"),
        (["model=null"], "Config group override must be a string or a list"),
        (["data=folder", f"data.root={'x' * 300}"], "cannot be read"),
        (["model.l2=${nothing}"], "Interpolation key 'nothing' not found"),
        (["model.filters=[8,8,8,8,8,8]"], "images of 28x28 pixels: 6 blocks"),
        (["data=synthetic", "data.image_size=1000000"], "data.image_size=1000000: should be a number of pixels"),
        (
            ["data=synthetic", "data.image_size=2048", "data.num_images=2000000"],
            "there is not enough memory (Unable to",
        ),
        (["model.l2=="], """model.l2==: Hydra cannot read this value; if it is a text, type 'model.l2="="'"""),
        (["data=folder", "data.root=照片"], """type 'data.root="照片"'"""),
        (["data=folder", "data.root=it's"], """type 'data.root="it'"'"'s"'"""),
        (
            ["data=folder", "data.root='ph\udcffotos'"],
            r"data.root='ph\xffotos': holds bytes that are no UTF-8, which no",
        ),
        (
            ["data=folder", "data.root=[1]"],
            """[1]: should be a valid string; if it is a text, type 'data.root="[1]"'""",
        ),
        (["data=folder", "data.root=a,b"], """for a list, type 'data.root=[a,b]'; for a text, 'data.root="a,b"'"""),
        (["--config-dir", "nowhere"], "--config-dir=nowhere: no such folder"),
        (["hydra.run.dir=/dev/null/x"], "/dev/null"),
        (["model._target_=no.such.function"], "model._target_=no.such.function: there is no module no"),
        (["data=folder", "data.root=nowhere"], "data.root=nowhere: does not exist"),
        (["tracking.uri=http://127.0.0.1:9"], "tracking.uri=http://127.0.0.1:9: the tracking server does not answer"),
        (["tracking.uri=sqlite:///no/where/x.db"], "the folder of the database does not exist"),
    ],
)
def test_error_says_in_one_line_what_is_wrong_and_what_is_allowed(arguments, message, run_train):
    with pytest.raises(SystemExit) as end:
        run_train(*arguments)
    told = str(end.value)
    assert told.startswith("error: ")
    assert message in told
    assert "\n" not in told


def test_name_that_another_sweep_gives_its_confirmation_is_refused_before_anything_is_made(run_train, capsys):
    before = sorted(Path().iterdir())
    with pytest.raises(SystemExit, match=r"study_name=mine\.confirmation: a sweep mine gives this name") as end:
        run_train("--multirun", "hydra.sweeper.study_name=mine.confirmation")
    assert "\n" not in str(end.value)
    assert not capsys.readouterr().out
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize(
    "words",
    [
        ["--cfg", "job", "model.l2=0.25", "-p", "model", "optimizer=sgd"],
        ["model.l2=0.25", "--cfg=job", "optimizer=sgd", "-p", "model"],
        ["-p", "model", "model.l2=0.25", "~tracking", "-c", "job", "optimizer=sgd"],
    ],
)
def test_flags_may_stand_anywhere_among_settings(words, run_train, capsys):
    assert "l2: 0.25" in shown_by(run_train, capsys, *words)


def test_full_traceback_on_request(tmp_path):
    assert "Traceback" in command(tmp_path, "training.epochs=0", HYDRA_FULL_ERROR="1").stderr


@pytest.fixture
def my_data(tmp_path, monkeypatch):
    """Write the user's own code; give the settings that call its function `load`."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_data", raising=False)

    def write(text):
        (tmp_path / "my_data.py").write_text(text)
        return ["data=synthetic", "data._target_=my_data.load"]

    yield write
    sys.modules.pop("my_data", None)


def test_bug_in_a_users_own_code_keeps_its_traceback(my_data, run_train):
    with pytest.raises(ZeroDivisionError) as error:
        run_train(*my_data("def load(**settings):\n    return 1 / 0\n"))
    assert Path(str(error.traceback[-1].path)).name == "my_data.py"


def test_wrong_argument_for_a_users_function_is_named(my_data, run_train):
    with pytest.raises(SystemExit) as end:
        run_train(*my_data("def load(num_images):\n    return num_images\n"))
    told = "data: my_data.load got an unexpected keyword argument 'num_classes'; it takes: num_images"
    assert told in str(end.value)
    assert "\n" not in str(end.value)


def test_config_dir_adds_options_and_goes_before_those_of_the_same_name(run_train, tmp_path, capsys):
    (tmp_path / "mine/optimizer").mkdir(parents=True)
    (tmp_path / "mine/optimizer/adam.yaml").write_text("_target_: mine\nlearning_rate: 0.25\n")
    (tmp_path / "mine/optimizer/other.yaml").write_text("_target_: other\n")
    shown = shown_by(run_train, capsys, "--config-dir", "mine", "--cfg", "job", "-p", "optimizer")
    assert "learning_rate: 0.25" in shown
    assert "_target_: other" in shown_by(run_train, capsys, "-cd=mine", "optimizer=other", "--cfg", "job")
    shown = shown_by(run_train, capsys, "--config-dir=mine", "--help")
    assert "optimizer: adam, adamw, other, rmsprop, sgd" in shown


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("model=", "model=residual"), ("regularization=", "regularization=l2"), ("model.l", "model.l2=")],
)
def test_tab_completion_offers_options_and_settings(typed, offered, tmp_path):
    line = f"cnn-sweeps-train {typed}"
    done = subprocess.run(
        [Path(sys.executable).parent / "cnn-sweeps-train", "-sc", "query=bash"],
        cwd=tmp_path,
        env=os.environ | {"COMP_LINE": line, "COMP_POINT": str(len(line))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert offered in done.stdout.split()


def test_output_that_is_no_longer_read_is_no_error(tmp_path):
    line = f"{sys.executable} -m cnn_sweeps.train --help | head -1"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_hangup_that_nohup_has_ignored_stays_ignored(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # to be as it was afterwards
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        exit_on_signals()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        with pytest.raises(SystemExit, match="143"):
            signal.raise_signal(signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
