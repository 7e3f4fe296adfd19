"""Is the best value of a sweep worse if several trials run at once? Simulated sweeps of 20 trials on digits.

    python benchmarks/workers.py [--repeats 200]

The sweeper's own study, sampler and pruner drive simulated trials. Their results come from 66 real trials with random
seeds, in `workers_digits.csv`, in which Adam started at 1e-3: a Gaussian process gives the mean of the logarithm of the
log loss, one of its residuals the luck of a seed, and one of the five nearest trials the shape of the curve. Sweeps of
one repeat share the sampler's seed and the luck of the trial with the same number. Each row has the median of the best
log loss (10 % to 90 % of the sweeps), and its ratio to sweeps with one trial at once: the geometric mean and its 95 %
interval.
"""

import heapq
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from shared import ArgumentParser
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from cnn_sweeps.sweep.jobs.outcome import Outcome
from cnn_sweeps.sweep.settings import check_settings
from cnn_sweeps.sweep.space import SearchSpace
from cnn_sweeps.sweep.study.study import SweepStudy

RANGES = FloatDistribution(0.0, 0.7), FloatDistribution(1e-6, 1e-2, log=True), FloatDistribution(0.85, 1.0)
SPACE = dict(zip(["model.dropout", "model.l2", "optimizer.decay_rate"], RANGES, strict=True))
ALL, BLIND = ["hydra/sweeper/pruner=none"], ["hydra.sweeper.sampler.constant_liar=false"]
SWEEPS = {"no pruning": ALL, "no pruning, running trials unknown": ALL + BLIND, "default pruner": []}


class Trials:
    def __init__(self) -> None:
        rows = np.loadtxt(Path(__file__).with_name("workers_digits.csv"), delimiter=",")
        self._points, self._curves = self._scale(rows[:, :3]), np.log(rows[:, 3:])
        values, kernel = self._curves.min(axis=1), ConstantKernel() * RBF([1.0] * 3, (0.1, 30)) + WhiteKernel()
        self._mean = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=4, random_state=0)
        luck = values - self._mean.fit(self._points, values).predict(
            self._points
        )  # scaled below, since the fit absorbs a part
        self._luck = (luck - luck.mean()) / luck.std() * values.std() * self._mean.kernel_.k2.noise_level**0.5

    @staticmethod
    def _scale(points: np.ndarray) -> np.ndarray:
        dropout, l2, decay_rate = points.T
        return np.column_stack([dropout / 0.7, (np.log10(l2) + 6) / 4, (decay_rate - 0.85) / 0.15])

    def curve(self, params: dict[str, float], luck: np.random.Generator) -> np.ndarray:
        point = self._scale(np.array([[params[key] for key in SPACE]]))
        best = self._mean.predict(point)[0] + luck.choice(self._luck)
        curve = self._curves[luck.choice(np.argsort(((self._points - point) ** 2).sum(axis=1))[:5])]
        return np.exp(curve - curve.min() + best)


def best_of_sweep(trials: Trials, values: dict, seed: int, num_workers: int) -> float:
    settings = check_settings(values | {"sampler": values["sampler"] | {"seed": seed}})
    study = SweepStudy(SearchSpace(SPACE, [], False, {}), settings, 20, {})
    study.enqueue([dict(zip(SPACE, [0.5, 1e-3, 0.96], strict=True))])  # the defaults come first
    now, running = 0.0, []  # a heap of: end of an epoch, trial number, epochs done, epoch's time, trial, curve
    while running or study.ledger.num_started < study.total:
        while len(running) < num_workers and (trial := study.claim()) is not None:
            luck = np.random.default_rng([seed, trial.number])
            curve, epoch_s = trials.curve(trial.params, luck), luck.lognormal(0, 0.05)
            heapq.heappush(running, (now + epoch_s, trial.number, 1, epoch_s, trial, curve))
        now, number, epoch, epoch_s, trial, curve = heapq.heappop(running)
        trial.report(curve[epoch - 1], epoch)
        if trial.should_prune():
            study.tell(trial, Outcome(TrialState.PRUNED))
        elif epoch == len(curve):
            study.tell(trial, Outcome(TrialState.COMPLETE, values=[float(curve.min())]))
        else:
            heapq.heappush(running, (now + epoch_s, number, epoch + 1, epoch_s, trial, curve))
    return study.ranking()[0].value


def main() -> None:
    repeats, trials = ArgumentParser(__doc__, num_repeats=200).parse().repeats, Trials()
    for name, overrides in SWEEPS.items():
        with initialize_config_dir(str(Path(__file__).parents[1] / "conf"), version_base="1.3"):
            config = compose("config", overrides, return_hydra_config=True)
        values, logs = OmegaConf.to_container(config.hydra.sweeper, resolve=False), []
        values |= {"storage": {"_target_": "optuna.storages.InMemoryStorage"}, "study_name": "replayed"}
        for num_workers in (1, 2, 4):
            logs.append(np.log([best_of_sweep(trials, values, seed, num_workers) for seed in range(repeats)]))
            low, median, high = np.exp(np.quantile(logs[-1], [0.1, 0.5, 0.9]))
            more = logs[-1] - logs[0]
            ratio, least, most = np.exp(more.mean() + 1.96 * more.std() / repeats**0.5 * np.array([0, -1, 1]))
            row = f"{median:.5f} ({low:.5f} to {high:.5f})  {ratio:.3f} ({least:.3f} to {most:.3f})"
            print(f"{name:36}{num_workers} at once  {row}", flush=True)


if __name__ == "__main__":
    main()
