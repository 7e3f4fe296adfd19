"""Whether a process that owns a piece of work lives."""

import subprocess
import sys

import psutil

from cnn_sweeps.owners import has_owner_died, owner_tags


def test_this_process_lives():
    assert not has_owner_died(owner_tags())


def test_process_that_ended_is_dead_though_its_parent_has_not_waited_for_it():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = psutil.Process(process.pid)
    tags = owner_tags() | {"owner.pid": str(process.pid), "owner.started": str(owner.create_time())}
    assert not has_owner_died(tags)
    process.stdin.close()
    while owner.status() != psutil.STATUS_ZOMBIE:
        pass
    assert has_owner_died(tags)
    process.wait()
