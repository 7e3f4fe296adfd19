"""The file of a journal: a lock for its writers, and the repair of broken lines."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path

from cnn_sweeps.sweep.study.address import ENDS_OF_LINE, has_unfinished_end
from cnn_sweeps.system.files import replace_whole

_OP_CODE = re.compile(rb'\{"op_code":(\d+),')
_MAKES_SOMETHING = (0, 4)  # a study, a trial: later lines refer to it by its number


class WriterLock:
    """Lets one process at a time write a journal file; unlike Optuna's locks it ends with its process."""

    def __init__(self, journal: Path) -> None:
        """Take the journal; the lock is not held yet."""
        self._journal, self._path = journal, Path(f"{journal}.flock")
        self._file: int | None = None

    def acquire(self) -> bool:
        """Wait for the lock; remove what a full disk, a kill, a power cut or an editor left at the end of the file."""
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            if has_unfinished_end(self._journal):
                content = self._journal.read_bytes()
                ends = [content.rfind(end) + len(end) for end in ENDS_OF_LINE if end in content]
                os.truncate(self._journal, max(ends, default=0))
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        """Let the next process write."""
        assert self._file is not None
        os.close(self._file)


def cut_unfinished_end(journal: Path) -> None:
    """Remove an unfinished or blank last line of a journal; else the next line would be appended to it."""
    lock = WriterLock(journal)
    lock.acquire()
    lock.release()


def broken_lines(journal: Path) -> dict[int, bool]:
    """Return the numbers, from 1, of the lines that no reader understands, and whether each can be removed.

    A blank line can be removed, and one that adds to a study or a trial. A line that may have made a study or a trial
    cannot. An unfinished last line does not count.
    """
    broken: dict[int, bool] = {}
    with journal.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                json.loads(line)
            except RecursionError:  # made on purpose: whatever reads the study refuses it
                continue
            except ValueError:
                op_code = _OP_CODE.match(line)
                is_known = op_code is not None and int(op_code[1]) not in _MAKES_SOMETHING
                if line.endswith(b"\n"):
                    broken[number] = is_known or not line.strip()
    return broken


def take_out_lines(journal: Path, numbers: Collection[int]) -> None:
    """Remove lines from a journal; a copy of the old file stays beside it, with the suffix `.before`."""
    lock = WriterLock(journal)
    lock.acquire()
    try:
        shutil.copy2(journal, f"{journal}.before")
        lines = journal.read_bytes().splitlines(keepends=True)
        replace_whole(journal, b"".join(line for number, line in enumerate(lines, 1) if number not in numbers))
    finally:
        lock.release()
