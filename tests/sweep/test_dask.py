"""Trials on a Dask cluster: real schedulers and workers as processes, their deaths, and what is refused at once."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import cloudpickle
import psutil
import pytest
from clusters import a_cluster
from omegaconf import OmegaConf
from sweep_app import (
    last_trials,
    processes_in,
    run_here,
    runs,
    started,
    states,
    trials,
    wait_for_runs,
    write_app,
    xs,
)
from waiting import LONGEST_S, wait_until

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.sweep.jobs.executor import JobsAhead, call_until_worker_lasts
from cnn_sweeps.sweep.jobs.loss import LostWorkerError
from cnn_sweeps.sweep.jobs.process import Program, answer
from cnn_sweeps.sweep.jobs.settings import DaskSettings
from cnn_sweeps.sweep.study.address import is_only_here

pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two workers, of which one has a resource and two threads."""
    with a_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.start_worker("rich", "--resources", "GPU=1", "--nthreads", "2")
        cluster.start_worker("poor")
        cluster.wait_for_workers(2)
        yield cluster


@pytest.fixture
def app(tmp_path, monkeypatch):
    """A folder with the application, which waits long for a cluster that is slow, in this process as in its own."""
    from cnn_sweeps.sweep.jobs import dask_cluster, dask_executor, dask_fleet

    for module, name in ((dask_cluster, "_CONNECT_S"), (dask_fleet, "_ANSWER_S"), (dask_executor, "_END_S")):
        monkeypatch.setattr(module, name, LONGEST_S)
    write_app(tmp_path / "app")
    file = tmp_path / "app" / "app.py"
    begin = 'if __name__ == "__main__":\n'
    logs = "import logging; logging.basicConfig()"  # as Hydra has when it comes to Dask, which heeds that
    patient = "from cnn_sweeps.sweep.jobs import dask_cluster, dask_executor, dask_fleet"
    waits = "dask_cluster._CONNECT_S = dask_fleet._ANSWER_S = dask_executor._END_S"
    file.write_text(file.read_text().replace(begin, f"{begin}    {logs}\n    {patient}\n    {waits} = {LONGEST_S}\n"))
    return tmp_path / "app"


def on(cluster, *overrides):
    return ["hydra/launcher=dask", f"hydra.launcher.address={cluster.address}", *overrides]


def sweep_on(cluster, app, *overrides, succeeds=True):
    """Run a sweep to its end with its controller in this process, whose imports are done; give what it prints."""
    return run_here(app, "--multirun", *on(cluster, *overrides), succeeds=succeeds)


def pids(folder):
    return {pid for _, pid, _ in runs(folder)}


def test_trials_end_on_a_cluster_as_they_do_here_and_the_workers_outlive_them(cluster, app):
    faults = "++faults={1:raise,2:kill,3:hang,4:unpicklable,5:prune,6:exit}"
    how = ["hydra.sweeper.n_jobs=auto", "hydra.sweeper.max_retries=1", "hydra.sweeper.trial_timeout_s=15"]
    output = sweep_on(cluster, app, "x=range(0,8)", faults, *how)
    assert "2 workers" in output
    ended = last_trials(app)
    assert {x: trial.state.name for x, trial in ended.items()} == {
        **dict.fromkeys((0, 7), "COMPLETE"),
        **dict.fromkeys((1, 2, 3, 4, 6), "FAIL"),
        5: "PRUNED",
    }
    errors = {x: ended[x].user_attrs["error"] for x in (1, 2, 3, 4, 6)}
    assert errors[1] == "ValueError: x is 1"
    assert re.search(r"the Dask worker at tcp://\S+ (is gone|died)", errors[2])
    assert "hydra.sweeper.trial_timeout_s" in errors[3]
    assert "Unpicklable: cannot travel" in errors[4]
    assert "SystemExit: 3" in errors[6]
    assert sorted(xs(app)) == [0, 1, 2, 2, 3, 4, 5, 6, 7]
    assert "printed" not in output
    assert "in go_wrong" in (app / "out/study" / str(ended[1].number) / "error.txt").read_text()
    assert all(process.poll() is None for process in cluster.processes.values())
    wait_until(lambda: not any(psutil.pid_exists(int(pid)) for pid in pids(app)), "the end of what it used")


def test_application_that_a_worker_cannot_import_stops_the_sweep_with_the_reason(cluster, app, monkeypatch):
    (app / "lacking.py").write_text("import os\nif 'HERE' not in os.environ: raise ImportError('no lacking there')\n")
    program = (app / "app.py").read_text().replace("    returned =", "    lacking.__name__\n    returned =")
    (app / "app.py").write_text(f"import lacking\n{program}")
    monkeypatch.setenv("HERE", "1")
    output = sweep_on(cluster, app, "x=range(0,6)", succeeds=False)
    assert "error: 3 trials in a row failed at the same place (ImportError: no lacking there)" in output
    assert states(app)["FAIL"] == 3
    assert runs(app) == []


def test_only_workers_that_are_meant_get_trials(cluster, app):
    restrictions = ["hydra.launcher.resources={GPU: 1}", "hydra.launcher.workers=['*i*','po*']"]
    output = sweep_on(cluster, app, *restrictions, "x=1,2", "hydra.sweeper.n_jobs=auto")
    assert "1 worker on" in output
    assert states(app) == {"COMPLETE": 2}
    assert len(pids(app)) == 1


def test_killed_controller_leaves_no_trial_running(cluster, app):
    with started(app, *on(cluster, "x=1,2", "fault=hang")) as process:
        wait_for_runs(app, 1)
        process.kill()
        wait_until(lambda: not any(psutil.pid_exists(int(pid)) for pid in pids(app)), "the trial's end")
    assert all(process.poll() is None for process in cluster.processes.values())


def test_cluster_of_this_machine_ends_with_its_controller_and_all_that_its_jobs_have_started(app):
    with started(app, "hydra/launcher=dask", "hydra.sweeper.n_jobs=2", "x=1,2", "fault=child") as process:
        wait_for_runs(app, 2)
        wait_until(lambda: all(psutil.Process(int(pid)).children() for pid in pids(app)), "their children")
        process.kill()
        wait_until(lambda: not processes_in(app), "the end of all")


def test_sweep_gains_a_worker_loses_one_and_the_scheduler_and_the_same_command_finishes_it(cluster, app, tmp_path):
    command = ["x=range(0,6)", "hydra.sweeper.n_jobs=auto", "++faults={0:wait}"]
    with (
        a_cluster(tmp_path / "cluster", "first") as falling_apart,
        started(app, *on(falling_apart, *command)) as process,
    ):
        wait_for_runs(app, 1)
        falling_apart.start_worker("second")
        wait_for_runs(app, 6)
        falling_apart.kill("first")
        wait_for_runs(app, 7)
        falling_apart.kill("scheduler")
        output = process.communicate()[0]
    assert process.returncode == 1
    assert output.splitlines()[-1].startswith(f"error: the Dask scheduler at {falling_apart.address} is gone")
    assert "Traceback" not in output
    lost = trials(app)[0]
    assert "the Dask worker at" in lost.user_attrs["error"]
    assert lost.user_attrs["retried"]
    assert trials(app)[6].user_attrs == trials(app)[6].user_attrs | {"retry_of": 0, "error": "interrupted"}
    assert states(app)["COMPLETE"] == 5
    assert Counter(xs(app)) == {0: 2} | dict.fromkeys(range(1, 6), 1)
    assert len(pids(app)) == 2
    (app / "go").touch()
    sweep_on(cluster, app, *command)
    assert states(app) == {"COMPLETE": 6}
    assert Counter(xs(app)) == {0: 3} | dict.fromkeys(range(1, 6), 1)


def test_cluster_of_this_machine_is_private_and_finishes_running_trials_after_ctrl_c(app):
    with started(app, "x=range(0,4)", "hydra/launcher=dask", "++faults={0:wait}") as process:
        wait_for_runs(app, 1)
        sockets = []
        for each in processes_in(app):
            with suppress(psutil.NoSuchProcess):  # some start others for a moment
                sockets += each.net_connections()
        assert {each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
        os.killpg(process.pid, signal.SIGINT)
        wait_until(lambda: "finishing" in (app / "out/study/sweep.log").read_text(), "the answer")
        (app / "go").touch()
        output = process.communicate()[0]
    assert process.returncode == 130, output
    assert "finishing 1 running trial" in output
    assert "Scheduler at" not in output  # as Dask itself says
    assert states(app)["COMPLETE"] == 1
    assert len(xs(app)) == 1
    assert not processes_in(app)


def test_hydras_own_sweeper_uses_a_cluster_too(cluster, app):
    config = (app / "config.yaml").read_text().partition("hydra:\n")[0]
    (app / "config.yaml").write_text(config.replace("  - override hydra/sweeper: optuna\n", ""))
    launched = ["hydra.sweep.dir=out", "hydra.launcher.n_jobs=auto", "x=4,5,6", "++faults={5:kill}"]
    output = sweep_on(cluster, app, *launched, succeeds=False)
    assert sorted(xs(app)) == [4, 5, 6]
    assert "LostWorkerError: the Dask worker at" in output


# What the executor alone shows.


USUAL = {
    "address": None,
    "n_jobs": 1,
    "resources": {},
    "workers": None,
    "wait_s": 1.0,
    "max_worker_mb": None,
    "environment": [],
}


def planned(folder, **given):
    """An executor for a program that nobody composes jobs of."""
    from cnn_sweeps.sweep.jobs.dask_executor import plan_dask_executor

    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(folder / "out")}}})
    return plan_dask_executor(USUAL | given, JobsAhead(1, 1), Program(Mock(), config, print))


@pytest.fixture(autouse=True)
def _nothing_but_the_mark_is_needed(monkeypatch):
    monkeypatch.setattr(Program, "folders", [])


@contextmanager
def opened(cluster, folder, **given):
    executor = planned(folder, address=cluster.address, wait_s=LONGEST_S, **given)
    (folder / "out").mkdir(exist_ok=True)  # as a sweep does, before its jobs
    try:
        executor.open(print)
        yield executor
    finally:
        executor.close()


def about_process():
    return os.getpid(), threading.get_ident(), os.environ["OMP_NUM_THREADS"]


def test_calls_run_in_one_thread_of_a_warm_process_that_computes_with_the_workers_threads(cluster, tmp_path):
    with opened(cluster, tmp_path, workers=["rich"]) as executor:
        call_until_worker_lasts(executor, about_process)  # one of an earlier sweep may be about to leave
        first, second = (executor.call(about_process).result(LONGEST_S) for _ in range(2))
    assert first == second
    assert first[2] == "2"


def test_only_workers_of_such_names_get_jobs(cluster, tmp_path):
    with opened(cluster, tmp_path, workers=["ri*"], n_jobs="auto") as executor:
        assert executor.num_slots == 1


def test_process_with_more_memory_than_it_may_keep_is_replaced_after_its_job(cluster, tmp_path):
    with opened(cluster, tmp_path, workers=["poor"], max_worker_mb=1) as executor:
        processes = [executor.call(about_process).result(LONGEST_S)[0] for _ in range(2)]
    assert len(set(processes)) == 2


def test_process_of_another_sweep_is_replaced_and_no_job_lost(cluster, tmp_path):
    with opened(cluster, tmp_path, workers=["poor"]) as first, opened(cluster, tmp_path, workers=["poor"]) as second:
        of_first = call_until_worker_lasts(first, about_process)[0]  # it may be one that is about to leave
        assert second.call(about_process).result(LONGEST_S)[0] != of_first


def test_task_that_dask_starts_again_or_elsewhere_is_not_run(monkeypatch):
    from cnn_sweeps.sweep.jobs import dask_worker

    monkeypatch.setattr(dask_worker, "_sweep_id", "mine")
    worker = SimpleNamespace(
        get_current_task=lambda: "key",
        address="tcp://here",
        local_directory="mine",
        state=SimpleNamespace(tasks={"key": SimpleNamespace(state="executing")}),
        status=SimpleNamespace(name="running"),
    )
    monkeypatch.setattr(dask_worker, "get_worker", lambda: worker)

    def run(process):
        return dask_worker.run_job(process, "mine", b"", cloudpickle.dumps((max, (1, 2))), None)

    with pytest.raises(LostWorkerError):
        run("of another process")
    assert run("mine") == 2
    with pytest.raises(LostWorkerError):
        run("mine")


def a_fleet(monkeypatch, num_workers, **client):
    """A fleet of a cluster of so many workers, and its first one."""
    from cnn_sweeps.sweep.jobs.dask_fleet import Fleet

    about = {"name": "w", "host": "here", "resources": {}, "nanny": "tcp://here:0", "status": "running"}
    workers = {f"tcp://here:{port}": about | {"local_directory": "its"} for port in range(num_workers)}

    def scheduler_info(n_workers=5):
        return {"workers": dict(list(workers.items())[: None if n_workers == -1 else n_workers])}

    address = SimpleNamespace(address="tcp://here:0")
    client = SimpleNamespace(scheduler=address, status="running", scheduler_info=scheduler_info, **client)
    return Fleet(client, DaskSettings(**USUAL), [])


def asked(function, call, **_how):
    return Mock(status="finished", done=lambda: True, result=lambda timeout: function(call))


def test_all_workers_of_a_large_cluster_are_found(monkeypatch):
    """Dask tells of the first five only, unless it is asked for all."""
    fleet = a_fleet(monkeypatch, 30, submit=asked)
    assert fleet.look() == []
    assert len(fleet.usable) == 30


def test_call_is_made_once_by_one_worker_alone_and_goes_as_bytes_which_the_scheduler_does_not_read(monkeypatch):
    sent = []
    fleet = a_fleet(monkeypatch, 1, submit=lambda *call, **how: (sent.append((call, how)), asked(*call))[1])
    fleet.look()
    (worker,) = fleet.usable
    sent.clear()
    for _ in range(2):
        fleet.submit_to(worker, max, 1, 2)
    ((function, content), how), (_, again) = sent
    assert isinstance(content, bytes)
    assert function(content) == 2
    unpickle = "import pickle, sys; sys.modules['cnn_sweeps'] = None; pickle.load(sys.stdin.buffer)"
    subprocess.run([sys.executable, "-c", unpickle], input=cloudpickle.dumps(function), check=True)
    assert how["key"] != again["key"]  # an equal one is another call
    assert (how["workers"], how["allow_other_workers"]) == (["tcp://here:0"], False)
    assert (how["retries"], how["pure"]) == (0, False)


def test_result_that_was_taken_is_not_left_with_dask(monkeypatch):
    """Which would have the call made again when the worker that has it dies."""
    from cnn_sweeps.sweep.jobs import dask_executor

    fleet = a_fleet(monkeypatch, 1, submit=asked)
    fleet.look()
    (worker,) = fleet.usable
    worker.about["memory_limit"] = 0
    executor = dask_executor.DaskExecutor(fleet, JobsAhead(1, 1), b"", ExitStack())
    task = Mock(status="finished", result=lambda timeout: answer(partial(max, 1, 2)))
    job = dask_executor._Job(b"", None, Future(), worker, task)
    assert executor._is_over(job)
    assert job.future.result() == 2
    task.release.assert_called_once_with()


def test_file_in_the_sweeps_folder_or_above_it_tells_workers_that_share_it_from_others(tmp_path, monkeypatch):
    from cnn_sweeps.sweep.jobs import dask_executor

    class Fleet:
        def __init__(self, *_about):
            pass

        def assemble(self):
            needed.extend((path, Path(path).is_file()) for path in self.needed)
            raise ConfigError("that is all")

    needed = []
    monkeypatch.setattr(dask_executor, "connected", nullcontext)
    monkeypatch.setattr(dask_executor, "Fleet", Fleet)
    assert plan(tmp_path / "not there yet", address="tcp://here:1") == "that is all"
    ((mark, is_there),) = needed
    assert (Path(mark).parent, is_there) == (tmp_path, True)
    assert list(tmp_path.iterdir()) == []


# What is refused before the first trial.


def plan(folder, **given):
    """Connect as a sweep does, in vain."""
    with pytest.raises(ConfigError) as refused:
        planned(folder, **given).close()
    assert len(str(refused.value).splitlines()) == 1
    return str(refused.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"address": "cluster"}, "hydra.launcher.address=cluster: should be tcp://HOST:PORT or tls://HOST:PORT"),
        ({"address": "http://host:80"}, "hydra.launcher.address=http://host:80: should be tcp://HOST:PORT"),
        ({"n_jobs": 0}, "hydra.launcher.n_jobs=0: should be auto or a number"),
        ({"resources": {"GPU": 0}}, "hydra.launcher.resources=0: should be greater than 0"),
        ({"workers": "gpu"}, "hydra.launcher.workers=gpu: should be a valid list"),
        ({"wait_s": -1}, "hydra.launcher.wait_s=-1: should be greater than 0"),
        ({"max_worker_mb": 0}, "hydra.launcher.max_worker_mb=0: should be greater than or equal to 1"),
    ],
)
def test_wrong_settings_are_named(tmp_path, given, message):
    assert plan(tmp_path, **given).startswith(message)


def test_sweep_that_is_refused_says_so_in_one_line_and_makes_no_study(app):
    command = ["--multirun", "hydra/launcher=dask", "hydra.launcher.address=127.0.0.1:9", "x=1,2"]
    output = run_here(app, *command, succeeds=False)
    _introduction, error = output.splitlines()
    assert error.startswith("error: hydra.launcher.address=127.0.0.1:9: should be tcp://HOST:PORT")
    assert not (app / "studies").exists()


@pytest.mark.parametrize("kind", ["nothing", "something else"])
def test_address_where_no_scheduler_answers_is_refused(tmp_path, monkeypatch, kind):
    from cnn_sweeps.sweep.jobs import dask_cluster

    monkeypatch.setattr(dask_cluster, "_CONNECT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1] if kind == 'something else' else 9}"
        assert f"hydra.launcher.address={address}: no Dask scheduler can be used there" in plan(
            tmp_path, address=address
        )


def test_tls_address_without_certificates_is_refused(tmp_path):
    import dask.config

    address = "tls://127.0.0.1:9"
    assert "DASK_DISTRIBUTED__COMM__TLS__CA_FILE" in plan(tmp_path, address=address)
    files = {"ca-file": "/nowhere/ca.pem", "client.cert": "/nowhere/cert.pem"}
    with dask.config.set({f"distributed.comm.tls.{key}": file for key, file in files.items()}):
        assert "[Errno 2] No such file" in plan(tmp_path, address=address)


def test_cluster_without_the_right_worker_is_refused(cluster, tmp_path, monkeypatch):
    without = plan(tmp_path, address=cluster.address, resources={"TPU": 1})
    assert re.search(
        r"no worker in 1 s; (rich, poor|poor, rich): .* hydra.launcher.resources=.*--resources TPU=1", without
    )
    unnamed = plan(tmp_path, address=cluster.address, workers=["other"])
    assert re.search(r"no worker in 1 s; (rich, poor|poor, rich): .* hydra.launcher.workers=\['other'\]", unnamed)
    monkeypatch.setattr(Program, "folders", ["/nowhere"])
    missing = plan(tmp_path, address=cluster.address, wait_s=LONGEST_S)
    assert re.search(r"worker (rich|poor) at tcp://", missing)
    assert "does not see /nowhere" in missing


def test_cluster_without_a_worker_or_with_one_that_has_no_nanny_another_version_or_another_machine_is_refused(
    app, tmp_path, capsys
):
    other = tmp_path / "site" / "optuna-0.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: optuna\nVersion: 0.9\n")
    path = os.pathsep.join([str(other.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    elsewhere = ["unshare", "--uts", "sh", "-c", 'hostname elsewhere; exec "$@"', "sh"]
    has_namespaces = subprocess.run([*elsewhere, "true"], check=False, capture_output=True).returncode == 0
    with a_cluster(tmp_path / "cluster") as cluster:
        told = plan(tmp_path, address=cluster.address, wait_s=2.5)
        assert told.endswith(f"no worker in 2.5 s; start one with `dask worker {cluster.address}`")
        assert "waiting for a worker" in capsys.readouterr().out
        cluster.start_worker("bare", "--no-nanny")
        assert "has no nanny, which starts it anew" in plan(tmp_path, address=cluster.address, wait_s=LONGEST_S)
        cluster.start_worker("old", PYTHONPATH=path)
        cluster.start_worker("far", command=elsewhere if has_namespaces else ())
        old = plan(tmp_path, address=cluster.address, workers=["old"], wait_s=30)
        assert "worker old at" in old
        assert "optuna is 0.9 there and" in old
        if has_namespaces:
            far = sweep_on(cluster, app, "hydra.launcher.workers=[far]", "x=1,2", succeeds=False)
            assert re.search(
                r"^error: .* is on elsewhere, and hydra.sweeper.storage=\S+study.journal is of .* alone;",
                far,
                re.MULTILINE,
            )
            assert not (app / "studies").exists()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("studies/first.journal", True),
        ("sqlite:////data/mlflow.db", True),
        ("http://localhost:5000", True),
        ("http://tracking:5000", False),
        ("postgresql://me:secret@host/studies", False),
    ],
)
def test_files_and_servers_of_this_machine_are_known_as_such(address, expected):
    assert is_only_here(address) == expected


def test_dask_that_is_not_installed_is_named(monkeypatch):
    from hydra_plugins.cnn_sweeps.launchers import DaskLauncher

    for name in ("dask_cluster", "dask_executor", "dask_fleet", "dask_worker"):
        monkeypatch.delitem(sys.modules, f"cnn_sweeps.sweep.jobs.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "distributed", None)
    launcher = DaskLauncher(**USUAL)
    launcher.program = None
    with pytest.raises(ConfigError, match=r"Dask is not installed; install it: pip install 'cnn-sweeps\[dask\]'"):
        launcher.plan_executor(JobsAhead(1, 1))


def test_import_that_fails_in_a_users_code_is_not_told_as_a_missing_dask(monkeypatch):
    from cnn_sweeps.sweep.jobs import dask_executor
    from hydra_plugins.cnn_sweeps.launchers import DaskLauncher

    monkeypatch.setattr(dask_executor, "plan_dask_executor", Mock(side_effect=ImportError("of the user's code")))
    launcher = DaskLauncher(**USUAL)
    launcher.program = None
    with pytest.raises(ImportError, match="of the user's code"):
        launcher.plan_executor(JobsAhead(1, 1))


def test_cluster_of_this_machine_names_the_package_that_its_certificates_need(monkeypatch):
    from cnn_sweeps.sweep.jobs import dask_cluster

    monkeypatch.setattr(dask_cluster.Security, "temporary", Mock(side_effect=ImportError))
    with pytest.raises(ConfigError, match="needs cryptography; pip install"), dask_cluster.local_cluster(None, {}):
        pass
