"""Studies that no training made, for what is told and drawn of them."""

from collections import Counter
from datetime import datetime, timedelta

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from cnn_sweeps.selection.standing import Standing
from cnn_sweeps.selection.sweep_report import Swept

SPACE = {
    "model.dropout": FloatDistribution(0.0, 0.6),
    "model.l2": FloatDistribution(1e-6, 1e-2, log=True),
    "<b>x</b>": CategoricalDistribution(["cnn", "<script>alert(1)</script>"]),
}
BEGUN = datetime(2026, 11, 28, 16)


def made_trials(number, num_epochs=4, num_objectives=1):
    """Trials of which less dropout is better; every fifth one was pruned after its first epoch."""
    random = np.random.default_rng(0)
    return [_made(i, random, num_epochs, num_objectives) for i in range(number)]


def _made(i, random, num_epochs, num_objectives):
    params = {"model.dropout": random.uniform(0, 0.6), "model.l2": 10 ** random.uniform(-6, -2)}
    params["<b>x</b>"] = SPACE["<b>x</b>"].choices[i % 2]
    value, is_pruned = 0.1 + params["model.dropout"] + random.normal(0, 0.01), i % 5 == 4
    curve = {epoch: value + 1 / epoch for epoch in range(1, 2 if is_pruned else num_epochs + 1)}
    return FrozenTrial(
        number=i,
        trial_id=i,
        state=TrialState.PRUNED if is_pruned else TrialState.COMPLETE,
        value=None,
        values=None if is_pruned else [value, 1000.0 * i][:num_objectives],
        datetime_start=BEGUN + timedelta(seconds=i),
        datetime_complete=BEGUN + timedelta(seconds=i + 2),
        params=params,
        distributions=SPACE,
        user_attrs={},
        system_attrs={},
        intermediate_values=curve,
    )


def made_sweep(trials, **facts):
    """A sweep of such trials, of one objective."""
    ranking = sorted((trial for trial in trials if trial.values), key=lambda trial: trial.values[0])
    known = {
        "name": "<i>made</i>",
        "counts": Counter(trial.state.name for trial in trials),
        "trials": trials,
        "standing": Standing(ranking, None, {}, ranking),
        "objectives": ["val_log_loss"],
        "notes": ["2 of them are not clearly worse than the best"],
        "metrics": {},
        "data_told": ["<img src=x onerror=alert(1)>: 60 images"],
        "evaluation": None,
    }
    return Swept(**known | facts)
