"""A connection to a Dask cluster: to one that is there, or to one that is started on this machine for a sweep."""

from __future__ import annotations

import logging
import pickle
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from copy import deepcopy
from typing import Any

import cloudpickle
import dask.config
from distributed import Client, Nanny, Scheduler, Security, SpecCluster, wait
from distributed import Future as DaskFuture

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.sweep.jobs.local import without_ctrl_c
from cnn_sweeps.sweep.jobs.machine import WorkerPlan, count_cores

_CONNECT_S = 10.0


def silence_dask() -> None:
    """Keep Dask from logging in this process: what matters of it is told in one line."""
    for name in ("distributed", "distributed.client"):  # which has a level of its own
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def local_cluster(plan: WorkerPlan, resources: dict[str, float]) -> Iterator[SpecCluster]:
    """Start a cluster on this machine, its workers as planned, with the resources named.

    Other users of the machine reach its ports: certificates that exist only in the memory of its processes, and while
    they start in folders that nobody else can read, keep them out. It answers no web pages.

    Raises:
        ConfigError: if the package is missing that makes certificates.
    """
    try:
        security = Security.temporary()
    except ImportError as error:
        raise ConfigError(
            "hydra/launcher=dask: a cluster of this machine needs cryptography; pip install 'cnn-sweeps[dask]'"
        ) from error
    place = {"host": "127.0.0.1", "protocol": "tls://", "security": security, "dashboard": False}
    share = {"nthreads": max(1, count_cores() // plan.num_workers), "resources": resources}
    options = {
        "distributed.scheduler.allowed-failures": 0,
        "distributed.nanny.pre-spawn-environ": {},
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
    }
    scheduler = {"cls": Scheduler, "options": place | {"dashboard_address": "127.0.0.1:0"}}
    with dask.config.set(options), without_ctrl_c():
        kept = {"silence_logs": logging.CRITICAL, "config": deepcopy(dask.config.config)}  # for workers begun anew, too
        workers = {
            slot: {"cls": Nanny, "options": place | share | kept | {"env": environment}}
            for slot, environment in enumerate(plan.environments)
        }
        cluster = SpecCluster(scheduler=scheduler, workers=workers, security=security, silence_logs=logging.CRITICAL)
    with cluster:
        yield cluster


@contextmanager
def connected(place: str | SpecCluster) -> Iterator[Client]:
    """Give a client of the cluster.

    Raises:
        ConfigError: if no scheduler answers at the address, or certificates are missing.
    """
    if isinstance(place, str) and place.startswith("tls:"):
        _check_certificates(place)
    try:
        client = _make_client(place).result(2 * _CONNECT_S)
    except Exception as error:
        reason = " ".join(str(error.__cause__ or error).split()) or "what is there does not answer as one"
        raise ConfigError(
            f"hydra.launcher.address={place}: no Dask scheduler can be used there ({reason}, within {_CONNECT_S:g} s); "
            "start one with `dask scheduler`, correct the address, or leave it out for a cluster on this machine"
        ) from error
    try:
        yield client
    finally:
        client.close(timeout=_CONNECT_S)


def _check_certificates(address: str) -> None:
    try:
        context, reason = Security().get_connection_args("client")["ssl_context"], "none are named"
    except (OSError, ValueError) as error:
        context, reason = None, " ".join(str(error).split())
    if context is None:
        raise ConfigError(
            f"hydra.launcher.address={address}: needs certificates, and {reason}; name them in Dask's settings, "
            "DASK_DISTRIBUTED__COMM__TLS__CA_FILE, ..__CLIENT__CERT and ..__CLIENT__KEY, or use a tcp:// address"
        )


def _make_client(place: str | SpecCluster) -> Future[Client]:
    """Connect in a thread, since Dask waits for ever for something else than a scheduler to answer."""
    made: Future[Client] = Future()

    def make() -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of versions, which the fleet compares
                made.set_result(Client(place, timeout=_CONNECT_S, set_as_default=False))
        except Exception as error:
            made.set_exception(error)

    threading.Thread(target=make, daemon=True).start()
    return made


class _Deferred:
    """A function call that is made where it is unpickled."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._call


def submit_to(
    client: Client,
    worker: str,
    function: Callable[..., Any],
    *arguments: Any,
    resources: dict[str, float] | None = None,
) -> DaskFuture:
    """Have one worker run an importable function, once; the scheduler does not unpickle it."""
    return client.submit(
        pickle.loads,
        cloudpickle.dumps(_Deferred(function, arguments)),
        key=f"cnn_sweeps-{uuid.uuid4().hex}",
        workers=[worker],
        allow_other_workers=False,
        resources=resources,
        retries=0,
        pure=False,
    )


def wait_for_dask(client: Client, futures: Sequence[DaskFuture], timeout_s: float) -> None:
    """Return when all futures are done, or after `timeout_s`."""
    with client.as_current(), suppress(TimeoutError, CancelledError):
        wait(futures, timeout_s)
