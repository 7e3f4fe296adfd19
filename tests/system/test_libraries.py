"""What slow libraries write while they are imported stays off the terminal, and only that."""

import gc
import os
import sys
from contextlib import ExitStack, contextmanager

import pytest

from cnn_sweeps.system.libraries import native_messages_off, slow_imports


@contextmanager
def standard_error_is(file):
    before = os.dup(2)
    os.dup2(file, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def test_standard_error_is_back_after_blocks_of_two_threads_that_overlap(tmp_path):
    with (tmp_path / "shown").open("wb") as shown, standard_error_is(shown.fileno()):
        first, second = ExitStack(), ExitStack()
        first.enter_context(native_messages_off())
        second.enter_context(native_messages_off())
        first.close()
        os.write(2, b"of a library")
        second.close()
        os.write(2, b"ours")
    assert (tmp_path / "shown").read_bytes() == b"ours"


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals here")
def test_a_terminal_says_that_libraries_are_loaded_until_they_are(monkeypatch):
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    ours, terminal = os.openpty()
    with standard_error_is(terminal):
        with slow_imports():
            os.write(2, b"of a library")
            assert os.read(ours, 100) == b"\rloading libraries; this takes some seconds"
        assert os.read(ours, 100).split(b"\r") == [b"", b" " * len("loading libraries; this takes some seconds"), b""]
    os.close(ours)
    os.close(terminal)
    gc.unfreeze()
