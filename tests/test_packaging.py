"""The wheel carries all it needs and works from any folder; a checkout has places for what runs leave."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", folder, PROJECT], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_wheel_carries_the_config_groups_and_nothing_of_tests_or_benchmarks(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    options = {str(file.relative_to(PROJECT)) for file in (PROJECT / "conf").rglob("*.yaml")}
    assert options <= {name.removeprefix("cnn_sweeps/") for name in names}
    assert {name.split("/")[0].split("-")[0] for name in names} == {"cnn_sweeps", "hydra_plugins"}
    assert "hydra_plugins/__init__.py" not in names  # it is a namespace that other plugins share


def test_installed_wheel_composes_from_any_folder(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    shown = subprocess.run(
        [sys.executable, "-m", "cnn_sweeps.train", "model=residual", "--cfg", "job"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "cnn_sweeps.models.build_residual" in shown
    searched = [sys.executable, "-c", "import cnn_sweeps.settings.command_line as c; print(c.CONF_DIR)"]
    found = subprocess.run(
        searched, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(site)}, capture_output=True, text=True, check=True
    ).stdout
    assert Path(found.strip()) == site / "cnn_sweeps/conf"


def test_checkout_has_folders_for_what_runs_leave_and_git_takes_nothing_of_it():
    if not (PROJECT / ".git").exists():
        pytest.skip("this is no checkout")
    kept, left = ["mlruns/.gitignore", "outputs/.gitignore"], ["mlruns/1/run", "outputs/run", "docs/outputs/run"]

    def git(*words):
        done = subprocess.run(["git", *words], cwd=PROJECT, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    assert git("ls-files", "mlruns", "outputs") == kept
    assert git("check-ignore", "--no-index", *kept, *left) == left
