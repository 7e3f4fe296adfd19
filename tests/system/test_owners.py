"""Whether a process that owns a piece of work lives."""

import json
import os
import shutil
import socket
import subprocess
import sys

import psutil
import pytest

from cnn_sweeps.system.owners import owner_state, owner_tags

SIGN_AND_WAIT = (
    "import json, sys; from cnn_sweeps.system.owners import owner_tags; "
    "print(json.dumps(owner_tags()), flush=True); input()"
)
JUDGE = (
    "import json, sys; from cnn_sweeps.system.owners import owner_state; print(owner_state(json.loads(sys.argv[1])))"
)
IN_A_NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def has_namespaces():
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    return subprocess.run([*IN_A_NAMESPACE, "true"], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def start():
    """Start a process that signs and waits; give it and what it signed with."""
    started = []

    def start(*prefix):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = subprocess.Popen([*prefix, sys.executable, "-c", SIGN_AND_WAIT], **pipes)
        started.append(process)
        return process, json.loads(process.stdout.readline())

    yield start
    for process in started:
        process.kill()
        process.stdin.close()
        process.stdout.close()
        process.wait()


@pytest.fixture(scope="module")
def living(start):
    """What a living process signed with."""
    return start()[1]


def judged(tags, *prefix):
    command = [*prefix, sys.executable, "-c", JUDGE, json.dumps(tags)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_this_process_lives():
    assert owner_state(owner_tags()) == "alive"
    assert owner_tags() == owner_tags()


def test_process_that_ended_is_dead_though_its_parent_has_not_waited_for_it(start):
    process, tags = start()
    assert owner_state(tags) == "alive"
    process.stdin.close()
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    assert owner_state(tags) == "dead"
    process.wait()
    assert owner_state(tags) == "dead"


def test_forked_process_is_another_owner_with_a_word_of_its_own():
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writer, json.dumps(owner_tags()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = json.loads(os.read(reader, 10_000))
    assert theirs["owner.word"] != owner_tags()["owner.word"]
    assert owner_state(theirs) == "dead"


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        ({"owner.started": "1000"}, "dead"),  # the number was used again
        ({"owner.boot": "another"}, "elsewhere"),  # restarted, or another machine of this name: nothing tells
        ({"owner.pid_namespace": "1"}, "elsewhere"),  # another container
        ({"owner.boot": "another", "owner.pid": "4194305"}, "elsewhere"),
        ({"owner.pid_namespace": "1", "owner.pid": "4194305"}, "elsewhere"),
        ({"owner.host": "a name that it had before"}, "alive"),
        ({"owner.host": "a name that it had before", "owner.started": "1000"}, "dead"),
    ],
)
def test_process_is_judged_only_on_its_own_boot_and_in_its_own_namespace(living, changed, state):
    assert owner_state(living | changed) == state


def test_predecessor_of_the_same_number_is_not_taken_for_this_process():
    """As in a container that is started again: its first process has the number 1 each time."""
    mine = owner_tags()
    assert owner_state(mine | {"owner.word": "another"}) == "dead"
    assert owner_state(mine | {"owner.word": "another", "owner.pid_namespace": "1"}) == "elsewhere"


def test_owner_that_an_earlier_version_signed_for_cannot_be_seen():
    older = {"owner.host": socket.gethostname(), "owner.pid": "4194305", "owner.started": "1000.0"}
    assert owner_state(older) == "elsewhere"
    assert owner_state(older, dead_hosts=[socket.gethostname()]) == "dead"
    assert owner_state({}) == "unknown"


def test_host_that_is_named_as_dead_has_only_dead_processes_but_for_those_that_are_seen_to_live():
    mine = owner_tags()
    assert owner_state(mine | {"owner.host": "there", "owner.boot": "another"}, ["there"]) == "dead"
    assert owner_state(mine | {"owner.boot": "before it was restarted"}, [mine["owner.host"]]) == "dead"
    assert owner_state(mine, [mine["owner.host"]]) == "alive"


@pytest.mark.skipif(not has_namespaces(), reason="no PID namespaces here, or no right to make them")
def test_processes_of_two_namespaces_of_one_host_do_not_judge_each_other(start, living):
    here, (_, there) = living, start(*IN_A_NAMESPACE)
    assert here["owner.host"] == there["owner.host"]
    assert (owner_state(there), judged(here, *IN_A_NAMESPACE)) == ("elsewhere", "elsewhere")
    assert judged(there, *IN_A_NAMESPACE) == "elsewhere"


@pytest.mark.skipif(not has_namespaces(), reason="no PID namespaces here, or no right to make them")
def test_process_in_a_restarted_namespace_does_not_take_its_predecessor_of_the_same_number_for_itself(start):
    process, dead = start(*IN_A_NAMESPACE)
    process.kill()
    process.wait()
    assert dead["owner.pid"] == "1"
    # the kernel may give the new namespace the old one's number, in which nothing of the old one can live
    assert judged(dead, *IN_A_NAMESPACE) in ("dead", "elsewhere")
