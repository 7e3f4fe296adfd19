"""Finds the workers of a Dask cluster that may run a sweep's jobs, checks them, and watches them come and go."""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import cloudpickle
from distributed import Client
from distributed import Future as DaskFuture

from cnn_sweeps.errors import ConfigError, SweepError, describe_error
from cnn_sweeps.sweep.jobs.dask_worker import leave, report
from cnn_sweeps.sweep.jobs.settings import DaskSettings

RESULT_S = 2.0  # for a result that is there; all others wait
_ANSWER_S = 10.0
_LOOK_EVERY_S = 1.0
_POLL_S = 0.1
_TELL_AFTER_S = 2.0


@dataclass(eq=False)
class Worker:
    """One process of a Dask worker, and what is known of it."""

    address: str
    folder: str  # for its temporary files; the next process at the address has another one
    about: dict[str, Any]  # by the scheduler
    asked: DaskFuture = None  # for a report, until it has answered
    host: str = ""  # of one that is fit
    problem: str = ""  # of one that is not
    leaving: DaskFuture = None  # its end, which Dask drops if nobody wants to know of it
    is_used: bool = False


class Fleet:
    """The workers of a cluster, as far as known now."""

    def __init__(self, client: Client, settings: DaskSettings, only_here: Sequence[tuple[str, str]]) -> None:
        """Know no worker yet; `only_here` has settings that work on this host alone, each with how to change it."""
        self.client, self.settings, self._only_here = client, settings, only_here
        self.address: str = client.scheduler.address
        self.needed: list[str] = []  # paths that a worker must see
        self.workers: dict[tuple[str, str], Worker] = {}
        self._host, _, self._versions = report()
        self._looked = 0.0

    def submit_to(self, worker: Worker, function: Callable[..., Any], *arguments: Any, **how: Any) -> DaskFuture:
        """Have one worker run an importable function, once; the scheduler need not be able to import it."""

        def make_call(call: bytes) -> Any:  # sent as code
            function, arguments = cloudpickle.loads(call)
            return function(*arguments)

        key, call = f"cnn_sweeps-{uuid.uuid4().hex}", cloudpickle.dumps((function, arguments))
        how |= {"workers": [worker.address], "allow_other_workers": False, "retries": 0, "pure": False}
        return self.client.submit(make_call, call, key=key, **how)

    @property
    def usable(self) -> list[Worker]:
        """The workers that take jobs, in the order in which they came; some may have one now."""
        fit = [each for each in self.workers.values() if each.host and each.leaving is None]
        return [each for each in fit if each.about["status"] == "running"]

    def dismiss(self, worker: Worker) -> None:
        """Stop using a worker's process, and have its nanny start another."""
        worker.leaving = worker.leaving or self.submit_to(worker, leave, worker.folder)

    def look(self) -> list[str]:
        """See which workers have come and gone, at most every second; give what is wrong with new ones.

        Raises:
            SweepError: if the scheduler is gone.
        """
        if self.client.status != "running":
            raise self.scheduler_gone()
        if time.monotonic() - self._looked > _LOOK_EVERY_S:
            try:
                present = self.client.scheduler_info(n_workers=-1)["workers"]
            except (OSError, RuntimeError, CancelledError) as error:
                raise self.scheduler_gone() from error
            self._looked = time.monotonic()
            self._note({(address, about["local_directory"]): about for address, about in present.items()})
        answered = [each for each in self.workers.values() if each.asked is not None and each.asked.done()]
        for worker in answered:
            self._read_report(worker)
        return [f"worker {each.about['name']} at {each.address}: {each.problem}" for each in answered if each.problem]

    def _note(self, present: dict[tuple[str, str], dict[str, Any]]) -> None:
        self.workers = {process: self.workers.get(process, Worker(*process, {})) for process in present}
        for process, worker in self.workers.items():
            is_new, worker.about = not worker.about, present[process]
            if is_new:
                worker.problem = self._why_not_meant(worker)
                worker.asked = None if worker.problem else self.submit_to(worker, report, self.needed)

    def _why_not_meant(self, worker: Worker) -> str:
        about, patterns, resources = worker.about, self.settings.workers, self.settings.resources
        names = (str(about["name"]), about["host"], worker.address)
        if patterns is not None and not any(fnmatch(name, pattern) for pattern in patterns for name in names):
            return f"not one of hydra.launcher.workers={patterns}"
        if any(about["resources"].get(name, 0) < amount for name, amount in resources.items()):
            wanted = ",".join(f"{name}={amount:g}" for name, amount in resources.items())
            return f"does not have hydra.launcher.resources={resources}; start one with --resources {wanted}"
        return ""

    def _read_report(self, worker: Worker) -> None:
        try:
            host, missing, versions = worker.asked.result(timeout=RESULT_S)
        except (TimeoutError, CancelledError):  # it is slow, or gone
            return
        except Exception as error:
            host, problems = "", [f"cannot run this cnn_sweeps ({describe_error(error)}); install the same everywhere"]
        else:
            problems = [f"does not see {path} of {self._host}; use a folder that all share" for path in missing]
            problems += self._differences(versions)
            if not worker.about["nanny"]:
                problems.append("has no nanny, which starts it anew if a trial ends it; start it without --no-nanny")
            if host != self._host:
                is_of = f"of {self._host} alone"
                problems += [f"is on {host}, and {setting} is {is_of}; {fix}" for setting, fix in self._only_here]
        worker.asked, worker.problem, worker.host = None, "; ".join(problems), "" if problems else host

    def _differences(self, there: dict[str, str]) -> list[str]:
        different = [(name, here) for name, here in self._versions.items() if there.get(name) != here]
        told = ", ".join(f"{name} is {there.get(name)} there and {here} here" for name, here in different)
        return [f"{told}; install the same versions everywhere"] if told else []

    def assemble(self) -> None:
        """Wait until a worker is ready, and all that are there have been checked.

        Raises:
            ConfigError: if none comes in time, one cannot be used, or the scheduler has other versions than this host.
        """
        packages = self.client.get_versions()["scheduler"]["packages"]
        python = ".".join(packages["python"].split(".")[:2])
        for told in self._differences(self._versions | {"python": python, "distributed": packages["distributed"]}):
            raise ConfigError(f"hydra.launcher.address={self.address}: the scheduler: {told}")
        began, is_told, wait_s = time.monotonic(), False, self.settings.wait_s
        while not (problems := self.look()):
            waited_s = time.monotonic() - began
            is_all_known = not any(each.asked for each in self.workers.values())
            if self.usable and (is_all_known or waited_s > _ANSWER_S):  # the others are busy with something else
                return
            if waited_s > wait_s and not self.usable:
                raise ConfigError(self.nobody())
            if waited_s > _TELL_AFTER_S and not is_told:
                print(f"waiting for a worker at {self.address}, {wait_s:g} s at most", flush=True)
                is_told = True
            time.sleep(_POLL_S)
        raise ConfigError(f"hydra.launcher.address={self.address}: {' | '.join(problems)}")

    def nobody(self) -> str:
        """Say why no worker can be used."""
        reasons: dict[str, list[str]] = defaultdict(list)
        for worker in self.workers.values():
            reasons[worker.problem or "had no time for a job; wait for it"].append(str(worker.about["name"]))
        there = " | ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
        advice = there or f"start one with `dask worker {self.address}`"
        return f"hydra.launcher.address={self.address}: no worker in {self.settings.wait_s:g} s; {advice}"

    def scheduler_gone(self) -> SweepError:
        """Return the error for a scheduler that was there before."""
        return SweepError(
            f"the Dask scheduler at {self.address} is gone, and with it what its workers were running; "
            "start it again, and run the same command (above) to go on"
        )
