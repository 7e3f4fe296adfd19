"""What a sweep leaves in MLflow beside its trials: one run, the parent of theirs, whose record is in its folder."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from cnn_sweeps.errors import DiskError, TrackingError, TrackingOutageError
from cnn_sweeps.experiment.trial import record_of
from cnn_sweeps.selection.leftovers import close_run, due_end_of, find_unclosed
from cnn_sweeps.tracking.delivery import close_dead_runs, project_or_tell
from cnn_sweeps.tracking.entry import NOTE_TAG, PARENT_TAG, RECORD_TAG, Status, read_run
from cnn_sweeps.tracking.live_run import LiveRun
from cnn_sweeps.tracking.position import read_position
from cnn_sweeps.tracking.process import run_tags
from cnn_sweeps.tracking.projection import EXPERIMENT_ID, RUN_ID, project
from cnn_sweeps.tracking.record import Record
from cnn_sweeps.tracking.store import store_errors
from cnn_sweeps.tracking.views import describe_view, link_to_view, view_tags

log = logging.getLogger(__name__)


class SweepRun:
    """The parent run of a sweep's trials. What it records waits in the folder while the store is away."""

    def __init__(self, live: LiveRun, uri: str) -> None:
        """Of a sweep whose record the store has."""
        from mlflow import MlflowClient

        self._live, self._uri, self._folder, self._client = live, uri, live.record.folder, MlflowClient(uri)
        position = read_position(self._folder, uri)
        assert position.run_id is not None
        assert position.experiment_id is not None
        self.run_id, self.experiment_id = position.run_id, position.experiment_id
        self._newest: dict[str, Any] = {}

    def _record(self) -> Record:
        """Give the record, opened again if another controller of the study has ended it."""
        recorded = read_run(self._folder)
        if recorded is not None and recorded.status is not None:
            self._live.record.again()
        return self._live.record

    def log(self, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Record the newest values and texts, of which the store gets to know as soon as it answers.

        Raises:
            DiskError: if the disk is full.
        """
        record = self._record()
        if new := {key: value for key, value in metrics.items() if self._newest.get(key) != value}:
            record.log_metrics(new, 0)
        if changed := {key: text for key, text in tags.items() if self._newest.get(key) != text}:
            record.log_tags(changed)
        self._newest |= new | changed
        self._live.catch_up()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record those parameters that the run does not have yet; MLflow lets none be changed."""
        self._record().log_params(params)

    def log_files(self, files: Iterable[Path]) -> None:
        """Keep files of the sweep's folder with the run, in place of earlier versions of them."""
        self._record().log_files(files)

    @store_errors()
    def list_view(self, name: str, params: Sequence[str], metrics: Sequence[str], *, ascending: bool) -> None:
        """Have the experiment's page list a view of the sweep's trials; see `describe_view`."""
        view = describe_view(self.run_id, params, metrics, ascending=ascending)
        tags = self._client.get_experiment(self.experiment_id).tags
        for key, value in view_tags(tags, self.run_id, name, view).items():
            self._client.set_experiment_tag(self.experiment_id, key, value)

    def end(self, status: Status) -> None:
        """End the run; say so if something of the sweep still waits for the store."""
        with suppress(TrackingOutageError):  # the next sweep or run does it
            close_dead_runs(self._uri, self.experiment_id)
        self._record().end(status)
        project_or_tell(self._folder, self._uri)

    def record_trial(
        self, folder: Path, name: str, tags: Mapping[str, str], metrics: Mapping[str, float], params: Mapping[str, Any]
    ) -> str:
        """Record a trial that no job runs, in a folder of its own; give the record's id."""
        recorded = read_run(self._folder)
        assert recorded is not None
        record, all_tags = Record(folder), dict(tags) | {PARENT_TAG: self.run_id}
        record.begin(recorded.begin.experiment, name, self._uri, all_tags)
        record.log_params(params)
        record.log_metrics(metrics, 0)
        record.end("FINISHED")
        self._bring(folder)
        return record.record_id

    def _bring(self, folder: Path) -> None:
        """Bring a trial's record to the store, unless that is away: it is brought at the sweep's end then."""
        if not self._live.may_ask:
            return
        try:
            with self._live.backoff.noting_outages():
                project(folder, self._uri)
        except TrackingOutageError:
            pass
        except TrackingError as error:
            log.warning("%s", error)

    def close_trials(self, trials: Iterable[tuple[FrozenTrial, Path]]) -> None:
        """Give the runs of trials, each with its folder, the ends that these have in the study, if they lack them."""
        for trial, folder in trials:
            try:
                if (due := due_end_of(trial, folder)) is not None:
                    Record(folder).close(*due)
                    self._bring(folder)
            except (DiskError, TrackingError) as error:
                log.warning("%s", error)

    def close_elsewhere(self, trials: Sequence[FrozenTrial]) -> None:
        """Do what `close_trials` does for runs whose records are on disks of other hosts, or gone.

        Raises:
            TrackingError: if the store cannot be used.
        """
        for run_id, _, due in find_unclosed(self._uri, self.run_id, self.experiment_id, trials):
            close_run(run_id, *due)

    def read_trial(self, trial: FrozenTrial, folder: Path) -> tuple[dict[str, float], list[float]]:
        """Give a trial's newest metrics, and its validation log loss after each epoch.

        From its record or, where that is on another host, from the store.

        Raises:
            TrackingError: if the store cannot be used.
        """
        if (recorded := read_run(folder)) is not None:
            return recorded.newest, list(recorded.metrics.get("val_log_loss", {}).values())
        with store_errors():
            for run in self._client.search_runs([self.experiment_id], f"tags.`{RECORD_TAG}` = '{record_of(trial)}'"):
                history = self._client.get_metric_history(run.info.run_id, "val_log_loss")
                return dict(run.data.metrics), [each.value for each in sorted(history, key=lambda each: each.step)]
        return {}, []


def open_sweep_run(
    uri: str, experiment_name: str, name: str, known_run_id: str | None, tags: dict[str, str], folder: Path
) -> SweepRun:
    """Make the parent run of a sweep, or go on with the known one if the store still has it.

    Args:
        uri: of the store.
        experiment_name: of the sweep.
        name: of the run.
        known_run_id: that the study notes.
        tags: of the run, with its description.
        folder: of the sweep.

    Raises:
        TrackingError: if the store cannot be used.
    """
    live, all_tags = LiveRun(folder, uri), run_tags(tags)
    if known_run_id is not None and not _has_run(uri, known_run_id):
        known_run_id = None
    if known_run_id is not None and read_position(folder, uri).run_id == known_run_id:
        live.record.again()
    else:
        live.record.begin(experiment_name, name, uri, {}, run_id=known_run_id)
    link = f"[Its trials, ranked and drawn]({link_to_view(EXPERIMENT_ID, RUN_ID)})"
    live.record.log_tags(all_tags | {NOTE_TAG: f"{tags[NOTE_TAG]}\n\n{link}"})
    live.start(may_be_away=False, closes_others=True)
    return SweepRun(live, uri)


@store_errors()
def _has_run(uri: str, run_id: str) -> bool:
    import mlflow
    from mlflow.exceptions import MlflowException

    mlflow.set_tracking_uri(uri)
    try:
        return bool(mlflow.MlflowClient().get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return False
