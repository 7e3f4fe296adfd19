"""Commands that are shown run this program again."""

import sys

import pytest

from cnn_sweeps.text.commands import describe_command


@pytest.mark.parametrize("flags", [["--config-dir", "mine"], ["--config-dir=mine"], ["-cd", "mine"], ["-cd=mine"]])
def test_own_config_groups_are_in_the_command(flags, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", *flags, "seed=1"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", *flags, "seed=1"])
    assert describe_command(["seed=2"]).split() == ["python", "train.py", *flags, "seed=2"]
