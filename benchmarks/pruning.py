"""What does the default pruner save, and what does it cost? Default sweeps on digits, with and without it.

    python benchmarks/pruning.py [--repeats 5]

Each repeat has two sweeps of 20 trials of at most 30 epochs, with the same study seed; about 4 minutes on 2 cores.
"""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import optuna
from shared import ArgumentParser, load_study


def run_sweep(folder: Path, seed: int, pruner: str, num_trials: int) -> tuple[float, int, int]:
    """Run a sweep; return the best objective, the number of epochs of all trials, and the number of pruned trials."""
    name = f"{pruner}-{seed}"
    command = [sys.executable, "-m", "cnn_sweeps.train", "--multirun", f"hydra/sweeper/pruner={pruner}"]
    command += [f"hydra.sweeper.study_name={name}", f"hydra.sweeper.n_trials={num_trials}", "hydra.sweeper.n_jobs=2"]
    command += [f"hydra.sweeper.sampler.seed={seed}", "evaluate_best=false", "tracking.log_model=false"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    study = load_study(folder / "outputs/sweeps" / name / "study.journal", name)
    epochs = sum(len(trial.intermediate_values) for trial in study.trials)
    return study.best_value, epochs, sum(trial.state.name == "PRUNED" for trial in study.trials)


def main() -> None:
    parser = ArgumentParser(__doc__, num_repeats=5)
    parser.add_argument("--trials", type=int, default=20)
    arguments = parser.parse()
    print("seed  best without  best with  epochs without   with  ratio  pruned")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.repeats):
            sweeps = {pruner: run_sweep(Path(folder), seed, pruner, arguments.trials) for pruner in ("none", "default")}
            (best, epochs, _), (pruned_best, pruned_epochs, num_pruned) = sweeps["none"], sweeps["default"]
            rows.append((best, pruned_best, pruned_epochs / epochs))
            print(
                f"{seed:4d}  {best:12.5f}  {pruned_best:9.5f}  {epochs:14d}  {pruned_epochs:5d}  "
                f"{pruned_epochs / epochs:5.2f}  {num_pruned}",
                flush=True,
            )
    ratios = [pruned_best / best for best, pruned_best, _ in rows]
    print(f"best with / best without: median {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    for name, values in zip(("best without", "best with", "ratio of epochs"), zip(*rows, strict=True), strict=True):
        print(f"{name}: median {statistics.median(values):.5f} ({min(values):.5f} to {max(values):.5f})")


if __name__ == "__main__":
    main()
