"""How a sweep scales: how busy it keeps many slots, and what a trial costs the controller as the study grows.

    python benchmarks/scale.py [--slots 64] [--seconds 10] [--trials 2000] [--postgresql URL] [--repeats 3]

Light trials, which import neither TensorFlow nor MLflow, so that many of them fit on one machine. The first table:
trials that sleep on the workers of a Dask cluster on this machine, one slot each; how much of the time a slot is busy,
from when all have begun until there are no more trials to start. The second one: trials that do nothing, in a launcher
that runs in the controller and notes, at each trial, the CPU time and the memory that the process has taken: composing,
asking, claiming, telling, progress and log. URL is that of an empty PostgreSQL database, used beside a journal file;
the studies stay in it. `--slots 0` or `--trials 0` leaves a table out.
"""

import argparse
import os
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed import Client

LAUNCHER = """
import time

import psutil
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher


class NotingLauncher(Launcher):
    def setup(self, *, hydra_context, task_function, config):
        self.process = psutil.Process()

    def launch(self, job_overrides, initial_job_idx):
        with open("costs.txt", "a") as costs:
            costs.write(f"{initial_job_idx} {time.process_time()} {self.process.memory_info().rss}\\n")
        return [JobReturn(_return_value=0.5, status=JobStatus.COMPLETED) for _ in job_overrides]


node = {"_target_": "hydra_plugins.noting.launcher.NotingLauncher"}
ConfigStore.instance().store(group="hydra/launcher", name="noting", node=node)
"""
APPLICATION = """
import os
import time

import hydra


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(config):
    started = time.time()
    time.sleep(config.seconds)
    with open(config.notes, "a") as notes:
        notes.write(f"{os.getpid()} {started} {time.time()}\\n")
    return config.a


if __name__ == "__main__":
    main()
"""
CONFIG = """
defaults:
  - _self_
  - override hydra/sweeper: optuna
  - override hydra/sweeper/sampler: random
seconds: 0
notes: ""
a: 0.5
b: 0.5
c: 0.5
hydra:
  sweep: {dir: sweep}
  sweeper:
    params: {a: "interval(0,1)", b: "interval(0,1)", c: "interval(0,1)"}
"""


def write_application(folder: Path) -> None:
    (folder / "hydra_plugins/noting").mkdir(parents=True)
    (folder / "hydra_plugins/noting/__init__.py").touch()
    (folder / "hydra_plugins/noting/launcher.py").write_text(LAUNCHER)
    (folder / "app.py").write_text(APPLICATION)
    (folder / "config.yaml").write_text(CONFIG)


def sweep(folder: Path, num_trials: int, *overrides: str) -> None:
    command = [sys.executable, "app.py", "--multirun", f"hydra.sweeper.n_trials={num_trials}", *overrides]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def cluster(folder: Path, num_workers: int) -> Iterator[str]:
    """Start a Dask cluster on this machine; give its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    place = ["--no-dashboard", "--host", "127.0.0.1"]
    worker = [address, *place, "--no-nanny", "--nthreads", "1", "--local-directory", str(folder)]
    commands = [
        ["dask_scheduler", *place, "--port", address.rpartition(":")[2]],
        *[["dask_worker", *worker]] * num_workers,
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [
        subprocess.Popen([sys.executable, "-m", f"distributed.cli.{name}", *words], cwd=folder, **quiet)
        for name, *words in commands
    ]
    try:
        with Client(address, timeout=60) as client:
            client.wait_for_workers(num_workers, timeout=600)
        yield address
    finally:
        for process in processes:
            process.kill()
            process.wait()


def busy_share(num_slots: int, seconds: float) -> tuple[float, float]:
    """Run eight trials a slot; give the share of the time that a slot is busy, and the trials a second."""
    with tempfile.TemporaryDirectory() as name, cluster(Path(name), num_slots) as address:
        folder, notes = Path(name, "sweep"), Path(name, "notes.txt")
        write_application(folder)
        how = ["hydra/launcher=dask", f"hydra.launcher.address={address}", "hydra.launcher.wait_s=300"]
        study = ["hydra.sweeper.study_name=slots", "hydra.sweeper.storage=study.journal"]
        sweep(
            folder,
            8 * num_slots,
            *how,
            *study,
            f"hydra.sweeper.n_jobs={num_slots}",
            f"seconds={seconds}",
            f"notes={notes}",
        )
        trials = [(pid, float(start), float(end)) for pid, start, end in map(str.split, notes.read_text().splitlines())]
    starts = {pid: min(start for each, start, _ in trials if each == pid) for pid, _, _ in trials}
    assert len(starts) == num_slots, f"{len(starts)} of {num_slots} slots had a trial"
    begin, end = max(starts.values()), max(start for _, start, _ in trials)
    busy_s = sum(max(0.0, min(end, ended) - max(begin, started)) for _, started, ended in trials)
    return busy_s / num_slots / (end - begin), sum(begin <= start < end for _, start, _ in trials) / (end - begin)


def costs_of_trials(folder: Path, num_trials: int, sampler: str, storage: str) -> list[tuple[float, float]]:
    """Run a sweep; give the controller's CPU seconds and resident MB so far, at the start of each trial."""
    write_application(folder)
    where = [f"hydra.sweeper.study_name=scale-{uuid.uuid4().hex[:8]}", f"hydra.sweeper.storage='{storage}'"]
    sweep(folder, num_trials, "hydra/launcher=noting", f"hydra/sweeper/sampler={sampler}", *where)
    lines = [line.split() for line in (folder / "costs.txt").read_text().splitlines()]
    assert [int(number) for number, _, _ in lines] == list(range(num_trials))
    return [(float(cpu_s), int(memory) / 2**20) for _, cpu_s, memory in lines]


def spread(values: list[float], digits: int) -> str:
    low, median, high = (f"{each:.{digits}f}" for each in (min(values), statistics.median(values), max(values)))
    return f"{median} ({low}-{high})"


def print_slots(num_slots: int, seconds: float, repeats: int) -> None:
    measured = [busy_share(num_slots, seconds) for _ in range(repeats)]
    shares, rates = zip(*measured, strict=True)
    title = f"{num_slots} slots, trials of {seconds:g} s"
    print(
        f"{title:34s} busy {spread([100 * each for each in shares], 1)} %, {spread(list(rates), 2)} trials/s",
        flush=True,
    )


def print_costs(num_trials: int, samplers: list[str], postgresql: str | None, repeats: int) -> None:
    storages = {"journal": "study.journal"} | ({"postgresql": postgresql} if postgresql else {})
    windows = {"50 to 150": (50, 150), f"the last 100 of {num_trials}": (num_trials - 101, -1)}
    print(f"{'storage':10s} {'sampler':8s} {'trials':22s} {'CPU ms a trial':>24s} {'resident MB':>20s}")
    for storage, place in storages.items():
        for sampler in samplers:
            measured = []
            for _ in range(repeats):
                with tempfile.TemporaryDirectory() as folder:
                    measured.append(costs_of_trials(Path(folder), num_trials, sampler, place))
            for window, (first, last) in windows.items():
                milliseconds = [(costs[last][0] - costs[first][0]) * 10 for costs in measured]
                columns = f"{spread(milliseconds, 1):>24s} {spread([costs[last][1] for costs in measured], 0):>20s}"
                print(f"{storage:10s} {sampler:8s} {window:22s} {columns}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"])
    parser.add_argument("--postgresql", metavar="URL")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print("command:", shlex.join(["python", *("URL" if word == arguments.postgresql else word for word in sys.argv)]))
    if arguments.slots:
        print_slots(arguments.slots, arguments.seconds, arguments.repeats)
    if arguments.trials:
        print_costs(arguments.trials, arguments.samplers, arguments.postgresql, arguments.repeats)


if __name__ == "__main__":
    main()
