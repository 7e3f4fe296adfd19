"""What is shown: a closed pipe or a full disk ends the display, and only where it is the result the command."""

import logging
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from cnn_sweeps.system.files import LogFile
from cnn_sweeps.system.output import open_lossy

FULL = "/dev/full"
pytestmark = pytest.mark.skipif(not Path(FULL).exists(), reason="only Linux has a disk that is always full")

LASTS = """
import logging, sys
from cnn_sweeps.system.output import outlive_display
logging.basicConfig(stream=sys.stdout, format="%(message)s")
outlive_display()
sys.stdin.readline()
for _ in range(3):
    print("x" * 10_000)
    logging.warning("logged")
    print("told", file=sys.stderr)
sys.stdout.flush()
"""
SHOWS = """
import sys
from cnn_sweeps.settings.arguments import run_command
sys.stdin.readline()
run_command(lambda words: [print("x" * 10_000) for _ in range(3)])
"""


def run(program, *, stdout, is_closed=False):
    """Run a program with a closed pipe, or `stdout`, as its standard output; give its complaints and its exit code."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE if is_closed else stdout, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", program], text=True, **pipes)
    if is_closed:
        process.stdout.close()
    return process.communicate("go\n")[1], process.returncode


def test_what_lasts_ends_well_and_quietly_without_its_display():
    assert run(LASTS, stdout=None, is_closed=True) == ("told\n" * 3, 0)
    with Path(FULL).open("w") as full:
        assert run(LASTS, stdout=full) == ("told\n" * 3, 0)
    subprocess.run(["sh", "-c", '"$0" -c "$1" >&-', sys.executable, LASTS], input=b"go", check=True)


def test_what_shows_its_result_ends_quietly_with_its_reader_and_in_one_line_on_a_full_disk():
    assert run(SHOWS, stdout=None, is_closed=True) == ("", 0)
    with Path(FULL).open("w") as full:
        said, code = run(SHOWS, stdout=full)
    assert code == 1
    assert said == (
        "error: standard output cannot be written (No space left on device); free space, or send it elsewhere\n"
    )


def test_file_that_loses_what_it_cannot_take_is_written_again_once_it_can():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)  # a full pipe then refuses, as a full disk does
    file = open_lossy(writer)
    file.write("x" * 2**20 + "\n")
    file.write("lost\n")
    while select.select([reader], [], [], 0)[0]:
        os.read(reader, 2**16)
    file.write("kept\n")
    assert os.read(reader, 2**16) == b"kept\n"


def test_log_on_a_full_disk_can_be_flushed_and_closed(capsys):
    log = LogFile(FULL)
    log.emit(logging.makeLogRecord({"msg": "x" * 10_000}))
    log.flush()
    log.close()
    assert capsys.readouterr().err == ""
