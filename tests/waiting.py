"""Waiting for events. Nothing is judged by time: a test on a busy machine takes longer, and that is all."""

import time

LONGEST_S = 600  # beyond, something hangs


def wait_until(is_true, what):
    deadline = time.monotonic() + LONGEST_S
    while not is_true():
        assert time.monotonic() < deadline, f"waited too long for {what}"
        time.sleep(0.02)


def run_at_once(processes):
    """Run processes of `multiprocessing` beside each other, to their good ends."""
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)
