"""What the fault tests check finds each kind of loss."""

from copy import deepcopy
from types import SimpleNamespace

import optuna
import pytest
from invariants import of_best, of_record, of_study, of_sweeps_run

SPACE = {"model.l2": optuna.distributions.FloatDistribution(0, 1)}


def trial(number, value, attributes):
    """A trial whose parameter is its value; without one, a failed trial."""
    made = optuna.trial.create_trial(
        state=optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE,
        value=value,
        params={"model.l2": value or 0.3},
        distributions=SPACE,
        user_attrs=attributes | {"record": f"record {number}"},
    )
    made.number = number
    return made


def run(number, status, **tags):
    value = {0: 0.5, 2: 0.3}.get(number)
    tags |= {"trial.number": str(number), "trial.state": "COMPLETE", "record.id": f"record {number}"}
    metrics = {"final_val_log_loss": value} | ({"test_log_loss": 0.4} if number == 2 else {})
    return SimpleNamespace(
        info=SimpleNamespace(run_id=f"run {number}", run_name=f"trial {number}", status=status),
        data=SimpleNamespace(tags=tags, metrics=metrics, params={"model.l2": str(value)}),
    )


@pytest.fixture
def swept():
    """A sweep of two trials, of which the second was lost once."""
    parent = run(-1, "FINISHED")
    del parent.data.tags["trial.number"]
    parent.data.metrics = {"trials.complete": 2.0, "best_val_log_loss": 0.3}
    return SimpleNamespace(
        trials=[trial(0, 0.5, {}), trial(1, None, {"retried": True}), trial(2, 0.3, {"retry_of": 1})],
        runs=[run(0, "FINISHED"), run(1, "KILLED"), run(2, "FINISHED"), parent],
        champion="2",
    )


def check(swept):
    return [
        *of_study(swept.trials, 2),
        *of_record(swept.trials, swept.runs),
        *of_sweeps_run(swept.trials, "run -1", swept.runs),
        *of_best(swept.trials, swept.runs, swept.champion),
    ]


def test_whole_sweep_violates_nothing(swept):
    assert check(swept) == []


def lose_a_trial(swept):
    swept.trials.pop()


def leave_a_trial_running(swept):
    swept.trials[0].state = optuna.trial.TrialState.RUNNING


def do_not_retry(swept):
    del swept.trials[2].user_attrs["retry_of"]


def retry_twice(swept):
    swept.trials.append(trial(3, None, {"retry_of": 1}))


def retry_with_others(swept):
    swept.trials[1].params = {"model.l2": 0.9}


def leave_a_run_running(swept):
    swept.runs[1].info.status = "RUNNING"


def lose_a_run(swept):
    del swept.runs[0]


def record_twice(swept):
    again = deepcopy(swept.runs[0])
    again.info.run_id = "again"
    swept.runs.append(again)


def record_what_was_lost(swept):
    swept.runs[1].info.status = "FINISHED"


def record_another_value(swept):
    swept.runs[0].data.metrics["final_val_log_loss"] = 0.50001


def record_another_parameter(swept):
    swept.runs[0].data.params["model.l2"] = "0.7"


def count_wrongly(swept):
    swept.runs[3].data.metrics["trials.complete"] = 1.0


def lose_the_sweeps_run(swept):
    swept.runs[3].info.status = "KILLED"


def leave_out_the_test(swept):
    del swept.runs[2].data.metrics["test_log_loss"]


def crown_another(swept):
    swept.champion = "0"


@pytest.mark.parametrize(
    ("lose", "violation"),
    [
        (lose_a_trial, "instead of 2 COMPLETE"),
        (leave_a_trial_running, "'RUNNING': 1"),
        (do_not_retry, "trials [1] were lost, [] retried"),
        (retry_twice, "trials [1] were lost, [1, 1] retried"),
        (retry_with_others, "with other parameters"),
        (leave_a_run_running, "run trial 1 is RUNNING"),
        (lose_a_run, "trial 0, COMPLETE, has 0 whole runs, not 1"),
        (record_twice, "trial 0, COMPLETE, has 2 whole runs, not 1"),
        (record_what_was_lost, "trial 1, FAIL, has 1 whole runs, not 0"),
        (record_another_value, "0.50001"),
        (record_another_parameter, "'model.l2': '0.7'"),
        (count_wrongly, "the sweep's run tells"),
        (lose_the_sweeps_run, "the sweep has 0 whole runs of its own"),
        (leave_out_the_test, "trial 2 is the best and was not tested"),
        (crown_another, "the champion is trial 0"),
    ],
)
def test_loss_is_a_violation(lose, violation, swept):
    lose(swept)
    assert any(violation in line for line in check(swept))
