"""Nobody but the sweep itself can use the Dask cluster that it starts on this machine."""

import os
import signal
import stat
import tomllib
import urllib.request
from http.client import HTTPException
from pathlib import Path

import psutil
import pytest
from packaging.requirements import Requirement
from waiting import LONGEST_S, wait_until

pytest.importorskip("distributed")
from distributed import Client, Security

from cnn_sweeps.sweep.jobs.dask_cluster import connected, local_cluster
from cnn_sweeps.sweep.jobs.machine import plan_workers
from cnn_sweeps.sweep.jobs.settings import WorkersSettings


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster of one worker, its client, the folder of its temporary files, and the ports that were open before."""
    temporary = tmp_path_factory.mktemp("temporary")
    open_before = listening_ports()  # of servers that other tests share
    plan = plan_workers(WorkersSettings(1, gpus=[]), at_most=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        patch.setattr("tempfile.tempdir", None)
        with local_cluster(plan, {}) as cluster, connected(cluster) as client:
            client.wait_for_workers(1)
            yield cluster, client, temporary, open_before


def listening_ports():
    this = psutil.Process()
    sockets = [each for process in (this, *this.children(recursive=True)) for each in process.net_connections()]
    return {each.laddr.port for each in sockets if each.status == psutil.CONN_LISTEN}


def test_the_sweeps_own_client_runs_code_there(cluster):
    client = cluster[1]
    assert client.submit(sum, [1, 2]).result(LONGEST_S) == 3
    assert client.scheduler.address.startswith("tls://127.0.0.1:")


@pytest.mark.parametrize(
    ("protocol", "make_security"),
    [("tcp", lambda: Security(require_encryption=False)), ("tls", Security.temporary)],
    ids=["without one", "with one of its own"],
)
def test_client_without_the_sweeps_certificate_cannot_connect(cluster, protocol, make_security):
    address = cluster[0].scheduler_address.replace("tls", protocol)
    with pytest.raises(OSError, match=r"TLS certificate does not match|reset by peer|closed"):
        Client(address, security=make_security(), timeout=10, set_as_default=False)


def refuse_all_pages(ports):
    for port in ports:
        for page in ("health", "info/main/workers.html", "metrics"):
            with pytest.raises((OSError, HTTPException)) as refused:  # no answer, none that is one, or no such page
                urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=30)
            assert not isinstance(refused.value, TimeoutError)


def test_no_process_of_the_cluster_answers_or_shows_anything_without_a_certificate(cluster):
    addresses = [cluster[0].scheduler_address, *cluster[1].scheduler_info(n_workers=-1)["workers"]]
    ports = listening_ports() - cluster[3]  # those of nannies too
    assert {int(address.rpartition(":")[2]) for address in addresses} < ports
    refuse_all_pages(ports)


def test_worker_that_its_nanny_starts_again_is_as_private_and_no_more_ended_by_ctrl_c_than_the_first(cluster):
    client = cluster[1]
    (pid,) = client.run(os.getpid).values()
    os.kill(pid, signal.SIGKILL)

    def started():
        return {*client.run(os.getpid, on_error="ignore").values()} - {pid}

    wait_until(started, "another process")
    (again,) = started()
    os.kill(again, signal.SIGINT)
    assert {*client.run(os.getpid).values()} == {again}
    refuse_all_pages(listening_ports() - cluster[3])


def test_no_key_is_left_in_a_file(cluster):
    files = [file for file in cluster[2].rglob("*") if stat.S_ISREG(file.lstat().st_mode)]
    assert not [file for file in files if b"PRIVATE KEY" in file.read_bytes()]


def test_package_that_makes_certificates_is_installed_with_dask():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "cryptography" in {Requirement(each).name for each in project["optional-dependencies"]["dask"]}
