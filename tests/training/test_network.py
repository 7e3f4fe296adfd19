"""A network that was compiled once trains other trials as if it had been made for them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import TINY_CNN, TINY_DATA, compose
from keras.src.utils.naming import reset_uids
from tensorflow.python.eager.context import global_seed
from test_training import Run

from cnn_sweeps.models.layers import AdjustableDropout, AdjustableL2, classification_head, plain_copy
from cnn_sweeps.training import warm

# Everything that has a state of its own: augmentation, class weights, early stopping, best weights, a schedule.
TRIAL = [
    "regularization=full",
    "training.epochs=4",
    "training.early_stopping.patience=2",
    "training.early_stopping.min_steps=0",
    "optimizer.learning_rate=0.01",
    "augmentation.shift_fraction=0.2",
]
TRIALS = [
    ["model.dropout=0.3", "model.l2=1e-4", "optimizer.decay_rate=0.9", "seed=1"],
    ["model.dropout=0.6", "model.l2=1e-2", "optimizer.decay_rate=0.99", "seed=2"],
    ["model.dropout=0.1", "model.l2=0", "optimizer.learning_rate=0.03", "optimizer.decay_steps=3", "seed=1"],
]
TINY_RESIDUAL = ["model=residual", "model.filters=[4]"]


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch):
    monkeypatch.setattr(warm, "_networks", {})


def outcome_of(*overrides, class_weights=None):
    """Train; give the final weights and what the epochs measured."""
    run = Run(*TRIAL, *overrides).train(class_weights)
    measured = [{k: v for k, v in epoch.items() if not k.endswith("_s")} for epoch in run.epochs_seen]
    return run.model.get_weights(), measured


def cold_outcome_of(*overrides, class_weights=None):
    warm._networks.clear()
    return outcome_of(*overrides, class_weights=class_weights)


def assert_same(outcome, expected):
    assert outcome[1] == expected[1]
    assert all(np.array_equal(a, b) for a, b in zip(outcome[0], expected[0], strict=True))


@pytest.mark.parametrize(
    ("architecture", "class_weights"),
    [([], [None, {0: 0.5, 1: 1.5}, None]), (TINY_RESIDUAL, [{0: 0.5, 1: 1.5}] * 2)],
    ids=["cnn", "residual"],
)
def test_warm_trials_equal_cold_ones_bit_for_bit_in_any_order(architecture, class_weights):
    """Class weights may come and go in one network."""

    def outcomes(train, numbers):
        return [train(*architecture, *TRIALS[n], class_weights=class_weights[n]) for n in numbers]

    numbers = range(len(class_weights))
    cold = outcomes(cold_outcome_of, numbers)
    assert not all(np.array_equal(a, b) for a, b in zip(cold[0][0], cold[1][0], strict=True))
    order = [*numbers, *reversed(numbers[:-1])]  # the first one finds the network of the last cold one
    for number, again in zip(order, outcomes(outcome_of, order), strict=True):
        assert_same(again, cold[number])
    (kept,) = warm._networks.values()
    assert kept.num_graphs == len({weights is None for weights in class_weights})


@pytest.mark.parametrize(
    "settings",
    [
        ["optimizer.schedule=cosine", "optimizer=sgd", "data.num_classes=3"],
        ["optimizer.schedule=constant", "optimizer=adamw", "training.precision=mixed_bfloat16"],
    ],
)
def test_warm_trials_equal_cold_ones_with_every_kind_of_setting(settings):
    try:
        cold = [cold_outcome_of(*settings, *trial) for trial in TRIALS[:2]]
        for number in (0, 1, 0):  # the first one finds the network of the second
            assert_same(outcome_of(*settings, *TRIALS[number]), cold[number])
        assert len(warm._networks) == 1
    finally:
        keras.mixed_precision.set_global_policy("float32")


def network_of(*overrides):
    return Run("training.epochs=1", "model.dropout=0.5", *overrides).network


@pytest.mark.parametrize(
    "change",
    [
        "model.dropout=0.2",
        "model.l2=0.1",
        "optimizer.learning_rate=0.1",
        "optimizer.decay_rate=0.5",
        "optimizer.decay_steps=7",
        "seed=3",
        "training.batch_size=8",
        "training.epochs=2",
        "data.seed=5",
    ],
)
def test_what_does_not_change_the_graph_uses_the_same_network(change):
    assert network_of() is network_of(change)


@pytest.mark.parametrize(
    "change",
    [
        "model.dropout=0",
        "model.filters=[4,4]",
        "optimizer=sgd",
        "optimizer.beta_1=0.8",
        "optimizer.schedule=constant",
        "augmentation.rotation_degrees=3",
        "data.image_size=20",
        "training.xla=true",
    ],
)
def test_what_changes_the_graph_gets_a_network_of_its_own(change):
    assert network_of() is not network_of(change)


def test_only_the_networks_used_last_are_kept(monkeypatch):
    monkeypatch.setattr(warm, "_NUM_KEPT_NETWORKS", 2)
    first = network_of("model.filters=[2]")
    second = network_of("model.filters=[3]")
    assert network_of("model.filters=[2]") is first
    network_of("model.filters=[4]")
    assert network_of("model.filters=[2]") is first
    assert network_of("model.filters=[3]") is not second


def test_networks_are_kept_only_while_they_are_small_together_but_for_the_last_one(monkeypatch):
    small, smaller = network_of("model.filters=[4]"), network_of("model.filters=[3]")
    assert small.num_bytes > 2 * 4 * small.model.count_params()  # Adam keeps two numbers beside each weight
    monkeypatch.setattr(warm, "_MOST_KEPT_BYTES", small.num_bytes + smaller.num_bytes)
    assert network_of("model.filters=[4]") is small
    assert network_of("model.filters=[2]") is network_of("model.filters=[2]")
    assert network_of("model.filters=[3]") is not smaller
    large = network_of("model.filters=[64]")
    assert large.num_bytes > warm._MOST_KEPT_BYTES
    assert list(warm._networks.values()) == [large]


def test_equal_networks_have_equal_names():
    """TensorFlow keeps memory for each name that a variable ever had."""
    names = [[variable.path for variable in network_of(f"optimizer.beta_1={b}").model.variables] for b in (0.8, 0.9)]
    assert names[0] == names[1]


def test_new_network_leaves_what_tensorflow_keeps_for_all():
    """Else each one would be prepared anew, as after Keras's `clear_session`, which starts names anew, too."""
    graph = tf.compat.v1.get_default_graph()
    network_of()
    assert tf.compat.v1.get_default_graph() is graph


def test_plain_copy_of_a_network_that_was_used_again_has_the_newest_values():
    network_of(*TINY_CNN, "model.dropout=0.6", "model.l2=0.1")
    copy = plain_copy(network_of(*TINY_CNN, "model.dropout=0.2", "model.l2=0.3").model)
    rates = [layer.rate for layer in copy.layers if type(layer) is keras.layers.Dropout]
    assert rates == pytest.approx([0.12, 0.16, 0.2])
    penalties = [layer.kernel_regularizer for layer in copy.layers if getattr(layer, "kernel_regularizer", None)]
    assert {type(penalty) for penalty in penalties} == {keras.regularizers.L2}
    assert [penalty.l2 for penalty in penalties] == pytest.approx([0.3] * len(penalties))


# Networks of the user's own.


class Scaled(keras.layers.Layer):
    """A user's layer whose configuration does not tell all."""

    factor = 1.0

    def call(self, inputs):
        return inputs * self.factor


def my_ones(shape, dtype):
    return keras.ops.ones(shape, dtype)


def relu(x):
    """Is called like one of Keras's."""
    return keras.ops.maximum(x, 0.5)


def model_with(layer, penalty=None):
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Dense(3, kernel_regularizer=penalty)(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, classification_head(layer(x), 2))


def structure(layer, penalty=None):
    reset_uids()
    return warm.structure_of(model_with(layer() if callable(layer) else layer, penalty))


def test_adjustable_layers_of_a_user_do_not_change_the_structure():
    first = structure(lambda: AdjustableDropout(0.2), AdjustableL2(0.1))
    assert first is not None
    assert structure(lambda: AdjustableDropout(0.4), AdjustableL2(0.2)) == first


def test_penalty_that_is_shared_is_another_structure_than_two():
    def with_penalties(first, second):
        reset_uids()
        inputs = keras.Input((4, 4, 1))
        x = keras.layers.Dense(3, kernel_regularizer=first)(keras.layers.Flatten()(inputs))
        x = keras.layers.Dense(3, kernel_regularizer=second)(x)
        return warm.structure_of(keras.Model(inputs, classification_head(x, 2)))

    shared = AdjustableL2(0.1)
    assert with_penalties(shared, shared) != with_penalties(AdjustableL2(0.1), AdjustableL2(0.1))


def test_standard_layers_of_a_user_do():
    first = structure(lambda: keras.layers.Dropout(0.2))
    assert first is not None
    assert structure(lambda: keras.layers.Dropout(0.2)) == first
    assert structure(lambda: keras.layers.Dropout(0.4)) != first


@pytest.mark.parametrize(
    "layer",
    [
        Scaled,
        lambda: keras.layers.Lambda(lambda x: 2 * x),
        lambda: keras.layers.Dense(2, activation=lambda x: 2 * x),
        lambda: keras.layers.Dense(2, kernel_initializer=my_ones),
        lambda: keras.layers.Dense(2, activation=relu),
        keras.layers.Normalization,
    ],
)
def test_what_keras_cannot_tell_of_has_no_structure_and_is_built_anew(layer):
    assert structure(layer) is None


def build_mine(input_shape, num_classes, dropout, l2):
    inputs = keras.Input(input_shape)
    x = keras.layers.Dense(4, kernel_regularizer=keras.regularizers.L2(l2))(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, classification_head(Scaled()(keras.layers.Dropout(dropout)(x)), num_classes))


def test_model_function_that_ignores_all_this_trains_cold_and_is_warned_of(caplog):
    from dataclasses import replace

    from cnn_sweeps.settings.targets import call_target

    config = compose(*TINY_DATA)
    mine = {"_target_": f"{__name__}.build_mine", "dropout": 0.3, "l2": 0.1}
    data = call_target("data", config.data)
    networks = [warm.build_network(replace(config, model=mine | {"l2": l2}), data, 60) for l2 in (0.1, 0.2)]
    assert networks[0] is not networks[1]
    assert caplog.text.count("the network has no layer that scales its pixels, which go from 0 to 255") == 2
    assert warm._networks == {}
    assert [float(each.model.layers[2].kernel_regularizer.l2) for each in networks] == pytest.approx([0.1, 0.2])


def test_tensorflow_itself_is_seeded_for_networks_of_a_user_alone():
    """Whose layers may draw from it; it prepares every graph anew by that."""
    from dataclasses import replace

    from cnn_sweeps.settings.targets import call_target

    tf.random.set_seed(7)
    network_of("seed=3")
    assert global_seed() == 7
    config = compose(*TINY_DATA, "seed=3")
    mine = {"_target_": f"{__name__}.build_mine", "dropout": 0.3, "l2": 0.1}
    warm.build_network(replace(config, model=mine), call_target("data", config.data), 60)
    assert global_seed() == 3


def test_optimizer_function_of_a_user_gets_a_network_of_its_own(monkeypatch):
    from dataclasses import replace

    from cnn_sweeps.settings.targets import call_target

    config = compose(*TINY_DATA, "model.filters=[2]", "model.dense_units=[2]")
    data = call_target("data", config.data)
    own = replace(config, optimizer={"_target_": f"{__name__}.my_sgd"})
    assert warm.build_network(own, data, 60) is not warm.build_network(own, data, 60)


def my_sgd(learning_rate):
    return keras.optimizers.SGD(learning_rate)
