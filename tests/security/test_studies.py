"""What a study says is data: others may write to it, and it neither becomes code nor names folders."""

import re
import shutil

import optuna
import pytest
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from tiny_sweeps import IN_THIS_PROCESS, SWEEP, command_in, run_of, study_in, sweep_folder, sweep_log

from cnn_sweeps.sweep.settings import check_settings
from cnn_sweeps.sweep.space import SearchSpace
from cnn_sweeps.sweep.study import storage
from cnn_sweeps.sweep.study.address import trial_subfolder
from cnn_sweeps.sweep.study.ledger import earlier_attempts, last_attempt, unsearched
from cnn_sweeps.sweep.study.study import SweepStudy
from hydra_plugins.cnn_sweeps import _config

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

QUICK = [*SWEEP, IN_THIS_PROCESS, "training.epochs=1", "tracking.log_model=false"]


def open_study(folder, total=5):
    """Open a study of one parameter, x in 0 to 1, as a sweep does."""
    values = OmegaConf.to_container(OmegaConf.structured(_config.OptunaSweeperConf)) | {
        "sampler": {"_target_": "optuna.samplers.RandomSampler"},
        "pruner": {"_target_": "optuna.pruners.NopPruner"},
        "storage": str(folder / "study.journal"),
        "study_name": "study",
    }
    del values["defaults"]
    space = SearchSpace({"x": FloatDistribution(0.0, 1.0)}, [], True, {})
    return SweepStudy(space, check_settings(values), total, {})


def add_waiting_trial(folder, **values):
    """Queue a trial as anybody can who may write to the study; its parameters need no search space."""
    params = {"model.dropout": 0.25} | values
    distributions = {name: CategoricalDistribution([value]) for name, value in values.items()}
    distributions["model.dropout"] = FloatDistribution(0.0, 0.7)
    trial = create_trial(state=TrialState.WAITING, params=params, distributions=distributions)
    study_in(folder).add_trial(trial)


@pytest.fixture(scope="module")
def continued(store, tmp_path_factory):
    """The folder of a sweep that went on once others had queued three and added a better one."""
    folder = tmp_path_factory.mktemp("continued")
    (folder / "my_code.py").write_text("from pathlib import Path\ndef run(**_): Path('was run').touch()\n")
    with command_in(folder, store) as run_train_here:
        run_train_here(*QUICK, "hydra.sweeper.n_trials=1", "evaluate_best=false")
        foreign = {"data._target_": "my_code.run", "+data.config": "{_target_: my_code.run}"}
        add_waiting_trial(folder, **foreign, **{"hydra.run.dir": "elsewhere"})
        add_waiting_trial(folder)
        study_in(folder).enqueue_trial({"model.dropout": 0.5, "data._target_": "my_code.run"})
        params = {"model.dropout": 0.125, "data._target_": "my_code.run"}
        distributions = {name: CategoricalDistribution([value]) for name, value in params.items()}
        study_in(folder).add_trial(create_trial(params=params, distributions=distributions, value=-1.0))
        run_train_here(*QUICK, "hydra.sweeper.n_trials=5", "evaluate_best=false")
    return folder


def test_waiting_trial_with_names_that_the_command_does_not_search_is_not_run_and_the_sweep_goes_on(continued):
    first, refused, third, *_ = study_in(continued).trials
    assert (first.state.name, refused.state.name, third.state.name) == ("COMPLETE", "FAIL", "COMPLETE")
    told = "it was queued with '+data.config', 'data._target_', 'hydra.run.dir', which this sweep does not"
    assert told in refused.user_attrs["error"]
    assert told in sweep_log(continued)
    assert not (sweep_folder(continued) / "1").exists()
    assert not (continued / "was run").exists()


@pytest.mark.parametrize(
    "value", ["abc", "0.5", "x" * 10**5, None, True, [0.5], {"a": 0.5}, float("nan"), float("inf"), 10**400, -0.1, 50]
)
def test_value_that_is_not_searched_is_known_before_it_ends_the_sampler(value):
    queued = create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": {"x": value}})
    (told,) = unsearched(queued, {"x": FloatDistribution(0.0, 1.0)})
    assert told.startswith("x=")
    assert len(told) < 50
    assert unsearched(queued, {"x": IntDistribution(0, 9)})
    assert unsearched(queued, {"x": CategoricalDistribution(["a", "b"])})


def test_value_of_another_kind_of_list_or_number_is_not_searched():
    given = {"x": 1, "y": "a"}, {"x": IntDistribution(0, 9), "y": CategoricalDistribution(["a", "b"])}
    queued = create_trial(state=TrialState.WAITING, params=given[0], distributions=given[1])
    assert unsearched(queued, given[1]) == []
    searched = {"x": FloatDistribution(0.0, 1.0), "y": CategoricalDistribution(["a", "c"])}
    assert unsearched(queued, searched) == ["x=1", "y='a'"]


def test_value_that_is_searched_is_known():
    queued = create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": {"x": 1, "other": "any"}})
    for searched in (FloatDistribution(0.0, 1.0), IntDistribution(0, 9), CategoricalDistribution(["a", 1])):
        assert unsearched(queued, {"x": searched}) == []


def test_trials_that_others_have_queued_with_unusable_values_cost_themselves_alone(tmp_path):
    study = open_study(tmp_path)
    for fixed in ({"x": "abc"}, 7, {"x": 10**400}):
        queued = create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": fixed})
        study.optuna_study.add_trial(queued)
    study.optuna_study.enqueue_trial({"x": 0.25})
    claimed = [study.claim() for _ in range(5)]
    assert [trial.state.name for trial in study.trials] == ["FAIL", "FAIL", "FAIL", "RUNNING", "RUNNING"]
    assert [trial.number for trial in claimed] == [0, 1, 2, 3, 4]
    assert claimed[3].params == {"x": 0.25}
    assert claimed[0].user_attrs["error"].startswith("it was queued with x='abc', which this sweep")
    assert study.claim() is None
    assert not study.failed[0].user_attrs.get("retried")


@pytest.mark.parametrize("value", ["abc", 50, float("nan"), None])
def test_value_that_a_users_own_function_does_not_search_costs_that_trial_alone(value, tmp_path):
    study = open_study(tmp_path)
    for y in (value, 3):
        study.optuna_study.enqueue_trial({"x": 0.5, "y": y})
    refused, good = (study.extend(study.claim(), lambda trial: trial.suggest_int("y", 0, 9)) for _ in range(2))
    assert refused.state == TrialState.FAIL
    assert f"it was queued with y={value!r}" in refused.user_attrs["error"]
    assert good is None
    assert study.trials[1].params == {"x": 0.5, "y": 3}


def test_error_of_a_users_own_function_is_an_error_as_ever(tmp_path):
    study = open_study(tmp_path)
    study.optuna_study.enqueue_trial({"x": 0.5})
    with pytest.raises(ZeroDivisionError):
        study.extend(study.claim(), lambda trial: 1 / 0)


def test_trial_that_is_queued_between_looking_and_asking_is_not_run_either(tmp_path, monkeypatch):
    study = open_study(tmp_path)
    params, distributions = {"x": 0.5, "data._target_": "f"}, dict.fromkeys(["x"], FloatDistribution(0.0, 1.0))
    distributions["data._target_"] = CategoricalDistribution(["f"])
    queued = create_trial(state=TrialState.WAITING, params=params, distributions=distributions)
    ask = study.optuna_study.ask
    monkeypatch.setattr(study.optuna_study, "ask", lambda given: study.optuna_study.add_trial(queued) or ask(given))
    assert study.claim().state == TrialState.FAIL


def test_waiting_trial_with_names_of_the_search_space_is_run(continued):
    """The parameters of one that is only queued, as `optuna.Study.enqueue_trial` does it, are those of the space."""
    third, fourth = study_in(continued).trials[2:4]
    assert [trial.state.name for trial in (third, fourth)] == ["COMPLETE"] * 2
    assert [trial.params["model.dropout"] for trial in (third, fourth)] == [0.25, 0.5]
    assert "data._target_" not in fourth.params


def test_trial_that_never_ran_here_is_not_the_best_one_and_none_of_its_names_is_in_the_best_command(continued):
    best, *_ = sorted(study_in(continued).trials[:4], key=lambda trial: (trial.value is None, trial.value))
    command = sweep_log(continued).rpartition("to run by itself:\n")[2]
    assert f" model.dropout={best.params['model.dropout']} " in command
    assert "my_code" not in command


def test_folder_that_a_trial_notes_outside_the_sweeps_is_neither_read_nor_written(run_train, tmp_path):
    run_train(*QUICK, "hydra.sweeper.n_trials=1", "evaluate_best=false")
    own, elsewhere = sweep_folder(tmp_path) / "0", tmp_path / "elsewhere"
    shutil.copytree(own, elsewhere)
    (elsewhere / "config.yaml").write_text("data: {_target_: my_code.run}\n")
    before = {path: path.stat().st_mtime_ns for path in elsewhere.rglob("*")}
    _note_folder(tmp_path, str(elsewhere))
    run_train(*QUICK, "hydra.sweeper.n_trials=1", "evaluate_best=1")
    assert "test_accuracy" in run_of(study_in(tmp_path).trials[0]).data.metrics
    assert (own / "evaluation.log").exists()
    assert {path: path.stat().st_mtime_ns for path in elsewhere.rglob("*")} == before


def _note_folder(folder, noted):
    """Change what the study's journal says of the trial's folder; Optuna itself changes no finished trial."""
    journal = sweep_folder(folder) / "study.journal"
    text, changed = re.subn('"folder": ?"0"', f'"folder":"{noted}"', journal.read_text())
    assert changed == 1
    journal.write_text(text)
    storage._open_kept.cache_clear()  # which knows how far it was read


@pytest.mark.parametrize(
    ("noted", "subfolder"),
    [
        ("3", "3"),
        ("trial 3", "trial 3"),
        ("lr=0.1/3", "lr=0.1/3"),
        ("../other/3", "3"),
        ("inside/../../other", "3"),
        ("/etc", "3"),
        ("..", "3"),
        (".", "3"),
        ("", "3"),
        ("x" * 256, "3"),
        ("/".join(["x"] * 3000), "3"),
        ("a\0b", "3"),
        ("0\n1", "3"),
        (None, "3"),
        (["/etc"], "3"),
    ],
)
def test_folder_of_a_trial_is_below_its_sweeps_whatever_the_study_says(noted, subfolder):
    assert trial_subfolder(3, noted) == subfolder


def test_trials_that_say_that_they_try_each_other_again_end_nothing():
    study = optuna.create_study()
    for retried in (1, 0, "x", -1, 4, 9):
        study.add_trial(create_trial(value=0.0, user_attrs={"retry_of": retried}))
    trials = study.trials
    assert [last_attempt(trial, trials).number for trial in trials] == [1, 1, 2, 3, 4, 5]
    assert [[each.number for each in earlier_attempts(trial, trials)] for trial in trials] == [[], [0], [], [], [], []]
