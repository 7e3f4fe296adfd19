"""Locks that are files: who has one, whatever becomes of the file."""

import threading

from waiting import LONGEST_S

from cnn_sweeps.system.locks import file_lock


def test_lock_whose_file_its_holder_removed_still_has_one_holder_at_a_time(tmp_path):
    path, has_it, may_end = tmp_path / "lock", threading.Event(), threading.Event()

    def wait_for_it():
        with file_lock(path, wait=True):
            has_it.set()
            may_end.wait(LONGEST_S)

    waiting = threading.Thread(target=wait_for_it)
    with file_lock(path, wait=True):
        waiting.start()
        assert not has_it.wait(0.3)
        path.unlink()
    assert has_it.wait(LONGEST_S)
    with file_lock(path, wait=False) as is_mine:
        assert not is_mine
    may_end.set()
    waiting.join()
    with file_lock(path, wait=False) as is_mine:
        assert is_mine
