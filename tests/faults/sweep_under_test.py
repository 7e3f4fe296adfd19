"""A sweep of real, short trainings that is disturbed: its command, its processes, and how far it is."""

import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import mlflow
import optuna
import psutil
from clusters import Cluster
from conftest import TINY
from optuna.exceptions import StorageInternalError
from servers import Postgres, TrackingServer
from sqlalchemy.exc import SQLAlchemyError
from tiny_sweeps import STUDY, processes_in, sweep_folder, sweep_log

from cnn_sweeps.errors import StudyError
from cnn_sweeps.sweep.study.address import parse_address
from cnn_sweeps.sweep.study.storage import open_storage

EPOCHS = 2


@dataclass
class SweepUnderTest:
    """One study that any number of commands work on, one after another or at once.

    Attributes:
        folder: in which the command runs, and which holds study and record.
        num_trials: of the study.
        database: in which the study is; None: a journal file.
        tracking_server: that has the record; None: an SQLite database.
        cluster: on which the trials run; None: in worker processes of the controller.
        n_jobs: trials that a controller runs at once.
        controllers: the processes that were started and not yet taken leave of.
    """

    folder: Path
    num_trials: int
    database: Postgres | None = None
    tracking_server: TrackingServer | None = None
    cluster: Cluster | None = None
    n_jobs: int = 2
    controllers: list[subprocess.Popen] = field(default_factory=list)

    def __post_init__(self):
        file = sweep_folder(self.folder) / "study.journal"
        self.storage = str(file) if self.database is None else self.database.new_database(f"faults_{os.getpid()}")
        self.tracking_uri = self.tracking_server.uri if self.tracking_server else f"sqlite:///{self.folder}/mlflow.db"

    @property
    def command(self):
        program = [sys.executable, "-u", "-m", "cnn_sweeps.train", "--multirun"]
        trial = [*TINY, f"training.epochs={EPOCHS}", f"tracking.uri={self.tracking_uri}"]
        study = [f"hydra.sweeper.study_name={STUDY}", f"hydra.sweeper.storage='{self.storage}'"]
        sweep = [f"hydra.sweeper.n_trials={self.num_trials}", f"hydra.sweeper.n_jobs={self.n_jobs}"]
        sweep += ["hydra/sweeper/pruner=none", "hydra.sweeper.max_retries=1000"]
        if self.cluster is not None:
            sweep += ["hydra/launcher=dask", f"hydra.launcher.address={self.cluster.address}"]
        return [*program, *trial, *study, *sweep]

    def start(self, *more):
        """Give the command, with more words."""
        environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
        with (self.folder / "terminal.txt").open("a") as terminal:
            process = subprocess.Popen(
                [*self.command, *more],
                cwd=self.folder,
                env=environment,
                stdout=terminal,
                stderr=terminal,
                start_new_session=True,
            )
        self.controllers.append(process)
        self._started = time.monotonic()
        return process

    def age_s(self):
        """How long ago the newest controller was started."""
        return time.monotonic() - self._started

    def take_leave(self):
        """Give the exit codes of the controllers that have ended, and forget them."""
        codes = [process.returncode for process in self.controllers if process.poll() is not None]
        self.controllers = [process for process in self.controllers if process.returncode is None]
        return codes

    def living(self):
        """The controllers that have not ended."""
        return [process for process in self.controllers if process.poll() is None]

    def workers(self):
        """The processes in which trials run; none while they start."""
        parents = [process.pid for process in self.living()]
        if self.cluster is not None:
            parents = [process.pid for name, process in self.cluster.processes.items() if name != "scheduler"]
        found = []
        for pid in parents:
            with suppress(psutil.NoSuchProcess):
                found += [each for each in psutil.Process(pid).children(recursive=True) if _is_worker(each)]
        return found

    def end(self):
        """Leave nothing running."""
        for process in self.controllers:
            process.kill()
            process.wait()
        for left in processes_in(self.folder):
            with suppress(psutil.NoSuchProcess):
                left.kill()

    # How far it is.

    def study(self):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return optuna.load_study(study_name=STUDY, storage=self._opened_storage)

    @cached_property
    def _opened_storage(self):
        return open_storage(parse_address(self.storage))

    def trials(self):
        """The trials so far; none while there is no study, or its database is away."""
        with suppress(KeyError, SQLAlchemyError, StorageInternalError, StudyError):
            if self.database is not None or Path(self.storage).exists():
                return self.study().trials
        return []

    def runs(self):
        """Every run of the record."""
        mlflow.set_tracking_uri(self.tracking_uri)
        return mlflow.search_runs(search_all_experiments=True, output_format="list")

    def running(self):
        """The trials that a living controller has under way."""
        pids = {str(process.pid) for process in self.living()}
        trials = [trial for trial in self.trials() if trial.state.name == "RUNNING"]
        return [trial for trial in trials if trial.user_attrs.get("owner", {}).get("owner.pid") in pids]

    def is_told(self):
        """Whether every trial that was asked for has been told."""
        states = [trial.state.name for trial in self.trials() if not trial.user_attrs.get("retried")]
        return states.count("COMPLETE") + states.count("FAIL") >= self.num_trials

    def describe(self):
        """Say in a few words how far it is."""
        told = sum(trial.state.name == "COMPLETE" for trial in self.trials())
        running = [f"{trial.number} after epoch {trial.last_step or 0}" for trial in self.running()]
        doing = f"running {', '.join(running)}" if running else "finishing" if self.is_told() else "starting"
        return f"{told} told, {doing}"

    def last_words(self):
        log = sweep_log(self.folder) if (sweep_folder(self.folder) / "sweep.log").exists() else ""
        terminal = (self.folder / "terminal.txt").read_text()
        return f"sweep.log ends:\n{log[-2000:]}\nthe terminal:\n{terminal[-4000:]}"

    def wait(self, is_true, timeout_s):
        """Wait until something is true or every controller has ended; tell whether it is true."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if is_true():
                return True
            if not self.living():
                return is_true()
            time.sleep(0.02)
        return False


def _is_worker(process):
    with suppress(psutil.Error):
        is_one = re.search("spawn_main|multiprocessing.forkserver", " ".join(process.cmdline()))
        return bool(is_one) and process.status() != psutil.STATUS_ZOMBIE
    return False
