"""What killed processes leave of a sweep's trials: runs without an end, and checkpoints that nobody will resume."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from cnn_sweeps.experiment.trial import record_of
from cnn_sweeps.sweep.study.ledger import RETRIED, error_of, last_attempt
from cnn_sweeps.system.owners import owner_state
from cnn_sweeps.tracking.entry import PARENT_TAG, STATE_TAG, Status, read_run
from cnn_sweeps.tracking.store import store_errors
from cnn_sweeps.training.checkpoint import left_checkpoints, remove_checkpoint


def due_end_of(
    trial: FrozenTrial, folder: Path, dead_hosts: Collection[str] = ()
) -> tuple[Status, dict[str, str]] | None:
    """Give what the record in a trial's folder lacks of the trial's end; None if it lacks nothing, or is not there.

    Args:
        trial: as the study has it.
        folder: of the trial's files.
        dead_hosts: hosts all of whose processes are taken to be dead.

    Raises:
        SenselessError: if the record makes no sense.
    """
    recorded = read_run(folder)
    if recorded is None or recorded.tags.get("trial.number") != str(trial.number):
        return None
    return due_end(trial, recorded.status, recorded.tags, is_dead=recorded.owner_state(dead_hosts) == "dead")


def due_end(
    trial: FrozenTrial, status: str | None, tags: Mapping[str, str], *, is_dead: bool
) -> tuple[Status, dict[str, str]] | None:
    """Give status and tags that a run lacks of its trial's end; None if it lacks nothing, or may be at work.

    Args:
        trial: as the study has it.
        status: of the run; None: it has no end.
        tags: of the run.
        is_dead: whether its process is dead.
    """
    is_being_tested = trial.state != TrialState.FAIL and status is None and not is_dead
    if not trial.state.is_finished() or is_being_tested:
        return None
    due: Status = "FINISHED"
    if trial.state == TrialState.FAIL:
        due = "FAILED" if status == "FAILED" else "KILLED"
    if (status, tags.get(STATE_TAG)) == (due, trial.state.name):
        return None
    is_unexplained = trial.state == TrialState.FAIL and error_of(trial) and "error" not in tags
    return due, {STATE_TAG: trial.state.name} | ({"error": error_of(trial)} if is_unexplained else {})


@store_errors()
def find_unclosed(
    uri: str, sweep_run_id: str, experiment_id: str, trials: Sequence[FrozenTrial], dead_hosts: Collection[str] = ()
) -> list[tuple[str, FrozenTrial, tuple[Status, dict[str, str]]]]:
    """Find the runs below a sweep's in MLflow that lack their trials' ends: the run's id, the trial, status and tags.

    Args:
        uri: of the store.
        sweep_run_id: of the sweep.
        experiment_id: of the sweep.
        trials: of the study.
        dead_hosts: hosts all of whose processes are taken to be dead.

    Raises:
        TrackingError: if the store cannot be used.
    """
    import mlflow

    mlflow.set_tracking_uri(uri)
    client, by_number = mlflow.MlflowClient(), {str(trial.number): trial for trial in trials}
    retried = [f"tags.`trial.number` = '{trial.number}'" for trial in trials if RETRIED in trial.user_attrs]
    found = {}
    for condition in ["attributes.status != 'FINISHED'", *retried]:
        below = f"tags.`{PARENT_TAG}` = '{sweep_run_id}' and {condition}"
        for run in client.search_runs([experiment_id], below, max_results=50_000):  # MLflow's limit
            tags, trial = run.data.tags, by_number.get(run.data.tags.get("trial.number", ""))
            status = None if run.info.status == "RUNNING" else run.info.status
            is_dead = owner_state(tags, dead_hosts) == "dead"
            if trial is not None and (due := due_end(trial, status, tags, is_dead=is_dead)) is not None:
                found[run.info.run_id] = (run.info.run_id, trial, due)
    return list(found.values())


@store_errors()
def close_run(run_id: str, status: Status, tags: Mapping[str, str]) -> None:
    """Give a run of the store in use, whose record is not here, its end.

    Raises:
        TrackingError: if the store cannot be used.
    """
    import mlflow
    from mlflow.entities import RunTag

    client = mlflow.MlflowClient()
    client.log_batch(run_id, tags=[RunTag(*each) for each in tags.items()], synchronous=True)
    client.set_terminated(run_id, status)


def useless_checkpoints(folder: Path, trials: Sequence[FrozenTrial]) -> dict[Path, FrozenTrial | None]:
    """Give the checkpoints that nobody will resume: each with its trial, which is not to be tried again; None: of none.

    Args:
        folder: of all checkpoints.
        trials: of the study, by number.
    """
    noting = {record: trial for trial in trials if (record := record_of(trial))}
    useless: dict[Path, FrozenTrial | None] = {}
    for path, run in left_checkpoints(folder).items():
        trial = None if run is None else noting.get(run.whole)
        if run is None or (trial is not None and last_attempt(trial, trials).state.is_finished()):
            useless[path] = trial
    return useless


def remove_checkpoints(folder: Path, trials: Sequence[FrozenTrial]) -> None:
    """Remove what trials that were killed have kept, if they are not to be tried again, and what nobody can resume."""
    for path in useless_checkpoints(folder, trials):
        remove_checkpoint(path)
