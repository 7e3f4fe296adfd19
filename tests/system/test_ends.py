"""Processes that are told to end while a thread is in a read that never does."""

import os
import signal
import subprocess
import sys

import pytest

BLOCKED = """
import sys
from cnn_sweeps.settings.arguments import run_command
from cnn_sweeps.system.ends import threads

def read(name):
    sys.stdout.write("reading\\n")
    sys.stdout.flush()
    with open(name, "rb") as pipe:
        return pipe.read()

def command(names):
    with threads(2) as pool:
        list(pool.map(read, names))

run_command(command)
"""


@pytest.mark.parametrize(("end", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_ends_a_process_whose_threads_are_in_reads_that_never_end(end, code, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    command = [sys.executable, "-c", BLOCKED, "pipe", "pipe"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"reading\n"
            process.send_signal(end)
            assert process.wait(60) == code
        finally:
            process.kill()
