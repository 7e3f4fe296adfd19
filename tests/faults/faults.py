"""What may happen to a sweep: to which process, how, and how it is made good."""

import resource
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil
from sweep_under_test import SweepUnderTest

_IMPORTED_BYTES = 300 * 2**20  # TensorFlow and MLflow take 600 MB and more


@dataclass(frozen=True)
class Fault:
    """One kind of mishap.

    Attributes:
        name: of the fault.
        victims: gives what it can hit now, of which one is drawn.
        inject: does it to the victim; gives what is to be undone.
        heal: undoes it, if it does not pass by itself.
        lasts_s: for how long it is left as it is, at the most.
        ends_victim: whether the victim is a controller that ends by it.
        ends_controllers_with: exit codes that are right after it, beside 0.
    """

    name: str
    victims: Callable[[SweepUnderTest], list[Any]]
    inject: Callable[[Any], Any]
    heal: Callable[[Any], None] = lambda _injected: None
    lasts_s: float = 0.0
    ends_victim: bool = False
    ends_controllers_with: tuple[int, ...] = ()


def _send(number):
    def inject(process):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
        return process

    return inject


def _go_on(process):
    _send(signal.SIGCONT)(process)


def _workers_that_have_begun(sweep):
    """Leave out those that Python starts, whose first imports would fail on the terminal."""
    begun = []
    for process in sweep.workers():
        with suppress(psutil.NoSuchProcess):
            begun += [process] * (process.memory_info().rss > _IMPORTED_BYTES)
    return begun


def _allow_no_more_memory(process):
    """Set RLIMIT_AS as a user may: whatever asks the kernel for memory from now on gets none."""
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        _, most = resource.prlimit(process.pid, resource.RLIMIT_AS)
        resource.prlimit(process.pid, resource.RLIMIT_AS, (process.memory_info().vms, most))
    return process


def _allow_memory(process):
    with suppress(ProcessLookupError):
        _, most = resource.prlimit(process.pid, resource.RLIMIT_AS)
        resource.prlimit(process.pid, resource.RLIMIT_AS, (most, most))


def _fill_disk(folder):
    """Write until not one byte more fits."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (2**20, 2**10, 1):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass
    return ballast


def _kill_in_cluster(victim):
    cluster, name = victim
    cluster.kill(name)
    return victim


def _start_cluster_again(killed):
    """Start the scheduler, and the workers anew, which do not come back to another one."""
    cluster, _ = killed
    names = list(cluster.processes)
    for name in names:
        cluster.kill(name)
    cluster.start_scheduler()
    for name in names:
        cluster.start_worker(name)


KILL_CONTROLLER = Fault(
    "kill -9 controller",
    SweepUnderTest.living,
    _send(signal.SIGKILL),
    ends_victim=True,
    ends_controllers_with=(-signal.SIGKILL,),
)
TERMINATE_CONTROLLER = Fault(
    "SIGTERM controller",
    SweepUnderTest.living,
    _send(signal.SIGTERM),
    ends_victim=True,
    ends_controllers_with=(128 + signal.SIGTERM, -signal.SIGTERM),  # the latter while Python starts
)
STOP_CONTROLLER = Fault("SIGSTOP controller", SweepUnderTest.living, _send(signal.SIGSTOP), _go_on, lasts_s=5)
SECOND_CONTROLLER = Fault("second controller", lambda sweep: [sweep] * (len(sweep.living()) < 3), SweepUnderTest.start)
KILL_WORKER = Fault("kill -9 worker", SweepUnderTest.workers, _send(signal.SIGKILL))
TERMINATE_WORKER = Fault("SIGTERM worker", SweepUnderTest.workers, _send(signal.SIGTERM))
STOP_WORKER = Fault("SIGSTOP worker", SweepUnderTest.workers, _send(signal.SIGSTOP), _go_on, lasts_s=5)
NO_MEMORY = Fault("no memory for worker", _workers_that_have_begun, _allow_no_more_memory, _allow_memory, lasts_s=3)
FULL_DISK = Fault(
    "full disk",
    lambda sweep: [sweep.folder],
    _fill_disk,
    lambda ballast: ballast.unlink(),
    lasts_s=5,
    ends_controllers_with=(1,),
)

# Beyond a minute a sweep ends, in one line; that is for tests of its own.
_CRASH = {
    "inject": lambda server: server.kill() or server,
    "heal": lambda server: server.start(),
    "lasts_s": 8,
    "ends_controllers_with": (1,),
}
KILL_TRACKING_SERVER = Fault("kill -9 tracking server", lambda sweep: [sweep.tracking_server], **_CRASH)
KILL_DATABASE = Fault("crash of PostgreSQL", lambda sweep: [sweep.database], **_CRASH)
KILL_DASK_WORKER = Fault(
    "kill -9 Dask worker",
    lambda sweep: [(sweep.cluster, name) for name in sweep.cluster.processes if name != "scheduler"],
    _kill_in_cluster,
    lambda killed: killed[0].start_worker(killed[1]),
    lasts_s=5,
)
KILL_DASK_SCHEDULER = Fault(
    "kill -9 Dask scheduler",
    lambda sweep: [(sweep.cluster, "scheduler")],
    _kill_in_cluster,
    _start_cluster_again,
    lasts_s=5,
    ends_controllers_with=(1,),
)

FREQUENT = [KILL_CONTROLLER, KILL_WORKER, TERMINATE_CONTROLLER, STOP_WORKER]
FAULTS = [*FREQUENT, STOP_CONTROLLER, SECOND_CONTROLLER, TERMINATE_WORKER, NO_MEMORY]
FAULTS_OF_SERVERS = [*FREQUENT, KILL_TRACKING_SERVER, KILL_DATABASE]
FAULTS_OF_CLUSTER = [*FREQUENT, KILL_DASK_WORKER, KILL_DASK_SCHEDULER]
