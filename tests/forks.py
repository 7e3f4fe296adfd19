"""Processes of their own that start at once: forks of the one that workers of sweeps are forks of, with its imports."""

import multiprocessing
import signal

from tiny_sweeps import command_in, raised_in_epoch


def killed_in_epoch(number, folder, store, *arguments):
    """Run the command in a folder, in a process of its own, which is killed once an epoch is recorded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cnn_sweeps.selection.worker"])
    process = context.Process(target=_run_until_killed, args=(number, folder, store, *arguments))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def _run_until_killed(number, folder, store, *arguments):
    with command_in(folder, store) as run_train, raised_in_epoch(number, signal.SIGKILL):
        run_train(*arguments)
