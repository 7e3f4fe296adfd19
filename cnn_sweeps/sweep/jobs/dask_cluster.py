"""Starts a Dask cluster on this machine, or connects to one at an address."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from copy import deepcopy
from functools import partial

import dask.config
from distributed import Client, Nanny, Scheduler, Security, SpecCluster
from distributed.versions import VersionMismatchWarning

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.sweep.jobs.executor import settle
from cnn_sweeps.sweep.jobs.local import without_ctrl_c
from cnn_sweeps.sweep.jobs.machine import WorkerPlan, count_cores

_CONNECT_S = 10.0

for _loud in ("distributed", "distributed.client"):  # which has a level of its own
    logging.getLogger(_loud).setLevel(logging.CRITICAL)  # what matters of it is told in one line


@contextmanager
def local_cluster(plan: WorkerPlan, resources: dict[str, float]) -> Iterator[SpecCluster]:
    """Start a cluster on this machine for a block, with the planned workers, each of which has these resources.

    Other users of the machine can reach its ports. Certificates keep them out, which exist only in the memory of the
    cluster's processes and, while these start, in folders that nobody else can read. It serves no web pages.

    Raises:
        ConfigError: if the package that makes certificates is missing.
    """
    options = {
        "distributed.scheduler.allowed-failures": 0,
        "distributed.nanny.pre-spawn-environ": {},
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
        "distributed.worker.profile.enabled": False,  # a look at the jobs' thread every 10 ms
    }
    try:
        security = Security.temporary()
    except ImportError as error:
        raise ConfigError(
            "hydra/launcher=dask: a cluster of this machine needs cryptography; pip install 'cnn-sweeps[dask]'"
        ) from error
    place = {"host": "127.0.0.1", "protocol": "tls://", "security": security, "dashboard": False}
    quiet = {"silence_logs": logging.CRITICAL}
    with dask.config.set(options), without_ctrl_c():
        share = {"nthreads": max(1, count_cores() // plan.num_workers), "resources": resources}
        alike = place | share | quiet | {"config": deepcopy(dask.config.config)}  # for workers that are begun anew, too
        workers = {
            slot: {"cls": Nanny, "options": alike | {"env": environment}}
            for slot, environment in enumerate(plan.environments)
        }
        scheduler = {"cls": Scheduler, "options": place | {"dashboard_address": "127.0.0.1:0"}}
        cluster = SpecCluster(scheduler=scheduler, workers=workers, security=security, **quiet)
    with cluster:
        yield cluster


@contextmanager
def connected(place: str | SpecCluster) -> Iterator[Client]:
    """Return a client of a cluster, or of the scheduler at an address, for a block.

    Raises:
        ConfigError: if no scheduler answers there, or certificates are missing.
    """
    warnings.simplefilter("ignore", VersionMismatchWarning)  # of versions that the fleet compares
    made: Future[Client] = Future()  # by a thread, since Dask waits for ever for what is no scheduler
    make = partial(Client, place, timeout=_CONNECT_S, set_as_default=False)
    threading.Thread(target=settle, args=(made, make), daemon=True).start()
    try:
        client = made.result(2 * _CONNECT_S)
    except Exception as error:
        reason = " ".join(str(error.__cause__ or error).split()) or "what is there does not answer as one"
        raise ConfigError(
            f"hydra.launcher.address={place}: no Dask scheduler can be used there ({reason}, within {_CONNECT_S:g} s); "
            "start one with `dask scheduler`, correct the address, or leave it out for a cluster on this machine; "
            "certificates for a tls:// address are named in Dask's settings, "
            "DASK_DISTRIBUTED__COMM__TLS__CA_FILE, ..__CLIENT__CERT and ..__CLIENT__KEY"
        ) from error
    try:
        yield client
    finally:
        client.close(timeout=_CONNECT_S)
