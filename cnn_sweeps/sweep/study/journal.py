"""The file that a journal is: who may write it, and what is done about lines that are none of Optuna's."""

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
_MAKES_SOMETHING = (0, 4)  # a study, a trial: later lines name it by its number


class WriterLock:
    """Serializes writers of a journal file; unlike Optuna's locks it ends with its process."""

    def __init__(self, journal: Path) -> None:
        """Of a journal; the lock is not held yet."""
        self._journal, self._path = journal, Path(f"{journal}.flock")
        self._file: int | None = None

    def acquire(self) -> bool:
        """Wait for the lock, and take away what a full disk, a kill, a power cut or an editor left at the end."""
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
        """Let the next one write."""
        assert self._file is not None
        os.close(self._file)


def cut_unfinished_end(journal: Path) -> None:
    """Take away what a power cut left of a journal's last line, to which the next one would be appended, and blanks."""
    lock = WriterLock(journal)
    lock.acquire()
    lock.release()


def broken_lines(journal: Path) -> dict[int, bool]:
    """Give the numbers, from 1 on, of the lines that no reader understands, and whether the others do without each.

    They do without a blank line, and without what was to be known of a study or a trial, but not without one that may
    have made it. The last line does not count while it is unfinished.
    """
    broken: dict[int, bool] = {}
    with journal.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                json.loads(line)
            except RecursionError:  # no accident: what reads the study says that it makes no sense
                continue
            except ValueError:
                op_code = _OP_CODE.match(line)
                is_known = op_code is not None and int(op_code[1]) not in _MAKES_SOMETHING
                if line.endswith(b"\n"):
                    broken[number] = is_known or not line.strip()
    return broken


def take_out_lines(journal: Path, numbers: Collection[int]) -> None:
    """Take lines out of a journal; as it was it stays beside, under its name and `.before`."""
    lock = WriterLock(journal)
    lock.acquire()
    try:
        shutil.copy2(journal, f"{journal}.before")
        lines = journal.read_bytes().splitlines(keepends=True)
        replace_whole(journal, b"".join(line for number, line in enumerate(lines, 1) if number not in numbers))
    finally:
        lock.release()
