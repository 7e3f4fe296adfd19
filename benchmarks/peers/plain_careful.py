"""Optuna, Keras and MLflow as a careful user puts them together; with `--workers 2`, processes that share a study."""

import argparse
import subprocess
import sys

import careful
import optuna
from optuna.storages.journal import JournalFileBackend
from workload import STARTUP_TRIALS, parse_arguments, run_trial

STUDY = "sweep"


def work(arguments: argparse.Namespace, seed: int) -> None:
    """Run trials until the study has its number, with a sampler of this process's own."""

    def objective(trial: optuna.Trial) -> float:
        params = {
            "dropout": trial.suggest_float("dropout", 0, 0.7),
            "l2": trial.suggest_float("l2", 1e-6, 1e-2, log=True),
            "decay_rate": trial.suggest_float("decay_rate", 0.85, 1),
        }
        return run_trial(arguments, params)

    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
    study = optuna.create_study(study_name=STUDY, storage=open_storage(), sampler=sampler, load_if_exists=True)
    while len(study.get_trials(deepcopy=False)) < arguments.trials:
        study.optimize(objective, n_trials=1)


def open_storage() -> optuna.storages.JournalStorage:
    return optuna.storages.JournalStorage(JournalFileBackend("study.journal"))


def main() -> None:
    arguments = parse_arguments()
    if arguments.workers == 0:  # this is one of several
        work(arguments, arguments.sampler_seed)
        return
    with careful.sweep_record():
        if arguments.workers == 1:
            work(arguments, arguments.seed)
            return
        optuna.create_study(study_name=STUDY, storage=open_storage())
        seeds = [arguments.seed + 1000 * worker for worker in range(arguments.workers)]  # else they suggest the same
        command = [sys.executable, *sys.argv, "--workers", "0", "--sampler-seed"]
        workers = [subprocess.Popen([*command, str(seed)]) for seed in seeds]
        codes = [worker.wait() for worker in workers]
        if any(codes):
            sys.exit("a worker failed")


if __name__ == "__main__":
    main()
