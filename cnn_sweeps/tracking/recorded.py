"""What a record says as a whole."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cnn_sweeps.system.owners import OwnerState, owner_state
from cnn_sweeps.tracking.entry import Again, Begin, End, Entry, Metrics, Params, Status, Tags, read_entries

PARENT_TAG, STATE_TAG, NOTE_TAG = "mlflow.parentRunId", "trial.state", "mlflow.note.content"
REPRODUCES_TAG, RECORD_TAG, FOLDER_TAG = "reproduces", "record.id", "output.folder"


@dataclass
class Recorded:
    """What a record says, read as a whole.

    Attributes:
        begin: its first entry.
        tags, params: all of them.
        metrics: the values of each metric by epoch, in the order in which they came.
        status: of its end; None: it is open.
        last_time: of the last entry that has one, in ms since 1970.
    """

    begin: Begin
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, dict[int, float]] = field(default_factory=dict)
    status: Status | None = None
    last_time: int = 0

    @property
    def newest(self) -> dict[str, float]:
        """The newest value of each metric."""
        return {name: by_epoch[max(by_epoch)] for name, by_epoch in self.metrics.items()}

    def owner_state(self, dead_hosts: Collection[str] = ()) -> OwnerState | None:
        """Tell what is known of the process that is at work on the record; None if that has an end.

        Args:
            dead_hosts: hosts all of whose processes are taken to be dead.
        """
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
            case Params(params=params):
                self.params = params | self.params
            case Metrics(epoch=epoch, metrics=metrics):
                for name, value in metrics.items():
                    self.metrics.setdefault(name, {})[epoch] = value
            case End(status=status):
                self.status = status


def read_run(folder: Path) -> Recorded | None:
    """Read a record as a whole; None if there is none, or not even its first entry is whole.

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
