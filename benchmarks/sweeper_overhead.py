"""What a trial costs in the controller beyond Optuna's own work: jobs that do nothing, against a bare loop.

    python benchmarks/sweeper_overhead.py [--trials 2000] [--repeats 3]

Both search the same space with the same sampler and keep a journal file on the same disk. The jobs' launcher answers at
once, so that what is left is the sweeper: claiming, telling, duplicates, failure policy, progress and log.
"""

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import optuna
from optuna.distributions import FloatDistribution
from optuna.storages.journal import JournalFileBackend

LAUNCHER = """
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher


class InstantLauncher(Launcher):
    def setup(self, *, hydra_context, task_function, config):
        pass

    def launch(self, job_overrides, initial_job_idx):
        return [JobReturn(_return_value=0.5, status=JobStatus.COMPLETED) for _ in job_overrides]


node = {"_target_": "hydra_plugins.instant.launcher.InstantLauncher"}
ConfigStore.instance().store(group="hydra/launcher", name="instant", node=node)
"""
APPLICATION = """
import hydra


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(config):
    pass


main()
"""
CONFIG = """
defaults:
  - _self_
  - override hydra/sweeper: optuna
  - override hydra/sweeper/sampler: random
  - override hydra/launcher: instant
a: 0.5
b: 0.5
c: 0.5
hydra:
  sweep: {dir: sweep}
  sweeper:
    study_name: bench
    storage: study.journal
    params: {a: "interval(0,1)", b: "interval(0,1)", c: "interval(0,1)"}
"""


def run_sweeper(folder: Path, num_trials: int) -> optuna.Study:
    (folder / "hydra_plugins/instant").mkdir(parents=True)
    (folder / "hydra_plugins/instant/__init__.py").touch()
    (folder / "hydra_plugins/instant/launcher.py").write_text(LAUNCHER)
    (folder / "app.py").write_text(APPLICATION)
    (folder / "config.yaml").write_text(CONFIG)
    command = [sys.executable, "app.py", "--multirun", f"hydra.sweeper.n_trials={num_trials}"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return optuna.load_study(study_name="bench", storage=open_journal(folder))


def run_bare_loop(folder: Path, num_trials: int) -> optuna.Study:
    study = optuna.create_study(
        study_name="bench", storage=open_journal(folder), sampler=optuna.samplers.RandomSampler(seed=0)
    )
    space = {name: FloatDistribution(0, 1) for name in "abc"}
    for _ in range(num_trials):
        study.tell(study.ask(space), 0.5)
    return study


def open_journal(folder: Path) -> optuna.storages.JournalStorage:
    return optuna.storages.JournalStorage(JournalFileBackend(str(folder / "study.journal")))


def milliseconds_a_trial(study: optuna.Study, first: int, last: int) -> float:
    """Time from the start of trial `first` to that of trial `last`, over their number."""
    trials = study.get_trials(deepcopy=False)
    started, ended = trials[first].datetime_start, trials[last].datetime_start
    return (ended - started).total_seconds() * 1000 / (last - first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print("command:", shlex.join(["python", *sys.argv]))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    windows = {
        "trials 50 to 100": (50, 99),
        f"the last 100 of {arguments.trials}": (arguments.trials - 100, arguments.trials - 1),
    }
    measured: dict[str, dict[str, list[float]]] = {window: {"ours": [], "bare": []} for window in windows}
    for _ in range(arguments.repeats):
        for name, run in (("ours", run_sweeper), ("bare", run_bare_loop)):
            with tempfile.TemporaryDirectory() as folder:
                study = run(Path(folder), arguments.trials)
                for window, trials in windows.items():
                    measured[window][name].append(milliseconds_a_trial(study, *trials))
    print(f"{'ms a trial, median (lowest to highest)':40s} {'sweeper':>20s} {'bare loop':>20s}  beyond")
    for window, values in measured.items():
        columns = [f"{statistics.median(each):.1f} ({min(each):.1f}-{max(each):.1f})" for each in values.values()]
        beyond = statistics.median(values["ours"]) - statistics.median(values["bare"])
        print(f"{window:40s} {columns[0]:>20s} {columns[1]:>20s}  {beyond:6.1f}")


if __name__ == "__main__":
    main()
