"""How good are the default settings, compared with others? With several seeds, on several data sets.

    python benchmarks/defaults.py [--roots FOLDER ...] [--few FOLDER ...] [--size 48] [--seeds 0 1 2] [-- SETTING ...]

The other settings are those of earlier versions, unless you give some after `--`. The data sets are digits, generated
patterns and the image folders of `--roots` and `--few`. With `--few`, 10 % of the images are for training, 4 % for
validation, and the rest for the test. Each cell is the mean over the seeds (lowest to highest); `nan` says that a
training failed. A set of some hundred small images takes about 2 minutes with two seeds, on 2 cores beside other work.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import mlflow
from shared import ArgumentParser

EARLIER = ["optimizer.learning_rate=1e-3"]
BUILT_IN = {
    "digits 4 and 9": ["data=digits"],
    "digits, all ten": ["data=digits", "data.classes=[0,1,2,3,4,5,6,7,8,9]", "split.test_fraction=0.5"],
    "generated patterns": ["data=synthetic", "data.num_images=300", "data.num_classes=4", "data.difficulty=0.85"],
}
FEW = ["split.test_fraction=0.857", "split.val_fraction=0.043"]
COLUMNS = {
    "validation log loss": ("final_val_log_loss", 3),
    "test log loss": ("test_log_loss", 3),
    "test accuracy": ("test_accuracy", 3),
    "training log loss": ("final_train_log_loss", 3),
    "epochs": ("epochs", 0),
}


def run_sweep(folder: Path, study: str, settings: list[str]) -> list[str]:
    """Train and test once with each seed; return the cells of a row of the table."""
    command = [sys.executable, "-m", "cnn_sweeps.train", "--multirun", f"hydra.sweeper.study_name={study}", *settings]
    command += ["hydra/sweeper/pruner=none", "hydra.sweeper.n_jobs=2", "evaluate_best=1000"]
    command += ["evaluation.pictures=none", "tracking.log_model=false", f"tracking.uri=sqlite:///{folder}/mlflow.db"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    runs = mlflow.search_runs(search_all_experiments=True, filter_string=f"tags.study = '{study}'")
    trials = runs[runs["tags.mlflow.parentRunId"].notna()]
    values = [(trials[f"metrics.{name}"], digits) for name, digits in COLUMNS.values()]
    return [f"{each.mean(skipna=False):.{n}f} ({each.min():.{n}f}-{each.max():.{n}f})" for each, n in values]


def main() -> None:
    parser = ArgumentParser(__doc__, num_repeats=None)
    parser.add_argument("--roots", type=Path, nargs="*", default=[], help="folders of images")
    parser.add_argument(
        "--few", type=Path, nargs="*", default=[], help="folders of images; only a tenth is for training"
    )
    parser.add_argument("--size", type=int, default=48, help="width and height of the images, in pixels")
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"])
    parser.add_argument("settings", nargs="*", default=EARLIER, help="settings to compare the defaults with")
    arguments = parser.parse()
    workloads = dict(BUILT_IN)
    for roots, name, more in ((arguments.roots, "{}", []), (arguments.few, "{}, few", FEW)):
        for root in roots:
            data = ["data=folder", f"data.root={root.resolve()}", f"data.image_size={arguments.size}", *more]
            workloads[name.format(root.name)] = data
    print("|".join(["", "data set", "settings", *COLUMNS, ""]))
    print("|".join(["", *["---"] * (2 + len(COLUMNS)), ""]))
    with tempfile.TemporaryDirectory() as folder:
        for i, (title, data) in enumerate(workloads.items()):
            for name, settings in (("others", arguments.settings), ("defaults", [])):
                seeds = f"seed={','.join(arguments.seeds)}"
                cells = run_sweep(Path(folder), f"{name}-{i}", [*data, *settings, seeds])
                print("|".join(["", title, name, *cells, ""]), flush=True)


if __name__ == "__main__":
    main()
