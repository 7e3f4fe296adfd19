"""The careful trial under Keras Tuner's Bayesian optimization, which is a Gaussian process: it has no TPE."""

import careful
import keras
import keras_tuner
from workload import STARTUP_TRIALS, parse_arguments

arguments = parse_arguments()


class Network(keras_tuner.HyperModel):
    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        params = {
            "dropout": hp.Float("dropout", 0, 0.7),
            "l2": hp.Float("l2", 1e-6, 1e-2, sampling="log"),
            "decay_rate": hp.Float("decay_rate", 0.85, 1),
        }
        return careful.build(arguments, params)

    def fit(self, hp: keras_tuner.HyperParameters, model: keras.Model, callbacks: list, **_ignored):
        return careful.fit(model, arguments, hp.values, tuple(callbacks))


with careful.sweep_record():
    tuner = keras_tuner.BayesianOptimization(
        Network(),
        keras_tuner.Objective("val_log_loss", "min"),
        max_trials=arguments.trials,
        num_initial_points=STARTUP_TRIALS,
        seed=arguments.seed,
        directory="tuner",
    )
    tuner.search()
