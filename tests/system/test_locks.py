"""Locks that are files: who has one, whatever becomes of the file."""

import shutil
import threading
from pathlib import Path

import pytest
from waiting import LONGEST_S

from cnn_sweeps.system.locks import file_lock


@pytest.mark.parametrize("remove", [Path.unlink, lambda path: shutil.rmtree(path.parent)])
def test_lock_whose_file_its_holder_removed_still_has_one_holder_at_a_time(remove, tmp_path):
    path, has_it, may_end = tmp_path / "folder" / "lock", threading.Event(), threading.Event()

    def wait_for_it():
        with file_lock(path, wait=True):
            has_it.set()
            may_end.wait(LONGEST_S)

    waiting = threading.Thread(target=wait_for_it)
    with file_lock(path, wait=True):
        waiting.start()
        assert not has_it.wait(0.3)
        remove(path)
    assert has_it.wait(LONGEST_S)
    with file_lock(path, wait=False) as is_mine:
        assert not is_mine
    may_end.set()
    waiting.join()
    with file_lock(path, wait=False) as is_mine:
        assert is_mine
