"""What must be true of every sweep that has come to its end, whatever happened to it; each violation is one line."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import chdir
from pathlib import Path

import mlflow
import psutil
import yaml
from mlflow.entities import Run
from optuna.trial import FrozenTrial
from sweep_under_test import SweepUnderTest
from tiny_sweeps import STUDY, measured_on_test, processes_in, sweep_folder

from cnn_sweeps.doctor.mend import Place, find_disagreements
from cnn_sweeps.sweep.space import override_text
from cnn_sweeps.sweep.study.address import parse_address
from cnn_sweeps.sweep.study.ledger import known_params


def violations(sweep: SweepUnderTest) -> list[str]:
    """Check all that a sweep has left."""
    study, runs = sweep.study(), sweep.runs()
    champion = mlflow.MlflowClient().get_model_version_by_alias("cnn-sweeps-synthetic", "champion")
    return [
        *of_study(study.trials, sweep.num_trials),
        *of_record(study.trials, runs),
        *of_sweeps_run(study.trials, study.user_attrs["mlflow.run_id"], runs),
        *of_best(study.trials, runs, champion.tags["trial.number"]),
        *of_files(study.trials, sweep_folder(sweep.folder)),
        *of_leavings(sweep.folder),
        *of_doctor(sweep),
    ]


def counted(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Give the trials that were not tried again as others."""
    return [trial for trial in trials if not trial.user_attrs.get("retried")]


def of_study(trials: Sequence[FrozenTrial], total: int) -> Iterator[str]:
    """Check that the total is met exactly, and that each lost trial was tried again once, with its parameters."""
    states = Counter(trial.state.name for trial in counted(trials))
    if states != {"COMPLETE": total}:
        yield f"the trials are {dict(states)} instead of {total} COMPLETE"
    if len({str(trial.params) for trial in counted(trials)}) != total:
        yield "two trials have the same parameters"
    lost = {trial.number for trial in trials} - {trial.number for trial in counted(trials)}
    retries = [trial for trial in trials if "retry_of" in trial.user_attrs]
    if sorted(trial.user_attrs["retry_of"] for trial in retries) != sorted(lost):
        yield f"trials {sorted(lost)} were lost, {sorted(trial.user_attrs['retry_of'] for trial in retries)} retried"
    for trial in trials:
        if trial.number in lost and trial.state.name != "FAIL":
            yield f"trial {trial.number} was tried again and is {trial.state.name}"
    for trial in retries:
        if (original := known_params(trials[trial.user_attrs["retry_of"]])) and known_params(trial) != original:
            yield f"trial {trial.number} is a retry of {trial.user_attrs['retry_of']} with other parameters"


def of_record(trials: Sequence[FrozenTrial], runs: Sequence[Run]) -> Iterator[str]:
    """Check that each completed trial has exactly one whole run, with its values, and nothing is left RUNNING.

    FAILED is the run of a trial that met a full disk, and was tried again.
    """
    for run in runs:
        of_failed = ["FAILED"] if run.data.tags.get("trial.state") == "FAIL" and "error" in run.data.tags else []
        if run.info.status not in ("FINISHED", "KILLED", *of_failed):
            yield f"run {run.info.run_name} is {run.info.status}"
    whole = [run for run in runs if run.info.status not in ("KILLED", "FAILED")]
    for trial in trials:
        of_trial = [run for run in whole if run.data.tags.get("trial.number") == str(trial.number)]
        expected = [trial.user_attrs.get("record")] if trial in counted(trials) else []
        if [run.data.tags.get("record.id") for run in of_trial] != expected:
            yield f"trial {trial.number}, {trial.state.name}, has {len(of_trial)} whole runs, not {len(expected)}"
        for run in of_trial:
            yield from _of_trials_run(trial, run)


def _of_trials_run(trial: FrozenTrial, run: Run) -> Iterator[str]:
    in_study = {"value": trial.value, "state": trial.state.name} | {key: str(v) for key, v in trial.params.items()}
    in_run = {"value": run.data.metrics.get("final_val_log_loss"), "state": run.data.tags.get("trial.state")}
    in_run |= {key: run.data.params.get(key) for key in trial.params}
    if in_study != in_run:
        yield f"trial {trial.number} is {in_study} in the study and {in_run} in its run"


def of_sweeps_run(trials: Sequence[FrozenTrial], run_id: str, runs: Sequence[Run]) -> Iterator[str]:
    """Check that the sweep itself has one whole run, which tells what came out."""
    parents = [run for run in runs if "trial.number" not in run.data.tags and run.info.status != "KILLED"]
    if [run.info.run_id for run in parents] != [run_id]:
        yield f"the sweep has {len(parents)} whole runs of its own, not one"
        return
    told = {name: parents[0].data.metrics.get(name) for name in ("trials.complete", "best_val_log_loss")}
    values = [trial.value for trial in trials if trial.state.name == "COMPLETE"]
    if told != {"trials.complete": len(values), "best_val_log_loss": min(values)}:
        yield f"the sweep's run tells {told}, the study {len(values)} trials, the best {min(values)}"


def of_best(trials: Sequence[FrozenTrial], runs: Sequence[Run], champion: str) -> Iterator[str]:
    """Check that the best trial was tested, and that its model is the champion."""
    best = min((trial for trial in trials if trial.state.name == "COMPLETE"), key=lambda trial: trial.value)
    of_trials = [run for run in runs if "trial.number" in run.data.tags]  # not the sweep's own run
    tested = {run.data.tags["trial.number"] for run in of_trials if measured_on_test(run)}
    if str(best.number) not in tested:
        yield f"trial {best.number} is the best and was not tested; {sorted(tested)} were"
    if champion != str(best.number):
        yield f"trial {best.number} is the best, and the champion is trial {champion}"


def of_files(trials: Sequence[FrozenTrial], folder: Path) -> Iterator[str]:
    """Check that no two trials shared a folder, and that each was trained with its parameters."""
    for trial in trials:
        log, overrides = folder / str(trial.number) / "train.log", folder / str(trial.number) / ".hydra/overrides.yaml"
        if trial in counted(trials) and not log.exists():
            yield f"trial {trial.number} left no log"
        if log.exists() and log.read_text().count(" images of 2 classes") > 1:
            yield f"trial {trial.number} was trained twice in its folder"
        if overrides.exists() and (text := yaml.safe_load(overrides.read_text())) is not None:
            missing = {override_text(key, value) for key, value in trial.params.items()} - set(text)
            if missing:
                yield f"trial {trial.number} was trained without {missing}"


def of_leavings(folder: Path) -> Iterator[str]:
    """Check that no process and nothing half-written is left, and that no controller told a user of a bug."""
    _, left = psutil.wait_procs(processes_in(folder), timeout=60)  # what workers were forks of ends last
    for process in left:
        yield f"process {process.pid} is left: {' '.join(process.cmdline())}"
    for pattern in ("outputs/checkpoints/*.npz", "outputs/checkpoints/*.unfinished"):
        yield from (f"{file} is left" for file in sorted(folder.glob(pattern)))
    if "Traceback" in (terminal := (folder / "terminal.txt").read_text()):
        yield f"the terminal shows a traceback: {terminal[-4000:]}"


def of_doctor(sweep: SweepUnderTest) -> Iterator[str]:
    """Check that the doctor has nothing to mend."""
    with chdir(sweep.folder):
        records = Place(parse_address(sweep.storage, STUDY), sweep_folder(sweep.folder), sweep.tracking_uri)
        yield from (f"the doctor finds: {finding.what}" for finding in find_disagreements(records))
