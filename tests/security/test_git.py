"""No program runs that a repository around the working folder, or around the installation, configures."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cnn_sweeps
from cnn_sweeps.system.libraries import keep_git_from_helpers
from cnn_sweeps.tracking.record import process

PACKAGE = Path(cnn_sweeps.__file__).parent
OUR_OWN = (PACKAGE.parent / ".git").exists()


@pytest.fixture
def trap(tmp_path):
    """A repository whose configuration names a program wherever `git status` heeds one, and what the program leaves."""
    folder, evidence = tmp_path / "repository", tmp_path / "evidence"
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\necho "$0 $@" >> {evidence}\ncat\n')
    program.chmod(0o755)
    (folder / "hooks").mkdir(parents=True)
    (folder / "hooks/post-index-change").symlink_to(program)
    (folder / ".gitattributes").write_text("*.txt filter=trap diff=trap\n")
    (folder / "a.txt").write_text("a\n")
    git = ["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "a"]):
        subprocess.run([*git, *words], check=True)
    names = ["core.fsmonitor", "filter.trap.clean", "filter.trap.process", "diff.trap.textconv", "core.sshCommand"]
    for name in names:
        subprocess.run([*git, "config", name, program], check=True)
    subprocess.run([*git, "config", "core.hooksPath", folder / "hooks"], check=True)
    (folder / "a.txt").write_text("another\n")
    return folder, evidence


def test_run_of_an_installed_package_asks_no_repository_around_it_or_around_the_working_folder(trap):
    folder, evidence = trap
    shutil.copytree(PACKAGE, folder / ".venv/cnn_sweeps", ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "from cnn_sweeps.tracking.record.process import describe_process as describe\n"
        "print(sorted(describe()), describe.__code__.co_filename)"
    )
    environment = os.environ | {"PYTHONPATH": str(folder / ".venv")}
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert str(folder / ".venv") in told
    assert "version.cnn-sweeps" in told
    assert "git.commit" not in told
    assert not evidence.exists()


@pytest.mark.skipif(not OUR_OWN, reason="the tests run from no checkout")
def test_commit_is_that_of_the_projects_own_checkout_whatever_the_environment_names(trap, monkeypatch):
    folder, evidence = trap
    own = subprocess.run(["git", "-C", PACKAGE, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GIT_DIR", str(folder / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(folder))
    assert process._git_tags.__wrapped__()["git.commit"] == own.strip()
    assert not evidence.exists()


def test_git_that_mlflow_asks_about_the_programs_folder_runs_nothing(trap, monkeypatch):
    from mlflow.utils.git_utils import get_git_commit

    folder, evidence = trap
    for name in [name for name in os.environ if name.startswith("GIT_")]:  # which a run in this process has set
        monkeypatch.delenv(name)
    assert get_git_commit(str(folder / "a.txt"))
    assert evidence.exists()  # MLflow by itself
    evidence.unlink()
    for name in ("COUNT", "KEY_0", "VALUE_0", "KEY_1", "VALUE_1", "KEY_2", "VALUE_2"):
        monkeypatch.setenv(f"GIT_CONFIG_{name}", "")
    monkeypatch.setenv("GIT_NO_LAZY_FETCH", "0")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")  # a user's own setting stays
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "user.name")
    for _ in range(2):
        keep_git_from_helpers()
    assert os.environ["GIT_CONFIG_COUNT"] == "3"
    assert get_git_commit(str(folder / "a.txt"))
    assert not evidence.exists()
