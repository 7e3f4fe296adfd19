"""Trials run again beside the sweep's study: real studies, with jobs that end as a script says."""

import signal
import sys
from collections import Counter

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from scripted import Noting, ScriptedExecutor, controller_of, log_in, trials_in

from cnn_sweeps.sweep import controller, loop
from cnn_sweeps.sweep.application import Confirmation, Ranked
from cnn_sweeps.sweep.jobs.loss import LostWorkerError


@pytest.fixture(autouse=True)
def _in_a_terminal_that_waits_little(monkeypatch):
    for module in (loop, controller):
        monkeypatch.setattr(module, "POLL_S", 0.01)
    monkeypatch.setattr(sys, "argv", ["app.py"])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Confirming(Noting):
    """Has the two best trials run again with two other seeds each; the one that comes last in that is the champion."""

    def to_confirm(self, study):
        best = [trial.number for trial in study.ranking()[:2]]
        points = [{"trial": number, "seed": seed} for seed in (1, 2) for number in best]
        return Confirmation(points, {"sweep": study.name})

    def rank(self, study, confirmed):
        self.confirmed = [(trial.params["trial"], trial.params["seed"], trial.value) for trial in confirmed]
        first = [Ranked(trial, "~", "again") for trial in study.ranking()[1:2]]
        return [*first, *(Ranked(trial) for trial in study.ranking() if trial.number != first[0].trial.number)]


class Jobs(ScriptedExecutor):
    """Notes the seeds of further runs, and does something before each of them."""

    def __init__(self, before=lambda _number: None, **how):
        super().__init__(**how)
        self.before, self.again = before, []

    def submit(self, overrides, job_number):
        given = dict(each.split("=", 1) for each in overrides)
        if "seed" in given:
            self.again.append((int(given["x"]), int(given["seed"])))
            self.settings = given
            if (answer := self.before(len(self.again))) is not None:
                self.script = lambda _x: answer
                future = super().submit([f"x={given['x']}"], job_number)
                self.script = lambda x: x
                return future
        return super().submit([f"x={given['x']}"], job_number)


def run(folder, jobs, points=(5, 3, 9), **how):
    application = Confirming()
    ranking = controller_of(folder, jobs, points=points, application=application, **how).run()
    return application, ranking


def run_again_in(folder):
    """The trials of the study beside the sweep's."""
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    return optuna.load_study(study_name="study.confirmation", storage=storage).trials


TWO_SEEDS_OF_THE_BEST = [(3, 1), (5, 1), (3, 2), (5, 2)]  # x, which is the value, and seed


def test_best_trials_run_again_after_all_others_where_neither_the_study_nor_its_count_sees_them(tmp_path):
    jobs = Jobs()
    application, ranking = run(tmp_path, jobs)
    assert jobs.again == TWO_SEEDS_OF_THE_BEST
    assert [trial.params["x"] for trial in trials_in(tmp_path)] == [5, 3, 9]
    assert application.confirmed == [(1, 1, 3.0), (1, 2, 3.0), (0, 1, 5.0), (0, 2, 5.0)]
    assert (application.is_finished, application.status) == (True, "FINISHED")
    assert [trial.number for trial in ranking] == [0, 1, 2]
    said = log_in(tmp_path)
    assert "3 completed, 0 pruned, 0 failed, 0 running; the study is for 3 trials" in said
    told = "before the best trial is chosen, the best 2 trials run again with other seeds: 4 runs, each with as many"
    assert told in said
    assert "again   3  COMPLETE           5" in said
    assert "   1.~ 5  trial   0  x=5  again\n" in said
    assert "to run by itself:\n" in said
    assert said.endswith(" x=5\n")


def test_further_run_reports_to_its_own_study_and_has_a_folder_below_the_sweeps(tmp_path):
    jobs = Jobs()
    run(tmp_path, jobs)
    assert jobs.settings["+hydra.job.env_set.CNN_SWEEPS_STUDY"] == "'study.confirmation'"
    assert jobs.settings["hydra.sweep.subdir"] == "'confirmation/${hydra.job.num}'"
    assert not any(key.startswith("hydra.sweeper") for key in jobs.settings)  # which Hydra 1.4 lets no job change


def test_same_command_runs_nothing_again_and_of_a_longer_sweep_only_what_is_among_the_best_now(tmp_path):
    run(tmp_path, Jobs())
    same = Jobs()
    application, _ = run(tmp_path, same)
    assert same.again == []
    assert len(application.confirmed) == 4
    assert log_in(tmp_path).count("again with other seeds") == 1
    longer = Jobs()
    application, _ = run(tmp_path, longer, points=(5, 3, 9, 4))
    assert longer.again == [(4, 1), (4, 2)]
    assert len(application.confirmed) == 6


def test_ctrl_c_leaves_what_is_not_confirmed_to_the_same_command_and_nothing_is_named_before(tmp_path):
    jobs = Jobs(lambda number: signal.raise_signal(signal.SIGINT) if number == 2 else None)
    application = Confirming()
    with pytest.raises(KeyboardInterrupt):
        controller_of(tmp_path, jobs, points=(5, 3, 9), application=application).run()
    assert (application.is_finished, application.status) == (False, "KILLED")
    assert jobs.again == TWO_SEEDS_OF_THE_BEST[:2]
    assert "To go on:\n" in log_in(tmp_path)
    rest = Jobs()
    application, _ = run(tmp_path, rest)
    assert rest.again == TWO_SEEDS_OF_THE_BEST[2:]
    assert application.is_finished


def test_lost_run_is_tried_again_and_one_that_fails_ends_nothing(tmp_path):
    ends = {1: LostWorkerError("the worker process died (exit code -9)"), 3: ValueError("cannot")}
    jobs = Jobs(ends.get)
    application, _ = run(tmp_path, jobs)
    assert Counter(jobs.again) == Counter([*TWO_SEEDS_OF_THE_BEST, (3, 1)])
    assert Counter(trial.state.name for trial in run_again_in(tmp_path)) == {"COMPLETE": 3, "FAIL": 2}
    assert len(application.confirmed) == 3
    assert application.status == "FINISHED"
    assert run(tmp_path, again := Jobs())[0].confirmed == application.confirmed
    assert again.again == []
