"""What the README and the pages that it sends people to tell them to type works."""

import importlib
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny_backbones import BACKBONE
from tiny_sweeps import write_dark_and_light_photos

from cnn_sweeps.errors import TrackingError

PROJECT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/sweeps.md", "docs/own_code.md", "docs/speed.md")
LINKED_PAGES = sorted(["README.md", *(f"docs/{file.name}" for file in (PROJECT / "docs").glob("*.md"))])
TEXT = "\n".join((PROJECT / page).read_text(encoding="utf-8") for page in PAGES)
COMMANDS = [
    line.partition("  #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
    if line
]
TRAINING = sorted(  # the sweeps: test_docs.py
    {
        shlex.join(shlex.split(line)[3:])
        for line in COMMANDS
        if line.startswith("python -m cnn_sweeps.train") and "--multirun" not in line
    }
    - {"--help"}
)

BENCHMARKS = sorted(line for line in COMMANDS if line.startswith("python benchmarks/"))


def block(language: str, containing: str) -> str:
    """Give the only block of the pages in a language that contains a text."""
    blocks = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    (found,) = [text for text in blocks if containing in text]
    return found


@pytest.mark.parametrize("page", LINKED_PAGES)
def test_links_lead_to_files(page):
    file = PROJECT / page
    for target in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", file.read_text(encoding="utf-8")):
        assert (file.parent / target).exists(), target


def test_every_command_is_one_of_those_tested_here_or_by_the_installation_itself():
    others = {
        "pip install -e . && python -m cnn_sweeps.train",
        "pip install -e '.[test]' && pytest",
        "mlflow ui",  # test_mlflow_ui.py
        'eval "$(cnn-sweeps-train -sc install=bash)"',
        "pip install optuna-dashboard && optuna-dashboard outputs/sweeps/first/study.journal",
        *BENCHMARKS,
    }
    tested_elsewhere = (
        "python -m cnn_sweeps.",
        "mlflow models serve",
        "printf ",
        "python -c ",
        "pip install -e '.[onnx]'",
    )
    assert {line for line in COMMANDS if not line.startswith(tested_elsewhere)} == others


@pytest.mark.parametrize("arguments", TRAINING)
def test_training_command_runs(arguments, run_train, tmp_path, monkeypatch, tiny_weights):
    """Each as it stands, but for one epoch, a small image and network and PATH, and without pictures and downloads."""
    write_dark_and_light_photos(tmp_path / "photos")
    (tmp_path / "my_conf/model").mkdir(parents=True)
    (tmp_path / "my_conf/model/mine.yaml").write_text(block("yaml", containing="build_mine"))
    (tmp_path / "my_models.py").write_text(block("python", containing="build_mine"))
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


@pytest.mark.parametrize("command", [line for line in COMMANDS if re.search(r"cnn_sweeps\.(predict|export)", line)])
def test_command_on_a_kept_model_is_accepted_as_far_as_there_is_one(command, tmp_path, monkeypatch):
    """Each as it stands, in a folder where nothing was trained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "PHOTOS").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "PHOTOS/a.png")
    *_, program, arguments = re.split(r"python -m cnn_sweeps\.(\w+)", command)
    run = getattr(importlib.import_module(f"cnn_sweeps.{program}"), program)
    with pytest.raises(TrackingError, match="there is no such database here"):
        run(shlex.split(arguments))


def test_help_command_runs():
    assert "python -m cnn_sweeps.train --help" in COMMANDS
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
    assert "--repeats" in told
