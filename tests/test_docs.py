"""The pages in docs/ say what the program does; what they tell people to type otherwise: test_readme.py."""

import re
import runpy
import shlex

import pytest
from conftest import compose
from pages import PAGES, PROJECT, TRIED_PAGES, not_in_others, training_commands
from tiny_sweeps import write_dark_and_light_photos

from cnn_sweeps.sweep import plan
from cnn_sweeps.sweep.space import extreme_values

SETTINGS = PAGES["docs/settings.md"]


def test_settings_page_is_what_the_configuration_files_and_the_schema_give():
    script = runpy.run_path(str(PROJECT / "docs/write_settings.py"))
    assert script["settings_page"]() == SETTINGS, "run python docs/write_settings.py"


def test_every_setting_of_the_settings_page_says_what_it_may_be_or_means():
    rows = [line.strip("|").split(" | ") for line in SETTINGS.splitlines() if line[:3] == "| `"]
    assert len(rows) > 100
    assert not [key for key, _, allowed, meaning in rows if not (allowed.strip() or meaning.strip())]


def test_every_page_is_in_the_table_of_contents_and_begins_with_what_the_reader_will_have():
    listed = re.findall(r"^[a-z_]+$", PAGES["docs/index.md"], re.MULTILINE)
    pages = {page: text for page, text in PAGES.items() if page not in ("README.md", "docs/index.md")}
    assert sorted(f"docs/{name}.md" for name in listed) == sorted(pages)
    assert [page for page, text in pages.items() if "\n\nYou will " not in text[:100]] == ["docs/settings.md"]


RUNS = sorted({each for each in training_commands() if "--multirun" not in each} - set(training_commands(*TRIED_PAGES)))
NOT_CHECKED = (  # what says how long, by how many, where and under which name: every other test of a sweep says it
    *("hydra.sweeper.study_name", "hydra.sweeper.storage", "tracking.uri", "hydra.launcher.", "hydra/launcher="),
    *("hydra.sweeper.n_trials", "hydra.sweeper.n_jobs", "hydra.sweeper.timeout_s", "hydra.sweeper.trial_timeout_s"),
)
SWEEPS = not_in_others(
    shlex.join(word for word in shlex.split(arguments) if not word.startswith(NOT_CHECKED))
    for arguments in training_commands(
        *(page for page in PAGES if page != "docs/settings.md")
    )  # of presets: test_sweep.py
    if "--multirun" in arguments
)


@pytest.mark.parametrize("arguments", RUNS)
def test_settings_of_each_run_are_accepted(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("mobilenet_v2.weights.h5", "FILE"):
        (tmp_path / file).write_bytes(b"\x89HDF\r\n\x1a\n")
    assert compose(*(word.replace("PATH", "photos") for word in shlex.split(arguments) if "=" in word))


@pytest.mark.parametrize("arguments", SWEEPS)
def test_each_sweep_is_checked_and_begins(arguments, run_train, tmp_path, monkeypatch):
    """As it stands, but for its name and its workers, and the time for starting trials is over at once.

    Of a preset, the first values are checked: all of them, in test_sweep.py.
    """
    if "PATH" in arguments or "PHOTOS" in arguments:
        write_dark_and_light_photos(tmp_path / "photos")
    if not any(sign in arguments for sign in (",", "(")):
        monkeypatch.setattr(plan, "extreme_values", lambda distribution: extreme_values(distribution)[:1])
    (tmp_path / "my_module.py").write_text("def suggest(config, trial):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PHOTOS", "photos")
    words = [word.replace("PATH", "photos") for word in shlex.split(arguments)]
    with pytest.raises(SystemExit, match="no trial completed"):
        run_train(*words, "hydra/launcher=basic", "hydra.sweeper.timeout_s=1e-9")
    assert "0 completed, 0 pruned, 0 failed, 0 running" in next(tmp_path.glob("outputs/sweeps/*/sweep.log")).read_text()
