"""What does a warm trial cost beyond its epochs, does a worker's memory grow, and when does the first result come?

    python benchmarks/warm_trials.py [--repeats 3] [--trials 100]

Each repeat is one sweep on digits with one worker and two epochs a trial; a minute or two on 2 cores. The cost is the
time between a trial's start and end in the study, minus its epochs (training and validation) in the run. Memory is the
worker's resident memory at the end of a trial. A worker takes its first trial after it has imported TensorFlow and
everything else.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mlflow
import optuna
import psutil
from shared import ArgumentParser, load_study

NAME = "warm"
FIRST = 5


def worker_mb(controller: psutil.Process) -> float:
    """Return the resident memory of the largest process below the controller, in MiB."""
    sizes = [0]
    for process in controller.children(recursive=True):
        try:
            sizes.append(process.memory_info().rss)
        except psutil.NoSuchProcess:
            continue
    return max(sizes) / 2**20


def run_sweep(folder: Path, num_trials: int) -> tuple[dict[int, float], float]:
    """Run the sweep; return the worker's memory by number of ended trials, and the time when the command began."""
    command = [sys.executable, "-m", "cnn_sweeps.train", "--multirun", f"hydra.sweeper.study_name={NAME}"]
    command += [f"hydra.sweeper.n_trials={num_trials}", "hydra/sweeper/pruner=none", "training.epochs=2"]
    command += ["evaluate_best=false", "tracking.log_model=false", "hydra.sweeper.n_jobs=1"]
    memory_mb: dict[int, float] = {}
    began = time.time()
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as sweep:
        controller, log = psutil.Process(sweep.pid), folder / "outputs/sweeps" / NAME / "sweep.log"
        while sweep.poll() is None:
            ended = log.read_text().count("COMPLETE") if log.exists() else 0
            memory_mb.setdefault(ended, worker_mb(controller))
            time.sleep(0.05)
    if sweep.returncode:
        sys.exit(f"the sweep failed with exit code {sweep.returncode}")
    return memory_mb, began


def costs_beyond_epochs(folder: Path) -> tuple[list[float], float, float]:
    """Return each trial's seconds beyond its epochs, and the times when the first trial was taken and had ended."""
    study = load_study(folder / "outputs/sweeps" / NAME / "study.journal", NAME)
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiments = [each.experiment_id for each in client.search_experiments()]
    costs = []
    for trial in study.trials:
        (run,) = client.search_runs(experiments, f"tags.`record.id` = '{trial.user_attrs['record']}'")
        epochs = client.get_metric_history(run.info.run_id, "epoch_s")
        costs.append(trial.duration.total_seconds() - sum(epoch.value for epoch in epochs))
    taken = (folder / "outputs/sweeps" / NAME / "0/.hydra/config.yaml").stat().st_mtime
    return costs, taken, study.trials[0].datetime_complete.timestamp()


def main() -> None:
    parser = ArgumentParser(__doc__)
    parser.add_argument("--trials", type=int, default=100)
    arguments = parser.parse()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    columns: dict[str, list[float]] = {}
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as folder:
            memory_mb, began = run_sweep(Path(folder), arguments.trials)
            costs, taken, ended = costs_beyond_epochs(Path(folder))
        last_mb = memory_mb[max(memory_mb)]
        for name, value in {
            "warm trial beyond its epochs, s": statistics.median(costs[1:]),
            "the slowest warm trial, s": max(costs[1:]),
            f"worker's memory after trial {FIRST}, MB": memory_mb[FIRST],
            "after the last, MB": last_mb,
            "ratio of the two": last_mb / memory_mb[FIRST],
            "first result after a worker took it, s": ended - taken,
            "first result after the command, s": ended - began,
        }.items():
            columns.setdefault(name, []).append(value)
    for name, values in columns.items():
        print(f"{name:40} median {statistics.median(values):9,.2f} ({min(values):,.2f} to {max(values):,.2f})")


if __name__ == "__main__":
    main()
