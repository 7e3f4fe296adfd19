"""Brings a run's record to MLflow: each entry in order and once, whoever asks and however often.

`projected.json` beside the record says how far it has been brought. So what a person deletes in MLflow stays deleted.
After a kill, some entries are brought again. That changes nothing: the record's id identifies the run and the model;
name, epoch and time identify a metric's value; everything else overwrites itself.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException

from cnn_sweeps.errors import DiskError
from cnn_sweeps.system.plain_files import NotPlainError, copy_plain_files, opened_folder
from cnn_sweeps.tracking.models import measured_by, send_model
from cnn_sweeps.tracking.page import INTERVAL, hidden, schema_and_profile, store_line
from cnn_sweeps.tracking.record import entry as entries
from cnn_sweeps.tracking.record.entry import Entry, SenselessError, read_entries, senseless
from cnn_sweeps.tracking.record.position import Position, keep_position, read_position
from cnn_sweeps.tracking.record.record import locked
from cnn_sweeps.tracking.store import check_place_of_files, connected, store_errors, use_store
from cnn_sweeps.tracking.usage import STORE, THIS_RUN_ID

log = logging.getLogger(__name__)

RUN_ID, EXPERIMENT_ID = "{run_id}", "{experiment_id}"
"""Placeholders in a note for ids that the store assigns: of the whole run, and of its experiment."""
_TOGETHER = (entries.Params, entries.Tags, entries.Metrics, entries.Machine)
_MOST_FILES_BYTES = 2**31
_MACHINE = "system/"  # begins the names of what MLflow draws in a tab of its own, and never among a network's metrics


def project(folder: Path, uri: str, *, wait: bool = True) -> str | None:
    """Bring to a store what it lacks of a record, and of the run that this one is a part of.

    Args:
        folder: of the record.
        uri: of the store.
        wait: whether to wait for another process that projects this record; if not, do nothing then.

    Returns:
        The run's id in the store; None if it has none yet, or somebody deleted the run.

    Raises:
        TrackingOutageError: if the store is away; call again later.
        TrackingError: if the store refuses an entry, or an entry makes no sense; earlier entries are brought.
        DiskError: if the record cannot be locked, or a new run cannot be noted.
    """
    with locked(folder, wait=wait) as is_held:
        position = read_position(folder, uri)
        has_more = (folder / entries.RECORD_FILE).stat().st_size > position.offset
        if is_held and has_more and not position.is_gone:
            _Projection(folder, uri, position).bring()
    return None if position.is_gone else position.run_id


class _Projection:
    _run: Run

    def __init__(self, folder: Path, uri: str, position: Position) -> None:
        self._folder, self._uri, self._position = folder, uri, position
        use_store(uri)

    @cached_property
    def _client(self) -> mlflow.MlflowClient:  # it would make a missing database, so use it after `connected`
        return mlflow.MlflowClient()

    def bring(self) -> None:
        """Bring what the store lacks; keep the position, also after an error."""
        try:
            with store_errors():
                if self._position.run_id is not None:
                    self._find_run(self._position.run_id)
                for batch, offset in _batches(self._folder, self._position.offset):
                    if self._position.is_gone:
                        return
                    self._bring(batch)
                    self._position.offset = offset
        finally:
            with suppress(DiskError):  # then some entries are brought again, which changes nothing
                keep_position(self._folder, self._position)

    def _bring(self, batch: list[Entry]) -> None:
        match batch[0]:
            case entries.Begin() as begin:
                self._make_run(begin)
            case entries.Again(tags=tags):
                self._client.update_run(self._run.info.run_id, status="RUNNING")
                self._log([entries.Tags(tags=tags)])
                self._position.has_ended = False
            case entries.Moved():
                self._find_whole()
                self._log([entries.Tags(tags={entries.PARENT_TAG: self._position.whole_id or ""})])
            case _ if self._position.has_ended:
                pass
            case entries.Params() | entries.Tags() | entries.Metrics() | entries.Machine():
                self._log(batch)
            case entries.Data() as data:
                self._log_data(data)
            case entries.Files(files=files, to=to):
                with self._copies(files) as copies:
                    self._client.log_artifacts(self._run.info.run_id, str(copies), to)
            case entries.Model() as model:
                assert self._position.record is not None
                files = [f"{entries.MODEL_FOLDER}/{name}" for name in (entries.MODEL_FILE, entries.EXAMPLE_FILE)]
                with self._copies(files) as copies:
                    model_id = send_model(self._client, self._run.info.run_id, self._position.record, model, copies)
                if metrics := measured_by(model_id, self._run.info.run_id, self._folder):
                    self._client.log_batch(self._run.info.run_id, metrics, synchronous=True)
            case entries.End(status=status, time=ended):
                self._client.set_terminated(self._run.info.run_id, status, ended)
                self._delete_twins()
                self._position.has_ended = True

    def _find_run(self, run_id: str) -> None:
        try:
            self._take(self._client.get_run(run_id))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self._position.is_gone = True

    def _take(self, run: Run) -> None:
        if self._position.record not in (None, run.data.tags.get(entries.RECORD_TAG)):
            raise senseless(self._folder, f"{entries.POSITION_FILE} names the run of another record")
        self._run = run
        self._position.run_id, self._position.experiment_id = run.info.run_id, run.info.experiment_id
        self._position.is_gone = run.info.lifecycle_stage != "active"

    def _make_run(self, begin: entries.Begin) -> None:
        if begin.run_id is not None:
            self._position.whole_id = begin.run_id
            self._find_run(begin.run_id)
            if not self._position.is_gone:
                self._bring([entries.Again(time=begin.time, tags=begin.tags)])
            return
        tags = hidden(begin.tags) | {entries.RECORD_TAG: begin.record}
        self._position.record = begin.record
        if begin.is_part:
            self._find_whole()
            tags |= {entries.PARENT_TAG: self._position.whole_id} if self._position.whole_id else {}
        with connected(self._uri, begin.experiment) as experiment_id:
            runs = self._find_twins(experiment_id)
            if not runs:
                was_doubtful, self._position.is_doubtful = self._position.is_doubtful, True
                keep_position(self._folder, self._position)
                runs = [self._client.create_run(experiment_id, begin.time, tags, begin.name)]
                self._position.is_doubtful = was_doubtful
        self._take(runs[0])
        self._position.whole_id = self._position.whole_id or self._position.run_id

    def _find_whole(self) -> None:
        """Project the run that this one is a part of, and note its id."""
        if (self._folder.parent / entries.RECORD_FILE).exists():
            self._position.whole_id = project(self._folder.parent, self._uri)

    def _find_twins(self, experiment_id: str) -> list[Run]:
        condition = f"tags.`{entries.RECORD_TAG}` = '{self._position.record}'"
        return list(self._client.search_runs([experiment_id], condition, ViewType.ALL))

    def _delete_twins(self) -> None:
        """Delete further runs of this record: a store that did not answer in time may have made one."""
        if self._position.is_doubtful:
            for twin in self._find_twins(self._run.info.experiment_id):
                if twin.info.run_id != self._run.info.run_id and twin.info.lifecycle_stage == "active":
                    self._client.delete_run(twin.info.run_id)

    def _log(self, batch: list[Entry]) -> None:
        params, tags, metrics = dict[str, str](), dict[str, str](), list[Metric]()
        for entry in batch:
            match entry:
                case entries.Params():
                    params = entry.params | params
                case entries.Tags():
                    tags |= entry.tags
                case entries.Metrics():
                    shown = {name: each for name, each in entry.metrics.items() if not name.startswith(INTERVAL)}
                    metrics += [Metric(*each, entry.time, entry.epoch) for each in shown.items()]
                case entries.Machine():
                    load = entry.load.items()
                    metrics += [Metric(f"{_MACHINE}{name}", each, entry.time, entry.epoch) for name, each in load]
        known = self._client.get_run(self._run.info.run_id).data.params if params else {}  # MLflow refuses changed ones
        if entries.NOTE_TAG in tags:
            tags[entries.NOTE_TAG] = self._filled(tags[entries.NOTE_TAG])
        self._client.log_batch(
            self._run.info.run_id,
            metrics,
            [Param(key, text) for key, text in params.items() if key not in known],
            [RunTag(*each) for each in hidden(tags).items()],
            synchronous=True,  # despite MLFLOW_ENABLE_ASYNC_LOGGING: the position must not run ahead of the store
        )

    def _filled(self, note: str) -> str:
        """Return a note with what the store alone knows."""
        run = self._run.info
        known = {RUN_ID: self._position.whole_id or run.run_id, THIS_RUN_ID: run.run_id}
        known |= {EXPERIMENT_ID: run.experiment_id, store_line(STORE): store_line(self._uri)}
        for key, text in known.items():
            note = note.replace(key, text)
        return note

    def _log_data(self, data: entries.Data) -> None:
        source = json.dumps({"tags": {"source": data.source}})
        dataset = Dataset(data.name, data.digest, "code", source, *schema_and_profile(data))
        context = InputTag("mlflow.data.context", "train, val, test")
        self._client.log_inputs(self._run.info.run_id, datasets=[DatasetInput(dataset, tags=[context])])

    @contextmanager
    def _copies(self, files: list[str]) -> Iterator[Path]:
        """Yield a folder with copies of the record's files, so that nobody can replace them meanwhile; refuse links."""
        check_place_of_files(self._run.info.artifact_uri)
        left = _MOST_FILES_BYTES
        with tempfile.TemporaryDirectory() as copies:
            for file in map(Path, files):
                try:
                    with opened_folder(self._folder, *file.parent.parts) as opened:
                        left -= copy_plain_files(opened, file.name, Path(copies, file.name), left)
                except FileNotFoundError:
                    log.warning("%s no longer exists; the run lacks this file in MLflow", self._folder / file)
                except NotPlainError as error:
                    raise senseless(self._folder, error) from error
            yield Path(copies)


def _batches(folder: Path, offset: int) -> Iterator[tuple[list[Entry], int]]:
    """Yield the entries from `offset` on, grouped by request, each group with the offset after it."""
    batch: list[Entry] = []
    problem = None
    try:
        for entry, next_offset in read_entries(folder, offset):
            if batch and not (isinstance(entry, _TOGETHER) and isinstance(batch[0], _TOGETHER)):
                yield batch, offset
                batch = []
            batch.append(entry)
            offset = next_offset
    except SenselessError as error:  # bring the entries before it first
        problem = error
    if batch:
        yield batch, offset
    if problem is not None:
        raise problem
