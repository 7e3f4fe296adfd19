"""Controllers killed at any moment, or several of them at once, end in the sweep that one would have made.

The long form: CNN_SWEEPS_KILLS=10 CNN_SWEEPS_TRIALS=30 pytest tests/test_sweep_survival.py
"""

import os
import random
import time
from collections import Counter

import mlflow
import pytest
import yaml
from tiny_sweeps import (
    SWEEP,
    all_runs,
    finish,
    measured_on_test,
    processes_in,
    started,
    study_in,
    sweep_folder,
    sweep_log,
    wait_until,
)

from cnn_sweeps.sweep.space import override_text

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

NUM_KILLS = int(os.environ.get("CNN_SWEEPS_KILLS", "2"))
NUM_TRIALS = int(os.environ.get("CNN_SWEEPS_TRIALS", "6"))
SEED = int(os.environ.get("CNN_SWEEPS_SEED", "0"))
# Somewhat longer than all trials take, so that some kills hit the start, some training, and some the end.
LONGEST_ROUND_S = 15 + NUM_TRIALS

COMMAND = [*SWEEP, f"hydra.sweeper.n_trials={NUM_TRIALS}", "hydra/sweeper/pruner=none"]


def check_what_a_sweep_leaves(folder):
    """Check that study, record and folders agree, and are those of exactly the trials that were asked for."""
    study = study_in(folder)
    trials = study.trials
    counted = [trial for trial in trials if not trial.user_attrs.get("retried")]
    assert Counter(trial.state.name for trial in counted) == {"COMPLETE": NUM_TRIALS}
    assert {trial.state.name for trial in trials if trial not in counted} <= {"FAIL"}
    retried = [trial.number for trial in trials if trial not in counted]
    assert sorted(trial.user_attrs["retry_of"] for trial in trials if "retry_of" in trial.user_attrs) == retried
    assert len({str(trial.params) for trial in counted}) == NUM_TRIALS

    runs = all_runs(folder)
    assert Counter(run.info.status for run in runs if run.info.status != "KILLED") == {"FINISHED": NUM_TRIALS + 1}
    of_trial = {trial.number: [] for trial in trials}
    for run in runs:
        if "trial.number" in run.data.tags:
            of_trial[int(run.data.tags["trial.number"])].append(run)
    for trial in trials:
        whole = [run for run in of_trial[trial.number] if run.info.status != "KILLED"]
        if trial in counted:
            assert [run.info.run_id for run in whole] == [trial.user_attrs["mlflow.run_id"]]
            assert whole[0].data.metrics["final_val_log_loss"] == trial.value
            assert whole[0].data.tags["trial.state"] == "COMPLETE"
        else:
            assert whole == []

    (parent,) = (run for run in runs if "trial.number" not in run.data.tags and run.info.status != "KILLED")
    assert parent.info.run_id == study.user_attrs["mlflow.run_id"]
    assert parent.data.metrics["trials.complete"] == NUM_TRIALS
    assert parent.data.metrics["best_val_log_loss"] == study.best_value
    tested = {run.data.tags["trial.number"] for run in runs if measured_on_test(run)}
    assert str(study.best_trial.number) in tested
    champion = mlflow.MlflowClient().get_model_version_by_alias("cnn-sweeps-synthetic", "champion")
    assert champion.tags["trial.number"] == str(study.best_trial.number)

    for trial in trials:
        job = sweep_folder(folder) / str(trial.number)
        assert (job / "train.log").exists() or trial not in counted
        if (job / "train.log").exists():
            assert (job / "train.log").read_text().count(" images of 2 classes") <= 1
        if (job / ".hydra/overrides.yaml").exists():
            overrides = yaml.safe_load((job / ".hydra/overrides.yaml").read_text())
            assert {override_text(key, value) for key, value in trial.params.items()} <= set(overrides)
    assert list((folder / "outputs/checkpoints").glob("*.npz")) == []


@pytest.mark.timeout(60 + (NUM_KILLS + 1) * (60 + LONGEST_ROUND_S))
def test_sweep_whose_controller_is_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path):
    moment = random.Random(SEED)
    command = [*COMMAND, "hydra.sweeper.n_jobs=2"]
    for _ in range(NUM_KILLS):
        with started(tmp_path, *command) as process:
            time.sleep(moment.uniform(0, LONGEST_ROUND_S))
            process.kill()
            process.wait()
            wait_until(lambda: processes_in(tmp_path) == [], "the workers' end", timeout_s=20)
    with started(tmp_path, *command) as process:
        finish(tmp_path, process, timeout_s=60 + 5 * NUM_TRIALS)
        wait_until(lambda: processes_in(tmp_path) == [], "the workers' end", timeout_s=20)
    check_what_a_sweep_leaves(tmp_path)


@pytest.mark.timeout(240 + 10 * NUM_TRIALS)
def test_two_controllers_at_once_make_one_sweep_and_test_its_best_trial_once(tmp_path):
    with started(tmp_path, *COMMAND) as first, started(tmp_path, *COMMAND) as second:
        for process in (first, second):
            finish(tmp_path, process, timeout_s=120 + 5 * NUM_TRIALS)
    check_what_a_sweep_leaves(tmp_path)
    trials = study_in(tmp_path).trials
    assert len(trials) == NUM_TRIALS
    assert {trial.user_attrs["owner"]["owner.pid"] for trial in trials} == {str(first.pid), str(second.pid)}
    assert sweep_log(tmp_path).count("on the test images, once") == 1
    assert sweep_log(tmp_path).count("was tested before") == 1
