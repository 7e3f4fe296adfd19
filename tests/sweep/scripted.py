"""A real controller and study in this process; only the jobs are a script's, and no processes."""

from concurrent.futures import Future

import optuna
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf
from optuna.distributions import IntDistribution
from optuna.storages.journal import JournalFileBackend
from test_study import PRUNERS, SAMPLERS

from cnn_sweeps.sweep.application import SweepApplication
from cnn_sweeps.sweep.console import Console
from cnn_sweeps.sweep.controller import Controller
from cnn_sweeps.sweep.plan import SweepPlan
from cnn_sweeps.sweep.settings import check_settings
from cnn_sweeps.sweep.space import SearchSpace
from cnn_sweeps.sweep.study.study import SweepStudy
from hydra_plugins.cnn_sweeps import _config

SPACE = {"x": IntDistribution(0, 99)}


def returned(value):
    return JobReturn(status=JobStatus.COMPLETED, _return_value=value)


def raised(error):
    return JobReturn(status=JobStatus.FAILED, _return_value=error)


class ScriptedExecutor:
    """Asks `script(x)` what becomes of a job: a value, an exception, or a future that a test ends later."""

    def __init__(self, script=lambda x: x, num_slots=1):
        self.script, self.num_slots = script, num_slots
        self.xs, self.under_way, self.is_closed = [], [], False

    def open(self, say):
        say("opened")

    def submit(self, overrides, job_number):
        (x,) = (int(each.removeprefix("x=")) for each in overrides)
        self.xs.append(x)
        given = self.script(x)
        future = given if isinstance(given, Future) else Future()
        if isinstance(given, BaseException):
            future.set_exception(given)
        elif future is not given:
            future.set_result(given if isinstance(given, JobReturn) else returned(given))
        self.under_way = [each for each in [*self.under_way, future] if not each.done()]
        assert len(self.under_way) <= self.num_slots
        return future

    def call(self, function, *arguments):
        future = Future()
        future.set_result(function(*arguments))
        return future

    def close(self):
        self.is_closed = True


class Noting(SweepApplication):
    """Notes what it is told."""

    def __init__(self):
        self.lost, self.status, self.is_finished = [], None, False

    def close_lost(self, trials):
        self.lost += [trial.number for trial in trials]

    def finish(self, study, executor):
        self.is_finished = True
        return ["tested"]

    def end(self, status):
        self.status = status


def controller_of(folder, executor, *, points=(), total=None, application=None, space=SPACE, **changed):
    """Build a controller of the study in a folder: of the xs that are `points` and, beyond, random ones."""
    values = OmegaConf.to_container(OmegaConf.structured(_config.OptunaSweeperConf))
    del values["defaults"]
    values |= {"sampler": SAMPLERS["random"], "pruner": PRUNERS["none"], "study_name": "study"}
    settings = check_settings(values | {"storage": str(folder / "study.journal")} | changed)
    total = len(points) if total is None else total
    plan = SweepPlan(
        settings=settings,
        space=SearchSpace(space, [], True, {}),
        extend=None,
        points=[{"x": x} for x in points],
        total=total,
        application=application or Noting(),
        shared_settings={},
        overrides=["x=..."],
    )
    return Controller(SweepStudy(plan.space, settings, total, {}), plan, executor, Console(plan, folder))


def trials_in(folder):
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    return optuna.load_study(study_name="study", storage=storage).trials


def log_in(folder):
    file = folder / "sweep.log"
    return file.read_text() if file.exists() else ""
