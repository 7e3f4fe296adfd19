"""Runs and sweeps from a notebook: `from cnn_sweeps.notebook import run, sweep`.

Each call runs the command in a process of its own. So the kernel does not load TensorFlow, and its own Hydra stays as
it is.
"""

from __future__ import annotations

import html
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from cnn_sweeps.errors import CommandError
from cnn_sweeps.tracking.database.address import is_recorded_as, user_uri
from cnn_sweeps.tracking.record.entry import read_record
from cnn_sweeps.tracking.record.position import read_position, store_of_record
from cnn_sweeps.tracking.record.record import FOLDER_TO
from cnn_sweeps.use.output import Prediction
from cnn_sweeps.use.place import kept_by

if TYPE_CHECKING:
    from IPython.display import IFrame

_REPORT = "report.html"
_REPORT_HEIGHT = 800  # pixels
_ERROR = "error: "


def run(words: Sequence[str] = ()) -> Result:
    """Run `python -m cnn_sweeps.train WORDS` in the working folder, and show its output.

    Args:
        words: the words of the command line, without quotes: `["data=folder", "data.root=my photos"]`.

    Raises:
        CommandError: if the command fails; the message is the reason.
        KeyboardInterrupt: if the kernel was interrupted, once the command has ended.
    """
    return _train(words)


def sweep(words: Sequence[str] = ()) -> Result:
    """Run `python -m cnn_sweeps.train --multirun WORDS`; see `run`."""
    return _train(words, "--multirun")


@dataclass(frozen=True)
class Result:
    """A finished run or sweep.

    Attributes:
        folder: the folder of its record and files.
        run_id: the id of its run in MLflow; None while MLflow does not have the run.
        metrics: the newest value of each metric, by name.
    """

    folder: Path
    run_id: str | None
    metrics: dict[str, float] = field(repr=False)

    def report(self) -> IFrame:
        """Return the report, for the notebook to show.

        Raises:
            CommandError: if there is no report.
        """
        from IPython.display import IFrame  # only a notebook's environment has it

        page = next(self.folder.glob(f"*/{_REPORT}"), None)
        if page is None:
            raise CommandError(f"{self.folder}: there is no {_REPORT}; the output above says why")
        content = html.escape(page.read_text(encoding="utf-8"))  # not its address: a browser may be elsewhere
        within = [f'srcdoc="{content}"', 'sandbox="allow-scripts"']  # cut off from the notebook's page
        return IFrame("about:srcdoc", "100%", _REPORT_HEIGHT, extras=within)

    def predict(self, paths: str | Path | Sequence[str | Path]) -> list[Prediction]:
        """Predict the classes of image files, or of all images in folders, with `python -m cnn_sweeps.predict`.

        It uses the model that this run kept: that of a sweep's chosen trial, or of the last of several trainings. It
        names files that are no usable images, and leaves them out.

        Raises:
            ModelError: if this run kept no model.
            CommandError: if the command fails, or no file is a usable image.
        """
        paths = [paths] if isinstance(paths, (str, Path)) else paths
        model, _, store = kept_by(self.folder)
        words = [os.path.join(os.curdir, path) for path in paths]  # noqa: PTH118  no flag and no setting
        words += [] if is_recorded_as(user_uri(None), store) else [f"tracking.uri={store}"]  # the user's may be secret
        with TemporaryDirectory() as temporary:
            table = Path(temporary, "predictions.json")
            try:
                _run_command("predict", [*words, f"model={model}", "--json", str(table)])
            except CommandError as error:
                if not _read_rows(table):
                    raise
                print(f"warning: {error}")
            rows = _read_rows(table)
        return [Prediction(Path(row["file"]), row["class"], row["probability"], row["probabilities"]) for row in rows]


class _Interrupted(KeyboardInterrupt):
    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows of it: no traceback."""
        return ["interrupted"]


def _read_rows(table: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(table.read_text(encoding="utf-8")) if table.exists() else []
    return rows


def _train(words: Sequence[str], *flags: str) -> Result:
    if isinstance(words, str):
        raise CommandError(f"{words}: is a string; give a list of words, for example [{words!r}]")
    with TemporaryDirectory() as temporary:
        folder_file = Path(temporary, "folder")
        _run_command("train", [*flags, *words], **{FOLDER_TO: str(folder_file)})
        if not folder_file.exists():
            raise CommandError(f"{' '.join(words)}: trains nothing; leave out flags that only show something")
        folder = Path(folder_file.read_text(encoding="utf-8"))
    recorded = read_record(folder)
    assert recorded is not None
    return Result(folder, read_position(folder, store_of_record(folder, recorded.begin)).run_id, recorded.newest)


def _run_command(name: str, words: Sequence[str], **environment: str) -> None:
    """Run a command of this package, and show its output as it comes.

    Raises:
        CommandError: if it fails; the message is its `error:` line, which is not shown.
        KeyboardInterrupt: if it was interrupted.
    """
    command, reason = [sys.executable, "-u", "-m", f"cnn_sweeps.{name}", *words], ""
    with (
        Popen(
            command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, env=os.environ | environment, errors="backslashreplace"
        ) as process,
        _interrupting(process),
    ):
        for line in process.stdout or ():
            print(reason, end="")  # it was not the last line
            reason = line if line.startswith(_ERROR) else ""
            if not reason:
                print(line, end="", flush=True)
    if process.returncode in (130, -signal.SIGINT):
        raise _Interrupted
    if process.returncode:
        no_reason = f"the command ended with exit code {process.returncode}; its output above says why"
        raise CommandError(reason.removeprefix(_ERROR).strip() or no_reason)


@contextmanager
def _interrupting(process: Popen[str]) -> Iterator[None]:
    """Pass interrupts on to the process while the block runs; this process waits for it to end."""

    def interrupt(number: int, _frame: object) -> None:
        if os.getpgrp() != os.getpid():  # a group leader's signals reach the whole group anyway
            process.send_signal(number)

    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield
        return
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
