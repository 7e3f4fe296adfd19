"""Where MLflow's record of a sweep disagrees with Optuna's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from cnn_sweeps.doctor.evidence import Evidence, Finding
from cnn_sweeps.experiment.parts import final_metric
from cnn_sweeps.experiment.trial import run_id_of
from cnn_sweeps.selection.leftovers import AmendRun, due_ending
from cnn_sweeps.selection.sweep_records import RunState
from cnn_sweeps.sweep.console import summarize
from cnn_sweeps.sweep.space import by_setting, override_text, override_value
from cnn_sweeps.sweep.study.ledger import has_settings, retry_of
from cnn_sweeps.text.passwords import hide_passwords
from cnn_sweeps.tracking.runs import PARENT_TAG, STATE_TAG

_SAME_COMMAND = "give the sweep's command again"


def check_runs(evidence: Evidence) -> Iterator[Finding]:
    """Give the disagreements between the study and the runs."""
    for check in (_trial_runs, _child_runs, _abandoned_runs, _sweep_run):
        yield from check(evidence)


def _trial_runs(evidence: Evidence) -> Iterator[Finding]:
    for trial in evidence.study.trials:
        if not trial.state.is_finished():
            continue
        state, noted_id = trial.state.name, run_id_of(trial.user_attrs)
        run = evidence.noted_run(trial)
        if run is not None and not run.is_deleted:
            yield from _noted_run(evidence, trial, run)
        elif run is not None:
            restore = f"mlflow runs restore --run-id {noted_id} brings it back"
            yield Finding(f"trial {trial.number} is {state} and its run {noted_id} is deleted in MLflow", restore)
        elif noted_id is not None or trial.state != TrialState.FAIL:
            missing = f"its run {noted_id} is not in MLflow" if noted_id else "notes no run"
            yield Finding(
                f"trial {trial.number} is {state} and {missing}",
                "what the run measured is lost; to have it again, train the trial's settings: "
                f"{' '.join(override_text(key, value) for key, value in trial.params.items())}",
            )
        yield from _other_runs(evidence, trial)


def _noted_run(evidence: Evidence, trial: FrozenTrial, run: RunState) -> Iterator[Finding]:
    told = f"trial {trial.number}"
    if (repair := due_ending(trial, run)) is not None:
        says = f"run {run.run_id} is {run.status} with {STATE_TAG}={run.tags.get(STATE_TAG)}"
        due = f"it becomes {repair.status or run.status} with {STATE_TAG}={repair.tags[STATE_TAG]}"
        yield Finding(f"{told} is {trial.state.name} in the study, its {says}", due, repair)
    if evidence.sweep_run_id is not None and run.parent_id != evidence.sweep_run_id:
        yield Finding(
            f"{told}: its run {run.run_id} is below {run.parent_id or 'none'}, not below the sweep's",
            f"it is put below {evidence.sweep_run_id}",
            AmendRun(run.run_id, tags={PARENT_TAG: evidence.sweep_run_id}),
        )
    original = retry_of(trial)
    if original is not None and run.tags.get("trial.retry_of") != str(original):
        yield Finding(
            f"{told} tries trial {original} again, its run {run.run_id} has trial.retry_of="
            f"{run.tags.get('trial.retry_of')}",
            f"the tag becomes {original}",
            AmendRun(run.run_id, tags={"trial.retry_of": str(original)}),
        )
    if trial.state == TrialState.COMPLETE and has_settings(trial, evidence.study.settings_id):
        yield from _objectives(evidence, trial, run)
    if trial.state != TrialState.FAIL:  # which may have been killed before its parameters were recorded
        yield from _params(trial, run)


def _objectives(evidence: Evidence, trial: FrozenTrial, run: RunState) -> Iterator[Finding]:
    for name, value in zip(map(final_metric, evidence.study.objectives), trial.values, strict=False):
        recorded = run.metrics.get(name)
        if recorded is None:
            yield Finding(
                f"trial {trial.number} reached {value!r} and its run {run.run_id} has no {name}",
                "the study's value is recorded",
                AmendRun(run.run_id, metrics={name: value}),
            )
        elif recorded != value:
            yield Finding(
                f"trial {trial.number} reached {value!r} in the study, its run {run.run_id} has {name}={recorded!r}",
                f"nothing here tells which is true; python -m cnn_sweeps.reproduce {run.run_id} does",
            )


def _params(trial: FrozenTrial, run: RunState) -> Iterator[Finding]:
    for key, value in by_setting(trial.params).items():
        recorded = run.params.get(key)
        if recorded is None and not any(each.startswith(f"{key}.") for each in run.params):
            yield Finding(
                f"trial {trial.number} has {key}={value}, its run {run.run_id} has no such parameter",
                "the study's value is recorded",
                AmendRun(run.run_id, params={key: hide_passwords(str(value))}),
            )
        elif recorded is not None and not _is_same(value, recorded):
            yield Finding(
                f"trial {trial.number} has {key}={value} in the study, its run {run.run_id} has {recorded}",
                f"MLflow lets no parameter be changed; python -m cnn_sweeps.reproduce {run.run_id} tells which is true",
            )


def _is_same(value: Any, recorded: str) -> bool:
    """Tell whether a parameter, or the override that it stands for, is what a run recorded as text."""
    if "${" in str(value):
        return True
    meaning = override_value(value)
    try:
        return float(meaning) == float(recorded)
    except (TypeError, ValueError):
        return hide_passwords(str(meaning)) == recorded


def _other_runs(evidence: Evidence, trial: FrozenTrial) -> Iterator[Finding]:
    """Look at runs that have the trial's number and are not the one that it notes."""
    for run in evidence.runs_of(trial):
        if run.run_id == run_id_of(trial.user_attrs):
            continue
        if trial.state != TrialState.FAIL and run.status == "FINISHED":
            yield Finding(
                f"trial {trial.number} notes run {run_id_of(trial.user_attrs)}, and run {run.run_id} records it, too",
                f"if it is not needed: mlflow runs delete --run-id {run.run_id}",
            )
        elif (repair := due_ending(trial, run)) is not None:
            says = f"run {run.run_id}, not noted by it, is {run.status} with {STATE_TAG}={run.tags.get(STATE_TAG)}"
            due = f"it becomes {repair.status or run.status} with {STATE_TAG}=FAIL"
            yield Finding(f"trial {trial.number} is {trial.state.name} in the study; {says}", due, repair)


def _child_runs(evidence: Evidence) -> Iterator[Finding]:
    if evidence.may_be_at_work:  # a trial may have begun since the study was read
        return
    numbers = {str(trial.number) for trial in evidence.study.trials}
    for run in evidence.children:
        is_known = "retrained.trial" in run.tags if run.trial_number is None else run.trial_number in numbers
        if not is_known:
            of = "no trial" if run.trial_number is None else f"trial {run.trial_number}, which the study does not have"
            yield Finding(
                f"run {run.run_id} ({run.name}) is below the sweep's and of {of}",
                f"if it is not needed: mlflow runs delete --run-id {run.run_id}",
            )


def _abandoned_runs(evidence: Evidence) -> Iterator[Finding]:
    """Find the parts of trials, and retrainings, that a dead process left RUNNING."""
    of_trials = {run.run_id for run in evidence.children if run.trial_number is not None}
    of_trials |= {run_id for trial in evidence.study.trials if (run_id := run_id_of(trial.user_attrs))}
    for run in evidence.sweep.runs.values():
        if run.is_deleted or run.status != "RUNNING":
            continue
        is_elses = run.run_id in of_trials or run.run_id == evidence.sweep_run_id
        trial = evidence.trial_of(run.run_id) if run.run_id in of_trials else None
        is_to_be_closed = trial is not None and due_ending(trial, run) is not None
        if run.owner == "elsewhere" and not evidence.study.owners and not is_to_be_closed:
            host = run.tags["owner.host"]
            yield Finding(
                f"run {run.run_id} ({run.name}) is RUNNING, and its process on {host} cannot be seen from here",
                f"look again there, or, if nothing of the sweep lives there, with dead_host={host}",
            )
        elif run.owner == "dead" and not is_elses:
            yield Finding(
                f"run {run.run_id} ({run.name}) is RUNNING and the process that made it is dead",
                "it becomes KILLED",
                AmendRun(run.run_id, "KILLED"),
            )


def _sweep_run(evidence: Evidence) -> Iterator[Finding]:
    run_id = evidence.sweep_run_id
    run = evidence.sweep.runs.get(run_id or "")
    if run is None and (run_id is not None or evidence.study.trials):
        noted = f"its run {run_id} is not in MLflow" if run_id else "it notes no run"
        told = f"the sweep has {len(evidence.study.trials)} trials and {noted}"
        yield Finding(told, f"{_SAME_COMMAND}: it makes one")
    elif run is not None and run.is_deleted:
        restore = f"mlflow runs restore --run-id {run_id} brings it back, or {_SAME_COMMAND}, which makes one"
        yield Finding(f"the sweep's run {run_id} is deleted in MLflow", restore)
    elif run is not None and not evidence.may_be_at_work:
        if run.status == "RUNNING":
            yield Finding(
                f"the sweep's run {run_id} is RUNNING and no controller lives",
                "it becomes KILLED; the sweep's command goes on with it",
                AmendRun(run.run_id, "KILLED"),
            )
        yield from _summary(evidence, run)


def _summary(evidence: Evidence, run: RunState) -> Iterator[Finding]:
    metrics, tags = summarize(evidence.study.ledger, (evidence.study.objectives or [""])[0])
    changed_metrics = {key: value for key, value in metrics.items() if run.metrics.get(key) != value}
    changed_tags = {key: text for key, text in tags.items() if run.tags.get(key) != text}
    if changed_metrics or changed_tags:
        says = [f"{key}={run.metrics.get(key)} for {value}" for key, value in changed_metrics.items()]
        says += [f"{key}={run.tags.get(key)} for {text}" for key, text in changed_tags.items()]
        yield Finding(
            f"the sweep's run {run.run_id} has {', '.join(says)}",
            "it is brought up to date with the study",
            AmendRun(run.run_id, tags=changed_tags, metrics=changed_metrics),
        )
