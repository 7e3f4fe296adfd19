"""Calling the functions that a configuration names."""

from fractions import Fraction
from functools import partial

import pytest

from cnn_sweeps.errors import ConfigError, UserError
from cnn_sweeps.settings.targets import OFFERED, call_target, targets_in_text
from cnn_sweeps.sweep.study.address import parse_address
from cnn_sweeps.sweep.study.samplers import build_pruner, build_sampler
from cnn_sweeps.sweep.study.storage import open_storage


def test_target_gets_its_own_and_the_given_arguments():
    assert call_target("data", {"_target_": "fractions.Fraction", "numerator": 3}, denominator=6) == Fraction(1, 2)


def test_lists_arrive_as_lists():
    assert type(call_target("data", {"_target_": "types.SimpleNamespace", "sizes": [1, 2]}).sizes) is list


@pytest.mark.parametrize("target", ["no_such_module.f", "math.no_such_function", "nothing"])
def test_missing_target_is_named(target):
    with pytest.raises(ConfigError, match=f"model._target_={target}: cannot be used"):
        call_target("model", {"_target_": target})


DANGEROUS = ["os.system", "posix.system", "subprocess.run", "builtins.eval", "builtins.exec", "runpy.run_path"]


@pytest.mark.parametrize("target", DANGEROUS)
def test_dangerous_target_stays_blocked(target):
    with pytest.raises(ConfigError, match=f"model._target_={target}: cannot be used"):
        call_target("model", {"_target_": target, "_args_": ["true"]})


@pytest.mark.parametrize(
    "build", [partial(build_sampler, num_started=0), build_pruner, lambda each: open_storage(parse_address(each))]
)
def test_dangerous_target_stays_blocked_in_a_sweep(build, tmp_path):
    with pytest.raises(UserError, match=r"os\.system"):
        build({"_target_": "os.system", "command": f"touch '{tmp_path}/done'"})
    assert not (tmp_path / "done").exists()


def test_every_optimizer_of_keras_is_offered_and_nothing_else_of_it():
    import keras

    classes = {name: each for name, each in vars(keras.optimizers).items() if isinstance(each, type)}
    optimizers = {name for name, each in classes.items() if issubclass(each, keras.optimizers.Optimizer)}
    offered = {target.rpartition(".")[2] for target in OFFERED if target.startswith("keras.")}
    assert optimizers - {"Optimizer", "LossScaleOptimizer", "MultiOptimizer"} <= offered  # they need another one
    assert all(target.startswith(("keras.optimizers.", "cnn_sweeps.data.", "cnn_sweeps.models.")) for target in OFFERED)


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("+hydra.callbacks.mine._target_=my.Callback", ["my.Callback"]),
        ("+hydra.callbacks={a: {_target_: my.One}, b: {'_target_': \"my.Other\"}}", ["my.One", "my.Other"]),
        ("handlers:\n  file:\n    class: my.Handler\n    (): my.make\n    stream: ext://my.stream\n", 3),
        ("model.l2=1e-4 # my.thing", []),
    ],
)
def test_what_a_user_names_for_hydra_to_call_is_found(text, targets):
    found = targets_in_text(text)
    assert len(found) == targets if isinstance(targets, int) else found == targets


def test_unknown_argument_is_told_with_what_the_target_takes():
    with pytest.raises(ConfigError, match=r"model: fractions.Fraction .*'size'; it takes: .*numerator"):
        call_target("model", {"_target_": "fractions.Fraction", "size": 1})


def test_error_inside_the_target_is_not_dressed_up():
    with pytest.raises(ZeroDivisionError):
        call_target("model", {"_target_": "fractions.Fraction", "numerator": 1, "denominator": 0})
