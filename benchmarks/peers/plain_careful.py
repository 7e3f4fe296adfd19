"""Optuna, Keras and MLflow, combined as a careful user would; with `--workers 2`, two processes share a study."""

import argparse
import subprocess
import sys

import careful
import optuna
from optuna.storages.journal import JournalFileBackend
from workload import STARTUP_TRIALS, parse_arguments, run_trial, suggest_params

STUDY = "sweep"


def work(arguments: argparse.Namespace, seed: int) -> None:
    """Run trials until the study has enough, with a sampler of this process's own."""

    def objective(trial: optuna.Trial) -> float:
        return run_trial(arguments, suggest_params(trial))

    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
    study = optuna.create_study(study_name=STUDY, storage=open_storage(), sampler=sampler, load_if_exists=True)
    while len(study.get_trials(deepcopy=False)) < arguments.trials:
        study.optimize(objective, n_trials=1)


def open_storage() -> optuna.storages.JournalStorage:
    return optuna.storages.JournalStorage(JournalFileBackend("study.journal"))


def main() -> None:
    arguments = parse_arguments()
    if arguments.workers == 0:  # this process is one of several workers
        work(arguments, arguments.sampler_seed)
        return
    with careful.sweep_record():
        if arguments.workers == 1:
            work(arguments, arguments.seed)
            return
        optuna.create_study(study_name=STUDY, storage=open_storage())
        seeds = [
            arguments.seed + 1000 * worker for worker in range(arguments.workers)
        ]  # equal seeds would suggest the same
        command = [sys.executable, *sys.argv, "--workers", "0", "--sampler-seed"]
        workers = [subprocess.Popen([*command, str(seed)]) for seed in seeds]
        codes = [worker.wait() for worker in workers]
        if any(codes):
            sys.exit("a worker failed")


if __name__ == "__main__":
    main()
