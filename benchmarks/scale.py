"""How does a sweep scale: how busy are many slots, and what does a trial cost the controller as the study grows?

    python benchmarks/scale.py [--slots 64] [--seconds 10] [--trials 2000] [--trainings 0] [--postgresql URL]

There are three tables; 0 leaves one out. Trials of the first two import neither TensorFlow nor MLflow, so that many fit
on one machine.

1. How busy slots are. Trials sleep on workers of a Dask cluster on this machine, one slot each. The count begins when
   all slots have begun, and ends when there are no more trials to start. An idle Dask worker wakes 50 times a second,
   which takes 2 % of a core. Since all workers share the cores of one machine here, they wake less often.
2. What a trial costs the controller. Trials do nothing, in a launcher that runs in the controller. At each trial it
   notes time, CPU time and memory of the process: composing, asking, claiming, telling, progress and log. Beside it
   stands a bare loop of Optuna's ask and tell.
3. The same for real trainings of one epoch on four Dask workers, with an SQLite record.

URL is that of an empty PostgreSQL database. The second table uses it beside a journal file, and the third one needs it.
The studies stay in it.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import optuna
import psutil
from distributed import Client
from optuna.distributions import FloatDistribution
from optuna.storages.journal import JournalFileBackend
from shared import ArgumentParser, spread

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
            costs.write(f"{time.time()} {time.process_time()} {self.process.memory_info().rss}\\n")
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


SELDOM = {
    "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "5s",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "10s",
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
}


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
    """Start a Dask cluster on this machine; yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    place = ["--no-dashboard", "--host", "127.0.0.1"]
    worker = [address, *place, "--nthreads", "1", "--local-directory", str(folder)]
    commands = [
        ["dask_scheduler", *place, "--port", address.rpartition(":")[2]],
        *[["dask_worker", *worker]] * num_workers,
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": os.environ | SELDOM}
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
    """Run eight trials for each slot; return the share of the time that a slot is busy, and the trials a second."""
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


class Cost(NamedTuple):
    """What a process has used so far."""

    time_s: float  # since 1970
    cpu_s: float
    memory: float  # resident, in bytes


def costs_of_sweep(folder: Path, num_trials: int, sampler: str, storage: str) -> list[Cost]:
    """Run a sweep; return the controller's costs at the start of each trial."""
    write_application(folder)
    where = [f"hydra.sweeper.study_name={study_name()}", f"hydra.sweeper.storage='{storage}'"]
    sweep(folder, num_trials, "hydra/launcher=noting", f"hydra/sweeper/sampler={sampler}", *where)
    costs = [Cost(*map(float, line.split())) for line in (folder / "costs.txt").read_text().splitlines()]
    assert len(costs) == num_trials
    return costs


def costs_of_bare_loop(folder: Path, num_trials: int, sampler: str, storage: str) -> list[Cost]:
    """Run the loop of Optuna's own examples in this process; return its costs at the start of each trial."""
    samplers = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}
    study = optuna.create_study(
        study_name=study_name(), storage=open_storage(storage, folder), sampler=samplers[sampler](seed=0)
    )
    space = {name: FloatDistribution(0, 1) for name in "abc"}
    costs = []
    for _ in range(num_trials):
        costs.append(Cost(time.time(), time.process_time(), 0))
        study.tell(study.ask(space), 0.5)
    return costs


def study_name() -> str:
    return f"scale-{uuid.uuid4().hex[:8]}"


def open_storage(storage: str, folder: Path) -> optuna.storages.BaseStorage:
    if "://" in storage:
        return optuna.storages.RDBStorage(storage)
    return optuna.storages.JournalStorage(JournalFileBackend(str(folder / storage)))


def costs_of_trainings(num_trials: int, postgresql: str) -> list[Cost]:
    """Train on four Dask workers; return the controller's costs at the end of each trial, in order of the ends."""
    name, samples = study_name(), []
    with tempfile.TemporaryDirectory() as folder, cluster(Path(folder), 4) as address:
        data = ["data=synthetic", "data.num_images=60", "data.image_size=16", "data.channels=1"]
        model = ["model.filters=[4,8]", "model.dense_units=[8,4]", "training.batch_size=16", "training.epochs=1"]
        study = [f"hydra.sweeper.study_name={name}", f"hydra.sweeper.storage='{postgresql}'"]
        where = ["hydra/launcher=dask", f"hydra.launcher.address={address}", "hydra.sweeper.n_jobs=4"]
        command = [sys.executable, "-m", "cnn_sweeps.train", "--multirun", f"hydra.sweeper.n_trials={num_trials}"]
        controller = psutil.Popen([*command, *data, *model, *study, *where], cwd=folder, stdout=subprocess.DEVNULL)
        while controller.poll() is None:
            with suppress(psutil.Error):  # the controller may have just ended
                used, memory = controller.cpu_times(), controller.memory_info().rss
                samples.append(Cost(time.time(), used.user + used.system, memory))
            time.sleep(0.25)
        assert controller.returncode == 0
    trials = optuna.load_study(study_name=name, storage=postgresql).get_trials(deepcopy=False)
    trained = [trial for trial in trials if trial.state.name in ("COMPLETE", "PRUNED")]  # without lost attempts
    assert len(trained) == num_trials
    ends = sorted(trial.datetime_complete.timestamp() for trial in trained)
    return [next(before for before, after in pairwise(samples) if after.time_s > end) for end in ends]


def print_slots(num_slots: int, seconds: float, repeats: int) -> None:
    measured = [busy_share(num_slots, seconds) for _ in range(repeats)]
    shares, rates = zip(*measured, strict=True)
    title = f"{num_slots} slots, trials of {seconds:g} s"
    print(
        f"{title:34s} busy {spread([100 * each for each in shares], '.1f')} %, {spread(rates, '.2f')} trials/s",
        flush=True,
    )


def print_costs(
    what: str, num_trials: int, repeats: int, measures: list[Callable[[], list[Cost]]], width: int = 100
) -> None:
    """Print what a trial costs early and late in the sweep, a line each, with columns for each way to measure."""
    measured = [[measure() for measure in measures] for _ in range(repeats)]
    windows = {
        f"{width // 2} to {width * 3 // 2}": width // 2,
        f"the last {width} of {num_trials}": num_trials - width - 1,
    }
    for window, first in windows.items():
        columns = []
        for costs in zip(*measured, strict=True):
            begins, ends = [each[first] for each in costs], [each[first + width] for each in costs]
            pairs = list(zip(begins, ends, strict=True))
            columns += [
                f"{spread([(end.time_s - begin.time_s) * 1000 / width for begin, end in pairs], '.1f'):>22s}",
                f"{spread([(end.cpu_s - begin.cpu_s) * 1000 / width for begin, end in pairs], '.1f'):>22s}",
                *([f"{spread([end.memory / 2**20 for end in ends], '.0f'):>14s}"] if ends[0].memory else []),
            ]
        print(f"{what:22s} {window:22s} {' '.join(columns)}", flush=True)


def print_costs_of_trials(
    num_trials: int, samplers: list[str], postgresql: str | None, repeats: int, width: int = 100
) -> None:
    print(f"{'':45s} {'ms a trial':>22s} {'CPU ms a trial':>22s} {'MB':>14s} {'Optuna alone: ms':>22s} {'CPU ms':>22s}")

    def in_folder(costs: Callable[..., list[Cost]], *arguments: object) -> list[Cost]:
        with tempfile.TemporaryDirectory() as folder:
            return costs(Path(folder), num_trials, *arguments)

    for storage, place in ({"journal": "study.journal"} | ({"postgresql": postgresql} if postgresql else {})).items():
        for sampler in samplers:
            measures = [partial(in_folder, costs, sampler, place) for costs in (costs_of_sweep, costs_of_bare_loop)]
            print_costs(f"{storage}, {sampler}", num_trials, repeats, measures, width)


def main() -> None:
    parser = ArgumentParser(__doc__)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--trainings", type=int, default=0)
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"])
    parser.add_argument("--postgresql", metavar="URL")
    arguments = parser.parse(without="postgresql")
    if arguments.slots:
        print_slots(arguments.slots, arguments.seconds, arguments.repeats)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if arguments.trials:
        print_costs_of_trials(arguments.trials, arguments.samplers, arguments.postgresql, arguments.repeats)
    if arguments.trainings:
        if arguments.postgresql is None:
            parser.error("--trainings needs --postgresql")
        trainings = partial(costs_of_trainings, arguments.trainings, arguments.postgresql)
        print_costs("trainings of an epoch", arguments.trainings, 1, [trainings], width=200)


if __name__ == "__main__":
    main()
