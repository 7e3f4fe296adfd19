"""The workers of a Dask cluster that may run a sweep's jobs: found, checked, and watched as they come and go."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from fnmatch import fnmatch
from typing import Any

from distributed import Client
from distributed import Future as DaskFuture

from cnn_sweeps.errors import ConfigError, SweepError
from cnn_sweeps.sweep.jobs.dask_connection import submit_to
from cnn_sweeps.sweep.jobs.dask_settings import DaskSettings
from cnn_sweeps.sweep.jobs.dask_worker import WorkerReport, report

_ANSWER_S = 10.0
_LOOK_EVERY_S = 1.0
_POLL_S = 0.1
_TELL_AFTER_S = 2.0


class Fleet:
    """Those workers of a cluster that fit the settings, as far as known now."""

    def __init__(
        self, client: Client, settings: DaskSettings, needed: Sequence[str], only_here: Sequence[tuple[str, str]]
    ) -> None:
        """Know no worker yet.

        Args:
            client: of the cluster.
            settings: which workers may be used, and how long one is waited for.
            needed: paths that a worker must see.
            only_here: settings that a worker on another machine could not use, each with what to do about it.
        """
        self.client, self.settings, self.needed = client, settings, needed
        self.address: str = client.scheduler.address
        self.ready: dict[str, WorkerReport] = {}
        self.unfit: dict[str, str] = {}
        self._only_here, self._here = only_here, report()
        self._asked: dict[str, DaskFuture] = {}
        self._left: set[str] = set()  # processes, by their ids, that get no job any more
        self._present: dict[str, dict[str, Any]] = {}
        self._looked = 0.0

    def is_present(self, worker: str) -> bool:
        """Tell whether a worker is in the cluster, whether it takes jobs or not."""
        return worker in self._present

    def usable(self) -> list[str]:
        """Give the addresses of the workers that take jobs."""
        return [worker for worker in self.ready if self._present[worker]["status"] == "running"]

    def forget(self, worker: str) -> None:
        """Use a worker no more, until it is another process."""
        if worker in self.ready:
            self._left.add(self.ready.pop(worker).process_id)

    def look(self) -> list[str]:
        """Learn which workers have come and gone, at most every second; say what is wrong with new ones.

        Raises:
            SweepError: if the scheduler is gone.
        """
        if self.client.status != "running":
            raise self.scheduler_gone()
        if time.monotonic() - self._looked > _LOOK_EVERY_S:
            try:
                self._present = dict(self.client.scheduler_info(n_workers=-1)["workers"])
            except (OSError, RuntimeError, CancelledError) as error:
                raise self.scheduler_gone() from error
            self._looked = time.monotonic()
            for known in (self.ready, self.unfit, self._asked):
                for worker in known.keys() - self._present:
                    del known[worker]
            for worker in self._present.keys() - self.ready.keys() - self.unfit.keys() - self._asked.keys():
                about = self._present[worker]
                if self._is_named(worker, about) and self._has_resources(about):
                    self._asked[worker] = submit_to(self.client, worker, report, self.needed)
        return self._take_reports()

    def _is_named(self, worker: str, about: dict[str, Any]) -> bool:
        names = (str(about["name"]), about["host"], worker)
        patterns = self.settings.workers
        return patterns is None or any(fnmatch(name, pattern) for pattern in patterns for name in names)

    def _has_resources(self, about: dict[str, Any]) -> bool:
        return all(about["resources"].get(name, 0) >= amount for name, amount in self.settings.resources.items())

    def _take_reports(self) -> list[str]:
        told = []
        for worker, asked in [each for each in self._asked.items() if each[1].status in ("finished", "error")]:
            del self._asked[worker]
            try:
                answer: WorkerReport = asked.result(timeout=_ANSWER_S)
                problems = self._problems(worker, answer)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                problems = [f"cannot run this cnn_sweeps ({reason}); install the same everywhere"]
            if problems:
                self.unfit[worker] = f"worker {self._present[worker]['name']} at {worker}: {'; '.join(problems)}"
                told.append(self.unfit[worker])
            elif answer.process_id not in self._left:
                self.ready[worker] = answer
        return told

    def _problems(self, worker: str, answer: WorkerReport) -> list[str]:
        problems = [f"does not see {path} of {self._here.host}; use a folder that all share" for path in answer.missing]
        if not self._present[worker]["nanny"]:
            problems.append("has no nanny, which starts it anew if a trial ends it; start it without --no-nanny")
        if differences := _differences(self._here.versions, answer.versions):
            problems.append(f"{differences}; install the same versions everywhere")
        if answer.host != self._here.host:
            problems += [
                f"is on {answer.host}, and {setting} is of {self._here.host} alone; {fix}"
                for setting, fix in self._only_here
            ]
        return problems

    def check_scheduler(self) -> None:
        """Compare the scheduler's versions.

        Raises:
            ConfigError: if they are not those of this process.
        """
        versions = self.client.get_versions()["scheduler"]
        python, packages = versions["host"]["python"].split("."), versions["packages"]
        there = {"python": ".".join(python[:2]), "distributed": packages["distributed"]}
        if differences := _differences({key: self._here.versions[key] for key in there}, there):
            raise ConfigError(
                f"hydra.launcher.address={self.address}: the scheduler: {differences}; "
                "install the same versions everywhere"
            )

    def assemble(self, say: Callable[[str], None]) -> None:
        """Wait until there is a worker, and all that are there have been checked.

        Raises:
            ConfigError: if there is none in time, or one is not fit.
        """
        began, is_told, wait_s = time.monotonic(), False, self.settings.wait_s
        while not self.ready or self._asked:
            self.look()
            waited_s = time.monotonic() - began
            if self.unfit or (waited_s > wait_s and not self.ready):
                raise ConfigError(self.nobody())
            if self.ready and waited_s > _ANSWER_S:  # the others are busy with something else
                return
            if waited_s > _TELL_AFTER_S and not is_told:
                say(f"waiting for a worker at {self.address}, {wait_s:g} s at most")
                is_told = True
            time.sleep(_POLL_S)

    def nobody(self) -> str:
        """Say why there is no worker."""
        wait_s, start = self.settings.wait_s, f"start one with `dask worker {self.address}`"
        if not self._present:
            return f"hydra.launcher.address={self.address}: no worker in {wait_s:g} s; {start}"
        if self.unfit:
            return f"hydra.launcher.address={self.address}: {' | '.join(self.unfit.values())}"
        names = ", ".join(str(about["name"]) for about in self._present.values())
        named = [about for worker, about in self._present.items() if self._is_named(worker, about)]
        if not named:
            return f"hydra.launcher.workers={self.settings.workers}: no such worker in {wait_s:g} s; there are {names}"
        if not any(self._has_resources(about) for about in named):
            wanted = ",".join(f"{name}={amount:g}" for name, amount in self.settings.resources.items())
            return f"hydra.launcher.resources: no worker with {wanted} in {wait_s:g} s; {start} --resources {wanted}"
        return f"hydra.launcher.address={self.address}: {names} had no time for a job in {wait_s:g} s; wait for them"

    def scheduler_gone(self) -> SweepError:
        """Give the error for a scheduler that was there before."""
        return SweepError(
            f"the Dask scheduler at {self.address} is gone, and with it what its workers were running; "
            "start it again, and give the same command (above) to go on"
        )


def _differences(here: dict[str, str], there: dict[str, str]) -> str:
    different = [name for name, version in here.items() if there.get(name) != version]
    return ", ".join(f"{name} is {there.get(name)} there and {here[name]} here" for name in different)
