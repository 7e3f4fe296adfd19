"""What README and the pages in docs/ tell people to type works; of sweeps and settings: test_docs.py."""

import importlib
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from pages import PAGES, PROJECT, TRIED_PAGES, block, commands, not_in_others, training_commands
from PIL import Image
from tiny_backbones import BACKBONE
from tiny_sweeps import write_dark_and_light_photos

from cnn_sweeps import reproduce
from cnn_sweeps.deliver import deliver
from cnn_sweeps.doctor.__main__ import doctor
from cnn_sweeps.errors import StudyError, TrackingError

ALONE = [each for each in training_commands(*TRIED_PAGES) if not re.search(r"--(multirun|help|cfg)", each)]
TRAINING = ["", *not_in_others(ALONE)]
BENCHMARKS = [command for command in commands() if command.startswith("python benchmarks/")]
OF_DASK = [command for command in commands() if re.match(r"(\w+=\S+ )*dask ", command)]
OF_MODELS = [command for command in commands() if re.search(r"cnn_sweeps\.(predict|export|compare)", command)]
OF_RECORDS = [command for command in commands() if re.search(r"cnn_sweeps\.(reproduce|deliver|doctor)", command)]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    for target, heading in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", PAGES[page]):
        file = (PROJECT / page).parent / target if target else PROJECT / page
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}


def test_every_command_is_one_of_those_tested():
    here = {*BENCHMARKS, *OF_DASK, *OF_MODELS, *OF_RECORDS}
    here |= {command for command in commands() if command.startswith("python -m cnn_sweeps.train")}
    installing = {  # .ci/run, test_packaging.py
        "python -m venv .venv && . .venv/bin/activate",
        "pip install -e .",
        "pip install -e '.[test]' && pytest",
        *(f"pip install -e '.[{extra}]'" for extra in ("dask", "onnx", "postgresql", "slurm")),
    }
    by_kind = (
        "mlflow ui",  # test_mlflow_ui.py
        *("mlflow models serve ", "printf ", "python -c "),  # use/test_serving.py; the proxy: test_servers.py
        *("sudo -u postgres psql ", "export ", "mlflow server "),  # test_servers.py
        *("(umask 077 && openssl ", "for role in ", "  export ", "done"),  # sweep/test_dask.py
        *("tests/slurm_node.sh ", "python docs/slurm_cluster.py ", "pytest tests/sweep/test_slurm.py"),
        "pip install optuna-dashboard && optuna-dashboard outputs/sweeps/first/study.journal",  # of others
        'eval "$(cnn-sweeps-train -sc install=bash)"',
    )
    assert [each for each in commands() if each not in here | installing and not each.startswith(by_kind)] == []


@pytest.mark.parametrize("arguments", TRAINING)
def test_training_command_runs(arguments, run_train, tmp_path, monkeypatch, tiny_weights):
    """Each as it stands, but for one epoch, a small image and network and PATH, and without pictures and downloads."""
    write_dark_and_light_photos(tmp_path / "photos")
    (tmp_path / "my_conf/model").mkdir(parents=True)
    (tmp_path / "my_conf/model/mine.yaml").write_text(block("docs/own_code.md", "yaml", containing="build_mine"))
    (tmp_path / "my_models.py").write_text(block("docs/own_code.md", "python", containing="build_mine"))
    monkeypatch.syspath_prepend(tmp_path)

    words = [word.replace("PATH", "photos") for word in shlex.split(arguments)]
    smaller = ["data.image_size=32", f"data.cache_dir={tmp_path}/cache"] if "data.root=photos" in words else []
    if "model=pretrained" in words:
        smaller += [*BACKBONE, f"model.weights={tiny_weights}"]
    elif not any(word.startswith(("model=mine", "model.filters=")) for word in words):
        smaller += ["model.filters=[4]"]
    if not any(word.startswith("model=") for word in words):
        smaller += ["model.dense_units=[4]"]
    run_train(*words, *smaller, "training.epochs=1", "tracking.log_model=false", "evaluation.pictures=none")
    (log,) = tmp_path.glob("outputs/*/*/train.log")
    assert "best epoch 1 of 1" in log.read_text()


@pytest.mark.parametrize("command", OF_MODELS)
def test_command_on_what_was_kept_is_accepted_as_far_as_there_is_any(command, tmp_path, monkeypatch):
    """Each as it stands, in a folder where nothing was trained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "PHOTOS").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "PHOTOS/a.png")
    program, arguments = re.fullmatch(r"python -m cnn_sweeps\.(\w+) (.*)", command).groups()
    run = getattr(importlib.import_module(f"cnn_sweeps.{program}"), program)
    with pytest.raises(TrackingError, match="there is no such database here"):
        run(shlex.split(arguments))


@pytest.mark.parametrize("command", OF_RECORDS)
def test_command_on_a_record_is_accepted_as_far_as_there_is_one(command, tmp_path, monkeypatch):
    """Each as it stands, in a folder where nothing was trained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "outputs").mkdir()
    _, _, program, *arguments = shlex.split(command)
    if program == "cnn_sweeps.doctor":
        missing = (StudyError, "no such sweep here") if arguments[0] != "--fix" else (TrackingError, "no such database")
        with pytest.raises(missing[0], match=missing[1]):
            doctor(arguments)
    elif program == "cnn_sweeps.deliver":
        deliver(arguments)
    else:
        monkeypatch.setattr(sys, "argv", ["reproduce", *arguments])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        with pytest.raises(SystemExit, match="there is no such database here"):
            reproduce.main()


@pytest.mark.parametrize("command", OF_DASK)
def test_dask_knows_the_options(command):
    words = [word for word in shlex.split(command) if not word.startswith("CUDA_VISIBLE_DEVICES=")]
    program = importlib.import_module(f"distributed.cli.dask_{words[1]}").main
    assert program.make_context(words[1], words[2:])  # which starts nothing


def test_help_command_runs():
    assert "python -m cnn_sweeps.train --help" in commands()
    command = [sys.executable, "-m", "cnn_sweeps.train", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Groups, chosen with group=option" in shown


def test_completion_script_installs():
    install = f'eval "$({Path(sys.executable).parent}/cnn-sweeps-train -sc install=bash)"'
    show = ["bash", "-c", f"{install} && complete -p cnn-sweeps-train"]
    script = subprocess.run(show, capture_output=True, text=True, check=True)
    assert "hydra_bash_completion" in script.stdout


@pytest.mark.parametrize("command", BENCHMARKS)
def test_benchmark_command_exists_and_says_what_it_measures(command, monkeypatch, capsys):
    _, file = shlex.split(command)
    monkeypatch.syspath_prepend(PROJECT / "benchmarks")  # as in a process of its own
    monkeypatch.setattr(sys, "argv", [file, "--help"])
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_path(str(PROJECT / file), run_name="__main__")
    told = capsys.readouterr().out
    assert file in told
    assert "--repeats" in told or "--seeds" in told
