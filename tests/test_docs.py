"""The pages in docs/ say what the program does."""

import runpy
import shlex
from pathlib import Path

import pytest
from conftest import compose
from tiny_sweeps import write_dark_and_light_photos

from cnn_sweeps.sweep import plan
from cnn_sweeps.sweep.space import extreme_values

DOCS = Path(__file__).parent.parent / "docs"


def test_settings_page_is_what_the_configuration_files_and_the_schema_give():
    script = runpy.run_path(str(DOCS / "write_settings.py"))
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == script["settings_page"](), (
        "run python docs/write_settings.py"
    )


def test_every_setting_of_the_settings_page_says_what_it_may_be_or_means():
    rows = [
        line.strip("|").split(" | ") for line in (DOCS / "settings.md").read_text().splitlines() if line[:3] == "| `"
    ]
    assert len(rows) > 100
    assert not [key for key, _, allowed, meaning in rows if not (allowed.strip() or meaning.strip())]


PAGE = (DOCS / "how_do_i.md").read_text(encoding="utf-8")
OTHER_PAGES = [DOCS.parent / "README.md", DOCS / "sweeps.md", DOCS / "own_code.md"]  # their runs: test_readme.py


def training_commands(text):
    lines = (line.partition("  #")[0].strip() for line in text.splitlines())
    return sorted(
        {shlex.join(shlex.split(line)[3:]) for line in lines if line.startswith("python -m cnn_sweeps.train")}
    )


RUNS = [command for command in training_commands(PAGE) if "--multirun" not in command]
NOT_CHECKED = (  # what says how long, by how many and under which name: every other test of a sweep says it
    "hydra.sweeper.study_name",
    "hydra.sweeper.n_trials",
    "hydra.sweeper.timeout_s",
    "hydra.sweeper.trial_timeout_s",
    "hydra.sweeper.n_jobs",
    "hydra.launcher.",
    "hydra/launcher=",
)
SWEEPS = sorted(
    {
        shlex.join(word for word in shlex.split(command) if not word.startswith(NOT_CHECKED))
        for text in [PAGE, *(page.read_text(encoding="utf-8") for page in OTHER_PAGES)]
        for command in training_commands(text)
        if "--multirun" in command
    }
)


def test_page_answers_twenty_questions_each_with_a_command():
    questions = PAGE.split("\n## ... ")[1:]
    assert len(questions) >= 20
    assert all("\n    " in question for question in questions)


@pytest.mark.parametrize("arguments", RUNS)
def test_settings_of_each_run_are_accepted(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mobilenet_v2.weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    words = [word.replace("PATH", "photos") for word in shlex.split(arguments) if "=" in word and word != "model=mine"]
    assert compose(*words)


@pytest.mark.parametrize("arguments", SWEEPS)
def test_each_sweep_is_checked_and_begins(arguments, run_train, tmp_path, monkeypatch):
    """As it stands, but for its name and its workers, and the time for starting trials is over at once.

    Of a preset, the first values are checked: all of them, in test_sweep.py.
    """
    if "PATH" in arguments:
        write_dark_and_light_photos(tmp_path / "photos")
    if not any(sign in arguments for sign in (",", "(")):
        monkeypatch.setattr(plan, "extreme_values", lambda distribution: extreme_values(distribution)[:1])
    (tmp_path / "my_module.py").write_text("def suggest(config, trial):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    words = [word.replace("PATH", "photos") for word in shlex.split(arguments)]
    with pytest.raises(SystemExit, match="no trial completed"):
        run_train(*words, "hydra/launcher=basic", "hydra.sweeper.timeout_s=1e-9")
    assert "0 done, 0 pruned, 0 failed, 0 running" in next(tmp_path.glob("outputs/sweeps/*/sweep.log")).read_text()
