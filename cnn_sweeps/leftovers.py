"""What killed processes leave of a sweep, put right when it goes on and when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optuna.trial import FrozenTrial

from cnn_sweeps.checkpoint import left_checkpoints, remove_checkpoint
from cnn_sweeps.evidence import due_ending
from cnn_sweeps.sweep.ledger import RETRIED, last_attempt
from cnn_sweeps.tracking.sweep_records import amend_run, read_parents, read_unsettled
from cnn_sweeps.tracking.sweeps import SweepRun
from cnn_sweeps.trial_run import run_id_of


def settle_runs(sweep_run: SweepRun, trials: Sequence[FrozenTrial]) -> None:
    """Give runs their trials' ends where a controller was killed before it did, or while it tested a trial."""
    retried = [trial.number for trial in trials if RETRIED in trial.user_attrs]
    by_number: dict[str | None, FrozenTrial] = {str(trial.number): trial for trial in trials}
    for run in read_unsettled(sweep_run.run_id, sweep_run.experiment_id, retried):
        trial = by_number.get(run.trial_number)
        if trial is not None and (due := due_ending(trial, run)) is not None:
            amend_run(due.run_id, due.status, due.tags)


def remove_checkpoints(folder: Path, trials: Sequence[FrozenTrial]) -> None:
    """Remove what trials that were killed have kept, if they are not to be tried again."""
    noting = {run_id: trial for trial in trials if (run_id := run_id_of(trial.user_attrs))}
    for path, run_id in left_checkpoints(folder).items():
        trial = noting.get(run_id) or noting.get(read_parents([run_id]).get(run_id, ""))
        if trial is not None and last_attempt(trial, trials).state.is_finished():
            remove_checkpoint(path)
