"""Dask clusters of real processes on this machine's loopback, which come and go; a worker is its nanny's child."""

import os
import socket
import subprocess
import sys
from contextlib import contextmanager

from waiting import wait_until

# An idle process of Dask wakes 50 times a second, and samples what it runs.
SELDOM = {
    "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "5s",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "10s",
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
}


class Cluster:
    """A scheduler, and workers that come and go."""

    def __init__(self, folder, port=None):
        self.folder, self.processes = folder, {}
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = port or free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.start_scheduler()

    def start_scheduler(self):
        self._start("scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard")

    def _start(self, name, *arguments, command=(), **environment):
        self.folder.mkdir(parents=True, exist_ok=True)
        kind = "scheduler" if name == "scheduler" else "worker"
        with (self.folder / f"{name}.log").open("a") as log:
            self.processes[name] = subprocess.Popen(
                [*command, sys.executable, "-m", f"distributed.cli.dask_{kind}", *arguments],
                cwd=self.folder,
                env=os.environ | SELDOM | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def start_worker(self, name, *options, **how):
        place = ["--name", name, "--local-directory", str(self.folder), "--no-dashboard", "--nthreads", "1"]
        self._start(name, self.address, *place, *options, **how)

    def kill(self, name):
        self.processes[name].kill()
        self.processes.pop(name).wait()

    def wait_for_workers(self, number):
        log = self.folder / "scheduler.log"
        wait_until(lambda: log.read_text().count("Register worker addr") >= number, "workers")

    def close(self):
        for name in list(self.processes):
            self.kill(name)


@contextmanager
def a_cluster(folder, *workers, **scheduler):
    cluster = Cluster(folder, **scheduler)
    try:
        for name in workers:
            cluster.start_worker(name)
        yield cluster
    finally:
        cluster.close()
