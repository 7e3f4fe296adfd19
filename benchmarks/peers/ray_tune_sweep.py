"""The careful trial under Ray Tune with Optuna's TPE, two trials at once on one core each."""

from pathlib import Path

import careful
import optuna
import ray
from ray import tune
from ray.tune.search.optuna import OptunaSearch
from workload import STARTUP_TRIALS, parse_arguments

arguments = parse_arguments()


def run_trial(params: dict[str, float]) -> None:
    tune.report({"val_log_loss": careful.run_trial(arguments, params)})


with careful.sweep_record():
    ray.init(num_cpus=arguments.workers, include_dashboard=False, _temp_dir=str(Path.cwd() / "ray"))
    sampler = optuna.samplers.TPESampler(seed=arguments.seed, n_startup_trials=STARTUP_TRIALS)
    tuner = tune.Tuner(
        tune.with_resources(run_trial, {"cpu": 1}),
        param_space={
            "dropout": tune.uniform(0, 0.7),
            "l2": tune.loguniform(1e-6, 1e-2),
            "decay_rate": tune.uniform(0.85, 1),
        },
        tune_config=tune.TuneConfig(
            metric="val_log_loss",
            mode="min",
            search_alg=OptunaSearch(sampler=sampler),
            num_samples=arguments.trials,
            max_concurrent_trials=arguments.workers,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(storage_path=str(Path.cwd() / "results")),
    )
    results = tuner.fit()
if results.num_errors:
    raise SystemExit(f"{results.num_errors} trials failed")
