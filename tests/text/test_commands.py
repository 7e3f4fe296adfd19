"""Commands that are shown run this program again."""

import sys

import pytest

from cnn_sweeps.text.commands import describe_command, one_word_a_line, short_overrides


@pytest.mark.parametrize("flags", [["--config-dir", "mine"], ["--config-dir=mine"], ["-cd", "mine"], ["-cd=mine"]])
def test_own_config_groups_are_in_the_command(flags, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", *flags, "seed=1"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", *flags, "seed=1"])
    assert describe_command(["seed=2"]).split() == ["python", "train.py", *flags, "seed=2"]


def test_command_of_several_lines_is_the_same_to_a_shell():
    variables, program = "OMP_NUM_THREADS=1 TF_NUM_INTEROP_THREADS=1", "python train.py --config-dir 'a b'"
    lines = [variables, program, "'model.filters=[4, 8]'", "model.l2=1e-2"]
    assert one_word_a_line(" ".join(lines)).split(" \\\n  ") == lines
    assert one_word_a_line("python -m cnn_sweeps.train") == "python -m cnn_sweeps.train"


def test_overrides_are_short_where_that_tells_them_apart_and_the_last_of_a_key_counts():
    overrides = ["model.l2=0.1", "optimizer=sgd", "+mine.rate=1", "optimizer.rate=2", "~model.old", "model.l2=a.b=c"]
    assert short_overrides(overrides) == ["l2=a.b=c", "optimizer=sgd", "mine.rate=1", "optimizer.rate=2", "~model.old"]
