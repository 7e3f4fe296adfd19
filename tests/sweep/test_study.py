"""Real studies in journal files, driven by claim and tell: nothing is lost, doubled, or run more often than asked."""

import math
import signal
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf
from optuna import TrialPruned
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from cnn_sweeps.errors import ConfigError, StudyError
from cnn_sweeps.sweep.jobs.outcome import INTERRUPTED, Outcome, read_outcome
from cnn_sweeps.sweep.settings import check_settings
from cnn_sweeps.sweep.space import SearchSpace
from cnn_sweeps.sweep.study import study as study_module
from cnn_sweeps.sweep.study.address import parse_address
from cnn_sweeps.sweep.study.definition import describe_study
from cnn_sweeps.sweep.study.shared import SET_ASIDE
from cnn_sweeps.sweep.study.storage import open_storage
from cnn_sweeps.sweep.study.study import SweepStudy
from cnn_sweeps.system.owners import owner_tags
from hydra_plugins.cnn_sweeps import _config

UNIT = {"x": FloatDistribution(0.0, 1.0)}
LISTED = {"x": IntDistribution(0, 2), "y": CategoricalDistribution(["a", "b"])}
LOST = Outcome(TrialState.FAIL, error="the worker process died", is_lost=True)


def registered(group):
    """The options that the package registers, as Hydra would compose them."""
    Plugins.instance()  # finds the package
    store = ConfigStore.instance()
    options = [name.removesuffix(".yaml") for name in store.list(f"hydra/sweeper/{group}")]
    nodes = {option: store.load(f"hydra/sweeper/{group}/{option}.yaml") for option in options}
    return {
        option: OmegaConf.to_container(node.node) for option, node in nodes.items() if node.provider == "cnn_sweeps"
    }


SAMPLERS, PRUNERS = registered("sampler"), registered("pruner")


def open_study(folder, space=UNIT, *, total=5, kept=None, name="study", sampler="random", pruner="none", **changed):
    values = OmegaConf.to_container(OmegaConf.structured(_config.OptunaSweeperConf))
    del values["defaults"]
    sampler = SAMPLERS[sampler] if isinstance(sampler, str) else sampler
    pruner = PRUNERS[pruner] if isinstance(pruner, str) else pruner
    values |= {"sampler": sampler, "pruner": pruner, "storage": str(folder / "study.journal")}
    settings = check_settings(values | changed | {"study_name": name})
    return SweepStudy(SearchSpace(space, [], True, {}), settings, total, kept or {})


def complete(study, trial, *values):
    return study.tell(trial, Outcome(TrialState.COMPLETE, values=list(values or (trial.params["x"],))))


def run_all(study):
    """Complete trials until the study gives no more; give their parameters in order."""
    points = []
    while (trial := study.claim()) is not None:
        points.append(trial.params)
        complete(study, trial)
    return points


def run_as_process(folder, code):
    """Run code in another process that has this module's names and the folder as `folder`; give its exit code."""
    lines = [
        "import os, signal, sys",
        "from pathlib import Path",
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})",
    ]
    lines += ["from test_study import *", "from test_study import open_study", f"folder = Path({str(folder)!r})"]
    return subprocess.run([sys.executable, "-c", "\n".join([*lines, textwrap.dedent(code)])], check=False).returncode


def unfinished(study):
    return [trial.number for trial in study.trials if not trial.state.is_finished()]


# How many, and by whom.


def test_two_controllers_together_start_exactly_the_total(tmp_path):
    first, second = open_study(tmp_path, total=7), open_study(tmp_path, total=7)
    claimed = [study.claim() for _ in range(5) for study in (first, second)]
    assert [trial.number for trial in claimed if trial is not None] == list(range(7))
    assert claimed[7:] == [None] * 3
    for study, trial in zip([first, second] * 5, claimed[:7], strict=False):
        complete(study, trial)
    assert first.claim() is second.claim() is None
    assert first.ledger.counts == second.ledger.counts == {"COMPLETE": 7}


def test_trial_that_another_controller_took_before_it_was_signed_is_left_and_the_total_is_met(tmp_path, monkeypatch):
    """As when the server that has the lock is restarted between the two."""
    study = open_study(tmp_path, total=2)
    ask = study._ask

    def ask_and_lose():
        monkeypatch.setattr(study, "_ask", ask)
        trial = ask()
        study.optuna_study.tell(trial.number, state=TrialState.FAIL)
        return trial

    monkeypatch.setattr(study, "_ask", ask_and_lose)
    assert study.claim().number == 1
    assert study.claim() is None
    assert [trial.state.name for trial in study.trials] == ["FAIL", "RUNNING"]


def test_trial_beyond_the_total_that_was_asked_for_without_the_lock_is_not_run(tmp_path, monkeypatch):
    """As when a server is restarted: the lock ends with its connection, and another controller asks meanwhile."""
    monkeypatch.setattr(study_module, "time", SimpleNamespace(sleep=lambda _s: None))
    study, another = open_study(tmp_path, total=1), open_study(tmp_path, total=1)
    ask = study._ask

    def ask_second():
        monkeypatch.setattr(study, "_ask", ask)
        another._ask().set_user_attr("owner", owner_tags())
        return ask()

    monkeypatch.setattr(study, "_ask", ask_second)
    assert study.claim() is None
    assert [trial.state.name for trial in study.trials] == ["RUNNING", "FAIL", "WAITING"]
    assert study.trials[1].user_attrs["error"] == "another controller was faster"
    assert study.ledger.num_started == 1


def test_of_equal_trials_the_first_one_is_best_whichever_ended_first(tmp_path):
    study = open_study(tmp_path)
    first, second = study.claim(), study.claim()
    complete(study, second, 0.5)
    complete(study, first, 0.5)
    assert study.ledger.best.number == study.ranking()[0].number == first.number


def test_processes_that_claim_at_once_start_exactly_the_total(tmp_path):
    code = """
        study = open_study(folder, total=25)
        for _ in range(3):
            if os.fork() == 0:
                break
        else:
            for _ in range(3):
                os.wait()
            os._exit(0)
        run_all(open_study(folder, total=25))
        os._exit(0)
    """
    assert run_as_process(tmp_path, code) == 0
    study = open_study(tmp_path, total=25)
    assert study.ledger.counts == {"COMPLETE": 25}
    assert len({trial.params["x"] for trial in study.trials}) == 25
    assert len({trial.user_attrs["owner"]["owner.pid"] for trial in study.trials}) > 1


def test_study_is_continued_up_to_a_larger_total(tmp_path):
    run_all(open_study(tmp_path, total=2))
    assert open_study(tmp_path, total=2).claim() is None
    assert len(run_all(open_study(tmp_path, total=5))) == 3


def test_queued_points_come_first_and_each_is_queued_once(tmp_path):
    points = [{"x": 0, "y": "b"}, {"x": 2}, {"x": 0, "y": "b"}]
    study = open_study(tmp_path, LISTED, total=3)
    study.enqueue(points)
    open_study(tmp_path, LISTED, total=3).enqueue(points)
    tried = run_all(study)
    study.enqueue(points)
    assert (tried[0], tried[1]["x"], len(tried)) == ({"x": 0, "y": "b"}, 2, 3)
    assert len(study.trials) == 3


# What became of trials.


@pytest.mark.parametrize(
    ("result", "state", "error"),
    [
        (Outcome(TrialState.COMPLETE, values=[2.5]), TrialState.COMPLETE, None),
        (read_outcome(TrialPruned(), 1), TrialState.PRUNED, None),
        (read_outcome(ValueError("no"), 1), TrialState.FAIL, "ValueError: no"),
        (Outcome(TrialState.FAIL, error="e" * 5000), TrialState.FAIL, "e" * 2000),
    ],
)
def test_outcome_is_kept_in_the_study(tmp_path, result, state, error):
    study = open_study(tmp_path)
    told = study.tell(study.claim(), result)
    (kept,) = open_study(tmp_path).trials
    assert (told.state, kept.state, kept.user_attrs.get("error")) == (state, state, error)
    assert kept.values == ([2.5] if state == TrialState.COMPLETE else None)
    assert study.ledger.counts == {state.name: 1}


@pytest.mark.parametrize("max_retries", [0, 1, 2])
def test_lost_trial_is_tried_again_as_a_new_one_with_its_parameters_and_then_fails(tmp_path, max_retries):
    study = open_study(tmp_path, total=1, max_retries=max_retries)
    tried = []
    while (trial := study.claim()) is not None:
        tried.append((trial.number, trial.params))
        assert study.tell(trial, LOST).state == TrialState.FAIL
    assert [number for number, _ in tried] == list(range(max_retries + 1))
    assert all(params == tried[0][1] for _, params in tried)
    assert study.ledger.counts == {"FAIL": 1} | ({"RETRIED": max_retries} if max_retries else {})


def test_interrupted_trial_is_tried_again_without_end_and_uses_up_no_retry_of_a_lost_one(tmp_path):
    study = open_study(tmp_path, total=1, max_retries=1)
    for _ in range(5):
        study.tell(study.claim(), INTERRUPTED)
    study.tell(study.claim(), LOST)
    complete(study, study.claim())
    assert study.ledger.counts == {"RETRIED": 6, "COMPLETE": 1}


def test_retry_comes_before_what_the_sampler_would_try(tmp_path):
    study = open_study(tmp_path, total=3)
    first, second = study.claim(), study.claim()
    study.tell(first, LOST)
    assert study.claim().params == first.params != second.params


def test_finished_trial_of_equal_parameters_and_settings_is_found(tmp_path):
    study = open_study(tmp_path, LISTED, total=9)
    study.enqueue([{"x": 0, "y": "a"}])
    original = complete(study, study.claim(), 0.5)
    again = _claim_point(study, {"x": 0, "y": "a"})
    assert study.finished_duplicate(again) == original
    told = study.tell_duplicate(again, original)
    assert (told.state, told.values, told.user_attrs["duplicate_of"]) == (TrialState.COMPLETE, [0.5], original.number)
    third = _claim_point(study, {"x": 0, "y": "a"})
    assert study.finished_duplicate(third) == original
    assert study.finished_duplicate(_claim_point(study, {"x": 1, "y": "a"})) is None


def test_pruned_trial_has_pruned_duplicates_that_report_its_last_value(tmp_path):
    study = open_study(tmp_path, LISTED, total=9)
    first = _claim_point(study, {"x": 0, "y": "a"})
    first.report(0.7, 3)
    original = study.tell(first, read_outcome(TrialPruned(), 1))
    again = _claim_point(study, {"x": 0, "y": "a"})
    assert study.finished_duplicate(again) == original
    told = study.tell_duplicate(again, original)
    assert (told.state, told.intermediate_values) == (TrialState.PRUNED, {3: 0.7})


def test_failed_or_running_trial_or_one_of_other_settings_has_no_duplicates(tmp_path):
    point = {"x": 0, "y": "a"}
    study = open_study(tmp_path, LISTED, total=9, kept={"epochs": 1})
    running = _claim_point(study, point)
    assert study.finished_duplicate(_claim_point(study, point)) is None
    study.tell(running, Outcome(TrialState.FAIL, error="e"))
    assert study.finished_duplicate(_claim_point(study, point)) is None
    complete(study, _claim_point(study, point), 1.0)
    other = open_study(tmp_path, LISTED, total=9, kept={"epochs": 2}, on_change="continue")
    assert other.finished_duplicate(_claim_point(other, point)) is None


def _claim_point(study, point):
    study.optuna_study.enqueue_trial(point)
    return study.claim()


# Of another program.


def study_of_optuna_alone(folder, **changed):
    storage = open_storage(parse_address(str(folder / "study.journal")))
    return optuna.create_study(study_name="study", storage=storage, **changed)


def test_study_whose_trials_another_program_has_run_is_refused_with_a_way_out(tmp_path):
    foreign = study_of_optuna_alone(tmp_path)
    foreign.enqueue_trial({"x": 0.5})
    foreign.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    told = "^hydra.sweeper.study_name=study: this storage has a study of another program by that name, with 2 trials; "
    with pytest.raises(StudyError, match=f"{told}choose another hydra.sweeper.study_name$"):
        open_study(tmp_path)
    assert foreign.user_attrs == {}
    assert len(open_study(tmp_path, name="another").trials) == 0  # in the same storage


def test_study_in_which_trials_only_wait_is_gone_on_with(tmp_path):
    study_of_optuna_alone(tmp_path).enqueue_trial({"x": 0.5})
    assert open_study(tmp_path).claim().params == {"x": 0.5}
    assert open_study(tmp_path).trials[0].state == TrialState.RUNNING


# Dead controllers.


def test_trial_of_a_killed_controller_is_recovered_once_with_its_parameters(tmp_path):
    code = """
        study = open_study(folder, total=3)
        complete(study, study.claim())
        study.claim()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run_as_process(tmp_path, code) == -signal.SIGKILL
    study = open_study(tmp_path, total=3)
    mine = study.claim()
    (recovered,) = study.recover()
    assert (recovered.number, recovered.state, study.recover()) == (1, TrialState.FAIL, [])
    again = study.claim()
    assert (again.params, again.number) == (recovered.params, 3)
    complete(study, again)
    complete(study, mine)
    assert study.claim() is None
    assert study.ledger.counts == {"COMPLETE": 3, "RETRIED": 1}


@pytest.mark.parametrize("queued", [{"x": 1, "y": 5}, {"x": 1}])
@pytest.mark.parametrize("suggested", [[], ["x"], ["x", "y"]])
def test_trial_of_a_controller_that_was_killed_while_it_asked_is_tried_again_with_all_that_is_known(
    queued, suggested, tmp_path
):
    space = {"x": IntDistribution(0, 2), "y": IntDistribution(0, 10**9)}
    study = open_study(tmp_path, space, total=1)
    study.enqueue([queued])
    lost = study.optuna_study.ask({key: space[key] for key in suggested})
    known = queued | lost.params
    assert [trial.number for trial in study.recover()] == [lost.number]
    again = study.claim()
    assert again.user_attrs["retry_of"] == lost.number
    assert again.params == again.params | known


def test_trials_of_living_controllers_are_left_alone(tmp_path):
    study = open_study(tmp_path)
    study.claim()
    assert open_study(tmp_path).recover() == []
    assert study.ledger.counts == {"RUNNING": 1}


def test_trials_that_were_set_aside_by_a_process_that_died_before_it_queued_them_are_queued(tmp_path):
    study = open_study(tmp_path, total=3)
    failed = study.claim()
    study.tell(failed, Outcome(TrialState.FAIL, error="no"))
    study.optuna_study.set_user_attr(SET_ASIDE, [failed.number])
    again = open_study(tmp_path, total=3)
    assert again.recover() == again.recover() == []
    assert [(trial.state.name, trial.user_attrs.get("retry_of")) for trial in again.trials] == [
        ("FAIL", None),
        ("WAITING", failed.number),
    ]


def test_trials_that_one_controller_sets_aside_are_counted_no_longer_by_another_one(tmp_path):
    first, second = open_study(tmp_path, total=2), open_study(tmp_path, total=2)
    first.tell(first.claim(), Outcome(TrialState.FAIL, error="no"))
    complete(second, second.claim())
    assert second.claim() is None
    first.set_aside([0])
    again = second.claim()
    assert again.user_attrs["retry_of"] == 0
    complete(second, again)
    assert first.ledger.counts == second.ledger.counts == {"COMPLETE": 2, "RETRIED": 1}
    assert first.claim() is second.claim() is None


def test_nothing_is_lost_or_doubled_when_a_process_is_killed_before_any_of_its_writes(tmp_path):
    """The process claims, interrupts and recovers trials, and dies before the first, the second, ... of its writes."""
    code = """
        from optuna.storages.journal import JournalFileBackend

        def die_before_write(number):
            written, write = [], JournalFileBackend.append_logs
            def append_logs(backend, logs):
                written.append(logs)
                if len(written) == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                write(backend, logs)
            JournalFileBackend.append_logs = append_logs

        for number in range(1, 100):
            folder.joinpath(str(number)).mkdir()
            if os.fork() == 0:  # leaves a trial to recover
                open_study(folder / str(number), total=4).claim()
                os._exit(0)
            os.wait()
            child = os.fork()
            if child == 0:
                die_before_write(number)
                study = open_study(folder / str(number), total=4, max_retries=9)
                study.recover()
                study.tell(study.claim(), INTERRUPTED)
                study.tell(study.claim(), LOST)
                complete(study, study.claim())
                os._exit(0)
            if os.waitpid(child, 0)[1] == 0:
                os._exit(0)
        os._exit(1)
    """
    assert run_as_process(tmp_path, code) == 0
    folders = list(tmp_path.iterdir())
    assert len(folders) > 20
    for folder in folders:
        study = open_study(folder, total=4)
        study.recover()
        run_all(study)
        counts = study.ledger.counts
        assert (counts["COMPLETE"], set(counts) <= {"COMPLETE", "RETRIED"}) == (4, True), (folder.name, counts)
        retries = [trial.user_attrs["retry_of"] for trial in study.trials if "retry_of" in trial.user_attrs]
        assert len(retries) == len(set(retries)) == counts["RETRIED"], folder.name


# Continuing with something changed.


@pytest.mark.parametrize(
    ("before", "now", "difference"),
    [
        ({}, {"space": {"x": FloatDistribution(0.0, 2.0)}}, "x: [0, 1] -> [0, 2]"),
        (
            {"space": {"x": IntDistribution(0, 8)}},
            {"space": {"x": IntDistribution(0, 8, step=2)}},
            "x: [0, 8] -> [0, 8, step 2]",
        ),
        ({}, {"space": UNIT | {"y": IntDistribution(1, 9, step=2)}}, "y: - -> [1, 9, step 2]"),
        ({"space": UNIT | {"y": IntDistribution(1, 9)}}, {}, "y: [1, 9] -> -"),
        ({"kept": {"epochs": 1}}, {"kept": {"epochs": 2}}, "epochs: 1 -> 2"),
        ({"kept": {"epochs": 1}}, {"kept": {"epochs": 1, "seed": 3}}, "seed: - -> 3"),
    ],
)
def test_change_is_refused_by_its_difference_or_continued_if_asked(tmp_path, before, now, difference):
    run_all(open_study(tmp_path, total=1, **before))
    with pytest.raises(StudyError) as error:
        open_study(tmp_path, total=2, **now)
    assert "hydra.sweeper.study_name=study: the study was made for another sweep" in str(error.value)
    assert f"({difference})" in str(error.value)
    assert "hydra.sweeper.on_change=continue" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(run_all(open_study(tmp_path, total=2, on_change="continue", **now))) == 1
    open_study(tmp_path, total=2, **now)


@pytest.mark.parametrize(
    ("before", "now", "difference", "obstacle"),
    [
        (
            {"space": {"x": CategoricalDistribution([1, 2])}},
            {"space": {"x": CategoricalDistribution([1, 2, 3])}},
            "x: choice(1,2) -> choice(1,2,3)",
            "list of values of x",
        ),
        ({"space": {"x": IntDistribution(0, 1)}}, {"space": UNIT}, "x: [0, 1] -> [0, 1]", "type of x"),
        (
            {},
            {"space": {"x": FloatDistribution(0.1, 1.0, log=True)}},
            "x: [0, 1] -> [0.1, 1, log]",
            "type of x",
        ),
        ({}, {"direction": "maximize"}, "direction: minimize -> maximize", "direction"),
        ({}, {"direction": ["minimize", "minimize"]}, "direction: minimize -> minimize, minimize", "direction"),
    ],
)
@pytest.mark.parametrize("on_change", ["refuse", "continue"])
def test_change_that_optuna_cannot_make_is_always_refused(tmp_path, before, now, difference, obstacle, on_change):
    run_all(open_study(tmp_path, total=1, **before))
    with pytest.raises(StudyError) as error:
        open_study(tmp_path, total=2, on_change=on_change, **now)
    assert difference in str(error.value)
    assert f"Optuna cannot continue with another {obstacle}; choose another hydra.sweeper.study_name" in str(
        error.value
    )
    open_study(tmp_path, total=2, on_change="refuse", **before)


def test_all_differences_are_told_at_once(tmp_path):
    open_study(tmp_path, kept={"epochs": 1})
    with pytest.raises(StudyError, match=r"direction: .*; x: .*; epochs: "):
        open_study(tmp_path, {"x": FloatDistribution(0.0, 3.0)}, kept={"epochs": 2}, direction="maximize")


@pytest.mark.parametrize(
    "space",
    [
        LISTED,
        {"x": CategoricalDistribution([True, 1, None, "a", 0.5])},
        {"x": FloatDistribution(1e-6, 1e-2, log=True)},
        {"x": FloatDistribution(0.0, 0.3, step=0.1)},
    ],
)
@pytest.mark.parametrize("total", [5, 8])
def test_unchanged_study_is_continued_whatever_its_total_sampler_and_pruner(tmp_path, space, total):
    open_study(tmp_path, space, total=5, kept={"a.b": [1, None, {"c": 0.1}]}).claim()
    later = open_study(
        tmp_path, space, total=total, kept={"a.b": [1, None, {"c": 0.1}]}, sampler="tpe", pruner="median"
    )
    assert later.claim() is not None


# Samplers, pruners, ranking.


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "qmc", "nsgaii", "nsgaiii", "partial_fixed"])
def test_study_that_is_continued_tries_what_an_uninterrupted_one_tries(tmp_path, sampler):
    space = {"x": FloatDistribution(0.0, 1.0), "y": IntDistribution(1, 5)}
    uninterrupted = run_all(open_study(tmp_path, space, total=14, sampler=sampler, name="uninterrupted"))
    continued = []
    for total in (1, 2, 6, 12, 14):
        continued += run_all(open_study(tmp_path, space, total=total, sampler=sampler))
    assert continued == uninterrupted


# CMA-ES draws by the number of the trial, which a retry changes.
@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "nsgaii", "nsgaiii", "partial_fixed"])
def test_study_whose_trials_are_interrupted_tries_what_an_uninterrupted_one_tries(tmp_path, sampler):
    space = {"x": FloatDistribution(0.0, 1.0), "y": IntDistribution(1, 5)}
    uninterrupted = run_all(open_study(tmp_path, space, total=14, sampler=sampler, name="uninterrupted"))
    study, tried = open_study(tmp_path, space, total=14, sampler=sampler), []
    for interrupted in (2, 3, 5, 11):
        while len(tried) < interrupted:
            trial = study.claim()
            tried.append(trial.params)
            complete(study, trial)
        study.tell(study.claim(), INTERRUPTED)
        study = open_study(tmp_path, space, total=14, sampler=sampler)
    tried += run_all(study)
    assert tried == uninterrupted


def test_sampler_takes_trials_that_run_into_account(tmp_path):
    """As its `constant_liar` has it: else those that are claimed at once would be near each other."""

    def claimed_at_once(name, sampler):
        study = open_study(tmp_path, total=20, name=name, sampler=sampler)
        for _ in range(12):
            trial = study.claim()
            complete(study, trial, (trial.params["x"] - 0.5) ** 2)
        return [study.claim().params["x"] for _ in range(4)]

    told = claimed_at_once("told", SAMPLERS["tpe"])
    untold = claimed_at_once("untold", SAMPLERS["tpe"] | {"constant_liar": False})
    assert told[0] == untold[0]
    assert told[1:] != untold[1:]


def test_another_seed_tries_other_points(tmp_path):
    tried = []
    for seed in (0, 1):
        study = open_study(tmp_path, name=str(seed), sampler=SAMPLERS["tpe"] | {"seed": seed})
        tried.append(run_all(study))
    assert all(first != second for first, second in zip(*tried, strict=True))


@pytest.mark.parametrize("sampler", sorted(SAMPLERS.keys() - {"grid", "gp"}))
def test_every_sampler_drives_trials(tmp_path, sampler):
    study = open_study(tmp_path, LISTED, total=6, sampler=sampler)
    tried = run_all(study)
    assert study.ledger.counts == {"COMPLETE": 6}
    assert all(set(point) == {"x", "y"} for point in tried)


@pytest.mark.skipif(find_spec("torch") is not None, reason="PyTorch is installed")
def test_sampler_whose_library_is_missing_is_refused_by_the_librarys_name(tmp_path):
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.sampler.*torch"):
        run_all(open_study(tmp_path, total=20, sampler="gp"))
    assert list(tmp_path.iterdir()) == []


def test_brute_force_tries_every_point_once_and_stops(tmp_path):
    study = open_study(tmp_path, LISTED, total=50, sampler="brute_force")
    tried = run_all(study)
    assert sorted(tuple(point.values()) for point in tried) == [(x, y) for x in range(3) for y in ("a", "b")]
    assert study.total == 6


def test_brute_force_of_an_interval_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="infinite"):
        open_study(tmp_path, sampler="brute_force").claim()


@pytest.mark.parametrize("pruner", sorted(PRUNERS))
def test_every_pruner_judges_reported_values(tmp_path, pruner):
    settings = PRUNERS[pruner] | ({"upper": 5.0} if pruner == "threshold" else {})  # which has no default
    study = open_study(tmp_path, total=12, pruner=settings)
    while (trial := study.claim()) is not None:
        for step in range(1, 10):
            trial.report(trial.number + step / 100, step)
            if trial.should_prune():
                study.tell(trial, read_outcome(TrialPruned(), 1))
                break
        else:
            complete(study, trial, float(trial.number))
    counts = study.ledger.counts
    assert counts["COMPLETE"] + counts["PRUNED"] == 12
    assert (counts["PRUNED"] > 0) == (pruner != "none")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"sampler": {"_target_": "optuna.samplers.NoSampler"}},
            "hydra.sweeper.sampler._target_=optuna.samplers.NoSampler",
        ),
        ({"sampler": {"_target_": "optuna.samplers.TPESampler", "n_startup": 1}}, "n_startup"),
        ({"sampler": {"_target_": "optuna.pruners.NopPruner"}}, "this is no Optuna sampler"),
        ({"sampler": {}}, "hydra.sweeper.sampler"),
        ({"pruner": {"_target_": "optuna.pruners.ThresholdPruner"}}, "lower"),
        ({"pruner": {"_target_": "optuna.pruners.PercentilePruner", "percentile": 101}}, "[Pp]ercentile"),
        ({"pruner": {"_target_": "optuna.samplers.RandomSampler"}}, "this is no Optuna pruner"),
    ],
)
def test_sampler_or_pruner_that_cannot_be_built_is_refused_before_there_is_a_study(tmp_path, changed, message):
    with pytest.raises(ConfigError, match=message) as error:
        open_study(tmp_path, **changed)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("direction", "ranked"), [("minimize", [1, 3, 0]), ("maximize", [0, 1, 3])])
def test_ranking_has_the_best_completed_trial_first_and_the_older_of_equals(tmp_path, direction, ranked):
    study = open_study(tmp_path, direction=direction)
    for value in (3.0, 0.0, None, 0.0):
        trial = study.claim()
        if value is None:
            study.tell(trial, Outcome(TrialState.FAIL, error="e"))
        else:
            complete(study, trial, value)
    study.claim()
    assert [trial.number for trial in study.ranking()] == ranked


def test_ranking_of_several_objectives_is_the_pareto_front_by_the_first(tmp_path):
    study = open_study(tmp_path, total=6, direction=["maximize", "minimize"])
    values = [(1.0, 1.0), (2.0, 2.0), (2.0, 3.0), (0.5, 1.5), (3.0, 9.0)]
    for pair in values:
        complete(study, study.claim(), *pair)
    study.tell(study.claim(), Outcome(TrialState.FAIL, error="e"))
    assert [tuple(trial.values) for trial in study.ranking()] == [(3.0, 9.0), (2.0, 2.0), (1.0, 1.0)]


def test_pareto_front_has_no_trial_of_other_settings(tmp_path):
    directions = ["minimize", "minimize"]
    before = open_study(tmp_path, direction=directions, kept={"epochs": 1})
    complete(before, before.claim(), 0.0, 0.0)
    now = open_study(tmp_path, direction=directions, kept={"epochs": 2}, on_change="continue")
    complete(now, now.claim(), 1.0, 2.0)
    assert [tuple(trial.values) for trial in now.ranking()] == [(1.0, 2.0)]


def test_description_names_what_is_searched_and_hides_a_password(tmp_path):
    values = OmegaConf.to_container(OmegaConf.structured(_config.OptunaSweeperConf))
    del values["defaults"]
    values |= {"sampler": SAMPLERS["tpe"], "pruner": PRUNERS["median"], "storage": "postgresql://me:secret@host/db"}
    about = describe_study(check_settings(values), SearchSpace(LISTED, [], True, {}))
    assert about["search space"] == "x in [0, 2]; y in choice(a,b)"
    assert about["sampler"] == "optuna.samplers.TPESampler"
    assert about["pruner"] == "optuna.pruners.MedianPruner"
    assert "secret" not in about["storage"]
    assert "host" in about["storage"]


@pytest.mark.parametrize("sampler", ["random", "tpe"])  # one suggests by itself, one all together
def test_suggested_numbers_have_four_digits_within_their_interval_and_queued_ones_are_as_they_were_typed(
    tmp_path, sampler
):
    space = {"x": FloatDistribution(0.123456, 0.123567), "y": FloatDistribution(1e-6, 1e-2, log=True)}
    study = open_study(tmp_path, space, total=16, sampler=sampler)
    typed = {"x": 0.12345678, "y": 0.00012345678}
    study.enqueue([typed])
    first, *suggested = run_all(study)
    assert first == typed
    ends = {0.123456, 0.123567}
    assert {each["x"] for each in suggested} <= ends | {0.1235}
    assert all(each["y"] == float(f"{each['y']:.4g}") for each in suggested)
    assert len({each["y"] for each in suggested}) == 15


def test_values_are_exact_in_the_storage(tmp_path):
    study = open_study(tmp_path)
    trial = study.claim()
    complete(study, trial, math.pi)
    (kept,) = optuna.load_study(study_name="study", storage=study.optuna_study._storage).trials
    assert (kept.value, kept.params) == (math.pi, trial.params)


def test_queued_point_that_optuna_asked_for_twice_is_run_once(tmp_path):
    """As it does by itself where a database's answer is lost."""
    study = open_study(tmp_path, LISTED, total=3)
    study.enqueue([{"x": 1, "y": "a"}])
    storage, (queued,) = study.optuna_study._storage, study.trials
    storage._storage.create_new_trial(study.optuna_study._study_id, queued)
    study.enqueue([{"x": 2, "y": "b"}])
    claimed = []
    while (trial := study.claim()) is not None:
        claimed.append(trial.params)
        study.tell(trial, Outcome(TrialState.COMPLETE, values=[1.0]))
    assert len(claimed) == 3
    assert claimed[:2] == [{"x": 1, "y": "a"}, {"x": 2, "y": "b"}]
    assert study.recover() == []
    assert study.ledger.counts == {"COMPLETE": 3, "RETRIED": 1}
