"""The record of a run: `record.jsonl` in the run's folder, with one entry a line, and the files that entries name.

The record is the truth about the run; `projection` brings it to MLflow. Anybody may have written the folder, so
everything that is read is checked. A record that makes no sense is an error of that record alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, TypeAdapter, ValidationError

from cnn_sweeps.errors import TrackingError
from cnn_sweeps.system.owners import OwnerState, owner_state
from cnn_sweeps.system.plain_files import NotPlainError, check_plain_name, opened_folder, read_plain_file

RECORD_FILE, POSITION_FILE = "record.jsonl", "projected.json"
MODEL_FOLDER, MODEL_FILE, EXAMPLE_FILE = "model", "model.keras", "example.npy"
"""Files of a model's entry: the network, and an example, float32 (1, height, width, channels), 0 to 255."""
MODEL_PACKAGES = ("keras", "tensorflow", "numpy")  # the only packages that a model's entry may require
PARENT_TAG, STATE_TAG, NOTE_TAG = "mlflow.parentRunId", "trial.state", "mlflow.note.content"
REPRODUCES_TAG, RECORD_TAG, FOLDER_TAG = "reproduces", "record.id", "output.folder"
CONFIRMS_TAG = "confirms.trial"  # the number of the sweep's trial that this run repeats with another seed
WEIGHTS_TAG = "weights.digest"  # of the frozen backbone of a network
_MOST_BYTES = 2**28  # of a record; 10,000 epochs take 15 MB


def _check_path(path: str) -> str:
    return "/".join(map(check_plain_name, path.split("/")))


_Milliseconds = Annotated[int, Field(ge=0, lt=2**53)]
_Path = Annotated[str, Field(max_length=4000), AfterValidator(_check_path)]
_Requirement = Annotated[str, Field(pattern=rf"^({'|'.join(MODEL_PACKAGES)})==[\w.+!-]+$")]
Status = Literal["FINISHED", "FAILED", "KILLED"]
RecordId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
RunId = Annotated[str, Field(max_length=64, pattern=r"^[\w-]+$")]
Uri = Annotated[str, Field(max_length=1000, pattern=r"^[^\p{C}\p{Zl}\p{Zp}]+$")]  # one printable line


class Begin(BaseModel):
    """The run begins."""

    kind: Literal["begin"] = "begin"
    record: RecordId
    run_id: RunId | None = None  # of an existing run of the store; None: the store makes a new one
    experiment: str
    name: str
    is_part: bool = False  # whether it is a part of the run whose record is in the folder above
    uri: Uri  # of the store, without a password; a file in the working folder is relative to the record's folder
    time: _Milliseconds
    tags: dict[str, str]


class Again(BaseModel):
    """The run goes on after its end, or after its process died. Entries between an end and this do not count."""

    kind: Literal["again"] = "again"
    time: _Milliseconds
    tags: dict[str, str]


class Moved(BaseModel):
    """The run has become a part of the run whose record is in the folder above."""

    kind: Literal["moved"] = "moved"


class Params(BaseModel):
    """Parameters; of two with one name the first counts, since MLflow allows no change."""

    kind: Literal["params"] = "params"
    params: dict[str, str]


class Tags(BaseModel):
    """Tags; of two with one name the later one counts."""

    kind: Literal["tags"] = "tags"
    tags: dict[str, str]


class Metrics(BaseModel):
    """Metrics of an epoch, counted from 1; epoch 0 has the newest values of metrics that belong to no epoch."""

    kind: Literal["metrics"] = "metrics"
    epoch: Annotated[int, Field(ge=0, lt=2**53)]
    time: _Milliseconds
    metrics: dict[str, float]


class Machine(BaseModel):
    """How busy the machine was when an epoch, counted from 1, had ended; it says nothing about the network."""

    kind: Literal["machine"] = "machine"
    epoch: Annotated[int, Field(ge=1, lt=2**53)]
    time: _Milliseconds
    load: dict[str, float]  # by MLflow's names


class Data(BaseModel):
    """The data set; records of earlier versions lack the last two fields."""

    kind: Literal["data"] = "data"
    name: str
    digest: str
    source: str
    image_shape: tuple[int, int, int] | None = None  # height, width, channels
    num_images: dict[str, int] | None = None  # by class name


class Files(BaseModel):
    """Files by their paths below the record's folder; in MLflow they go to the run's folder `to`, None: the topmost."""

    kind: Literal["files"] = "files"
    files: list[_Path]
    to: _Path | None


class Model(BaseModel):
    """The network in MODEL_FOLDER."""

    kind: Literal["model"] = "model"
    name: Annotated[str, Field(max_length=100, pattern=r"^[\w -]+$")] = "model"  # records of earlier versions have none
    metadata: dict[str, Any]
    num_outputs: Annotated[int, Field(ge=1)]  # probabilities for each image
    requirements: list[_Requirement]  # as pip takes them


class End(BaseModel):
    """The run has ended."""

    kind: Literal["end"] = "end"
    status: Status
    time: _Milliseconds


Entry = Begin | Again | Moved | Params | Tags | Metrics | Machine | Data | Files | Model | End
_ENTRY: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="kind")])


class SenselessError(TrackingError):
    """A record is not as this program writes it; the message says where and why."""


def senseless(folder: Path, reason: object) -> SenselessError:
    """Return the error that says why a record cannot be brought to MLflow."""
    detail = f"{reason.strerror}: {RECORD_FILE}" if isinstance(reason, OSError) else reason
    return SenselessError(f"{folder}: cannot be delivered ({detail}); correct that, or remove the folder")


def read_entries(folder: Path, offset: int = 0) -> Iterator[tuple[Entry, int]]:
    """Yield the entries of a record from an offset in bytes on, each with the offset after it; skip an unfinished line.

    Raises:
        FileNotFoundError: if there is no record.
        SenselessError: at the first entry that makes no sense, or if `record.jsonl` is a link.
    """
    try:
        with opened_folder(folder) as opened:
            content = read_plain_file(opened, RECORD_FILE, _MOST_BYTES, offset)
    except FileNotFoundError:
        raise
    except (NotPlainError, OSError) as error:
        raise senseless(folder, error) from error
    for line in content[: content.rfind(b"\n") + 1].splitlines(keepends=True):
        try:
            entry = _ENTRY.validate_json(line)
        except ValidationError as error:
            raise senseless(folder, f"{RECORD_FILE}, at byte {offset}: {error.errors()[0]['msg']}") from error
        if isinstance(entry, Begin) != (offset == 0):
            raise senseless(folder, f"{RECORD_FILE}, at byte {offset}: `begin` should be first, and only there")
        offset += len(line)
        yield entry, offset


@dataclass
class Recorded:
    """A whole record, with its entries summed up."""

    begin: Begin
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, dict[int, float]] = field(default_factory=dict)  # by name and epoch, in the order of entries
    note: str = ""  # the first description, to which the outcome is added
    data: Data | None = None
    model: str | None = None  # its name, if one is kept
    status: Status | None = None  # None: the run has not ended
    last_time: int = 0  # of the latest entry, in ms since 1970

    @property
    def newest(self) -> dict[str, float]:
        """The newest value of each metric."""
        return {name: by_epoch[max(by_epoch)] for name, by_epoch in self.metrics.items()}

    def owner_state(self, dead_hosts: Collection[str] = ()) -> OwnerState | None:
        """Return the state of the process that works on the record; None if the run has ended."""
        return None if self.status is not None else owner_state(self.tags, dead_hosts)

    def _add(self, entry: Entry) -> None:
        self.last_time = max(self.last_time, getattr(entry, "time", 0))
        match entry:
            case Begin(tags=tags) | Again(tags=tags):
                self.tags |= tags
                self.status = None
            case _ if self.status is not None:
                pass
            case Tags(tags=tags):
                self.tags |= tags
                self.note = self.note or tags.get(NOTE_TAG, "")
            case Data():
                self.data = entry
            case Model(name=name):
                self.model = name
            case Params(params=params):
                self.params = params | self.params
            case Metrics(epoch=epoch, metrics=metrics):
                for name, value in metrics.items():
                    self.metrics.setdefault(name, {})[epoch] = value
            case End(status=status):
                self.status = status


def read_record(folder: Path) -> Recorded | None:
    """Read a whole record; None if there is none, or its first entry is unfinished.

    Raises:
        SenselessError: if it makes no sense.
    """
    recorded = None
    with suppress(FileNotFoundError):
        for entry, _ in read_entries(folder):
            if isinstance(entry, Begin):
                recorded = Recorded(entry)
            assert recorded is not None
            recorded._add(entry)
    return recorded
