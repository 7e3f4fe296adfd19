"""What killed processes leave of a sweep, put right when it goes on and when it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from cnn_sweeps.experiment.trial import run_id_of
from cnn_sweeps.selection.sweep_records import RunState, amend_run, read_parents, read_unsettled
from cnn_sweeps.selection.sweep_run import SweepRun
from cnn_sweeps.sweep.study.ledger import RETRIED, error_of, last_attempt
from cnn_sweeps.tracking.runs import STATE_TAG
from cnn_sweeps.training.checkpoint import left_checkpoints, remove_checkpoint


@dataclass(frozen=True)
class AmendRun:
    """Add to a run; another status unless it is None."""

    run_id: str
    status: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)


def settle_runs(sweep_run: SweepRun, trials: Sequence[FrozenTrial]) -> None:
    """Give runs their trials' ends where a controller was killed before it did, or while it tested a trial."""
    retried = [trial.number for trial in trials if RETRIED in trial.user_attrs]
    by_number: dict[str | None, FrozenTrial] = {str(trial.number): trial for trial in trials}
    for run in read_unsettled(sweep_run.run_id, sweep_run.experiment_id, retried):
        trial = by_number.get(run.trial_number)
        if trial is not None and (due := due_ending(trial, run)) is not None:
            amend_run(due.run_id, due.status, due.tags)


def remove_checkpoints(folder: Path, trials: Sequence[FrozenTrial]) -> None:
    """Remove what trials that were killed have kept, if they are not to be tried again, and what nobody can resume."""
    noting = {run_id: trial for trial in trials if (run_id := run_id_of(trial.user_attrs))}
    for path, run_id in left_checkpoints(folder).items():
        if not run_id:
            remove_checkpoint(path)
            continue
        trial = noting.get(run_id) or noting.get(read_parents([run_id]).get(run_id, ""))
        if trial is not None and last_attempt(trial, trials).state.is_finished():
            remove_checkpoint(path)


def due_ending(trial: FrozenTrial, run: RunState) -> AmendRun | None:
    """Give what the run that a trial notes, or another that has its number, lacks of the trial's end.

    None if it lacks nothing, the trial has not ended, or it may be the one that is being tested.
    """
    is_being_tested = trial.state != TrialState.FAIL and run.status == "RUNNING" and run.owner in ("alive", "elsewhere")
    if not trial.state.is_finished() or is_being_tested:
        return None
    if trial.state == TrialState.FAIL or run_id_of(trial.user_attrs) != run.run_id:
        status, state = run.status if run.status in ("FAILED", "KILLED") else "KILLED", "FAIL"
    else:
        status, state = "FINISHED", trial.state.name
    if (run.status, run.tags.get(STATE_TAG)) == (status, state):
        return None
    is_unexplained = state == "FAIL" and error_of(trial) and "error" not in run.tags
    reason = {"error": error_of(trial)} if is_unexplained else {}
    return AmendRun(run.run_id, None if run.status == status else status, {STATE_TAG: state} | reason)
