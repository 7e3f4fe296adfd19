"""What a sweep leaves in MLflow beside its trials: one run, the parent of theirs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cnn_sweeps.errors import TrackingOutageError
from cnn_sweeps.system.owners import owner_tags
from cnn_sweeps.text.passwords import hide_passwords
from cnn_sweeps.tracking.outbox import Outbox, deliver_all, deliver_or_tell
from cnn_sweeps.tracking.process import describe_process
from cnn_sweeps.tracking.runs import NOTE_TAG, PARENT_TAG, STATE_TAG
from cnn_sweeps.tracking.store import close_abandoned_runs, connected, store_errors
from cnn_sweeps.tracking.views import describe_view, link_to_view, view_tags


class SweepRun:
    """The parent run of a sweep's trials. None of its methods makes it the process's active run.

    What only records waits in the sweep's folder while the store does not answer; what reads raises.
    """

    def __init__(self, run_id: str, experiment_id: str, folder: Path) -> None:
        """Of a run that exists, and the sweep's folder."""
        from mlflow import MlflowClient

        self.run_id, self.experiment_id = run_id, experiment_id
        self._client = MlflowClient()
        self._folder, self._outbox = folder, Outbox(folder, run_id)

    def is_waiting(self) -> bool:
        """Tell whether something still waits for the store, having tried to write it if that is not long ago."""
        return not self._outbox.deliver()

    def log_metrics(self, metrics: dict[str, float]) -> None:
        """Record the newest values."""
        now = int(time.time() * 1000)
        self._outbox.write("metrics", {"metrics": [(key, value, now, 0) for key, value in metrics.items()]})

    def set_tags(self, tags: dict[str, str]) -> None:
        """Tag the run."""
        self._outbox.write("tags", {"tags": tags})

    @store_errors()
    def log_params(self, params: dict[str, Any]) -> None:
        """Record those parameters that the run does not have yet; MLflow lets none be changed."""
        from mlflow.entities import Param

        known = self._client.get_run(self.run_id).data.params
        new = [Param(key, hide_passwords(str(value))) for key, value in params.items() if key not in known]
        self._client.log_batch(self.run_id, params=new)

    @store_errors()
    def list_view(self, name: str, params: Sequence[str], metrics: Sequence[str], *, ascending: bool) -> None:
        """Have the experiment's page list a view of the sweep's trials; see `describe_view`."""
        view = describe_view(self.run_id, params, metrics, ascending=ascending)
        tags = self._client.get_experiment(self.experiment_id).tags
        for key, value in view_tags(tags, self.run_id, name, view).items():
            self._client.set_experiment_tag(self.experiment_id, key, value)

    def log_files(self, files: Path) -> None:
        """Keep a file, or the files of a folder, with the run, in place of earlier versions of them."""
        self._outbox.write("files", {"path": None}, files)

    def end(self, status: str) -> None:
        """End the run: FINISHED, FAILED or KILLED; say so if something of the sweep still waits for the store."""
        self._close_abandoned()  # what was cut off while the best trials were tested
        _end(self._outbox, status)
        deliver_or_tell(self._folder)

    @store_errors()
    def find_trial(self, number: int) -> list[str]:
        """Give the ids of the runs that record a trial."""
        condition = f"tags.`{PARENT_TAG}` = '{self.run_id}' and tags.`trial.number` = '{number}'"
        return [run.info.run_id for run in self._client.search_runs([self.experiment_id], condition)]

    def close_trials(self, run_ids: Sequence[str], reason: str) -> None:
        """Close the runs of trials whose job ended without doing it as KILLED, whatever they say of themselves."""
        for run_id in run_ids:
            outbox = Outbox(self._folder, run_id)
            _end(outbox, "KILLED")
            outbox.write("tags", {"tags": {STATE_TAG: "FAIL", "error": reason}})
        self._close_abandoned()

    def _close_abandoned(self) -> None:
        with suppress(TrackingOutageError), store_errors():  # the next sweep or run does it
            close_abandoned_runs(self.experiment_id)

    @store_errors()
    def record_trial(self, name: str, tags: dict[str, str], metrics: dict[str, float], params: dict[str, Any]) -> str:
        """Record a trial that no job runs, or go on with what an outage cut off; give the id of its run."""
        from mlflow.entities import Metric, Param

        tags = tags | owner_tags() | {PARENT_TAG: self.run_id}
        if known := self.find_trial(int(tags["trial.number"])):
            run_id = known[0]
        else:
            run_id = self._client.create_run(self.experiment_id, tags=tags, run_name=name).info.run_id
        now = int(time.time() * 1000)
        self._client.log_batch(
            run_id,
            [Metric(key, value, now, 0) for key, value in metrics.items()],
            [Param(key, str(value)) for key, value in params.items()],
        )
        self._client.set_terminated(run_id, "FINISHED")
        return str(run_id)

    @store_errors()
    def read_tags_of_finished(self, run_id: str) -> dict[str, str]:
        """Give the tags of a trial's run; none if it is not FINISHED, for what was cut off is done again."""
        run = self._client.get_run(run_id)
        return dict(run.data.tags) if run.info.status == "FINISHED" else {}

    @store_errors()
    def read_params(self, run_id: str) -> dict[str, str]:
        """Give the parameters of a trial's run."""
        return dict(self._client.get_run(run_id).data.params)

    @store_errors()
    def read_metrics(self, run_id: str) -> dict[str, float]:
        """Give the newest metrics of a trial's run."""
        return dict(self._client.get_run(run_id).data.metrics)

    @store_errors()
    def read_history(self, run_id: str, metric: str) -> list[float]:
        """Give a metric of a trial's run after each epoch."""
        return [each.value for each in sorted(self._client.get_metric_history(run_id, metric), key=lambda m: m.step)]


def _end(outbox: Outbox, status: str) -> None:
    outbox.write("end", {"status": status, "end_time": int(time.time() * 1000)})


def open_sweep_run(
    uri: str,
    experiment_name: str,
    name: str,
    known_run_id: str | None,
    tags: dict[str, str],
    description: str,
    folder: Path,
) -> SweepRun:
    """Make the parent run of a sweep, or go on with the known one if the store still has it.

    What waits for the store in the sweep's folder is written first.

    Raises:
        TrackingError: if the store cannot be used.
    """
    with store_errors(), connected(uri, experiment_name) as experiment_id:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        client = MlflowClient()
        deliver_all(folder)
        close_abandoned_runs(experiment_id)
        all_tags = describe_process() | tags
        if known_run_id is not None:
            try:
                client.update_run(known_run_id, status="RUNNING")
            except MlflowException as error:
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "INVALID_STATE"):
                    raise
                known_run_id = None  # deleted, or in another store
        if known_run_id is None:
            known_run_id = client.create_run(experiment_id, run_name=name, tags=all_tags).info.run_id
        run = SweepRun(str(known_run_id), experiment_id, folder)
        link = f"[Its trials, ranked and drawn]({link_to_view(experiment_id, run.run_id)})"
        run.set_tags(all_tags | {NOTE_TAG: f"{description}\n\n{link}"})
    return run
