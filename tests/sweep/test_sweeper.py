"""Whole sweeps of a small application, as commands of their own: what is tried, and what a sweep survives."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import optuna
import psutil
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import OmegaConf
from optuna.storages.journal import JournalFileBackend
from servers import started_study_proxy
from sweep_app import (
    last_trials,
    processes_in,
    run_here,
    runs,
    started,
    states,
    sweep,
    sweep_here,
    trials,
    wait_for_runs,
    write_app,
    xs,
)
from waiting import wait_until

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.sweep.introduction import introduce_sweep
from cnn_sweeps.sweep.plan import _pin_storage
from cnn_sweeps.sweep.settings import check_settings
from cnn_sweeps.sweep.study.address import parse_address
from cnn_sweeps.sweep.study.heartbeat import sign_key
from cnn_sweeps.sweep.study.storage import open_storage
from hydra_plugins.cnn_sweeps._config import OptunaSweeperConf

Plugins.instance()  # has Hydra find the sweeper before the state is kept to which a test returns


@pytest.fixture
def app(tmp_path):
    write_app(tmp_path)
    return tmp_path


# What is tried.


def test_list_is_a_grid_and_nothing_else_and_its_best_command_runs(app):
    output = sweep_here(app, "x=3,1,2")
    assert xs(app) == [3, 1, 2]
    assert [trial.params for trial in trials(app)] == [{"x": x} for x in (3, 1, 2)]
    assert [Path(folder).relative_to(app) for _, _, folder in runs(app)] == [Path(f"out/study/{i}") for i in range(3)]
    results = OmegaConf.load(app / "out/study/optimization_results.yaml")
    assert results == {"name": "optuna", "best_params": {"x": 1}, "best_value": 102.0, "best_trial": 1}
    command = shlex.split(re.search(r"to run by itself:\s*(.*)", output)[1])
    assert (command[:2], command[-1]) == (["python", "app.py"], "x=1")
    run_here(app, *command[2:])
    assert xs(app)[3:] == [1]


def test_first_trial_has_the_settings_as_they_are_with_what_the_configurations_params_fix(app):
    sweep_here(app, "++hydra.sweeper.params={model.width:'range(1,4)',model:large}", "hydra.sweeper.n_trials=1")
    assert [trial.params["model.width"] for trial in trials(app)] == [2]


def test_mixed_space_begins_with_the_current_configuration_and_keeps_what_is_fixed(app):
    sweep_here(app, "model=glob(*)", "x=int(interval(3,8))", "y=0.25", "+z=null,'a,b'", "hydra.sweeper.n_trials=5")
    assert trials(app)[0].params == {"model": "small", "x": 7, "+z": None}
    assert states(app) == {"COMPLETE": 5}
    assert len(runs(app)) > 1
    for _, _, folder in runs(app):
        config, trial = OmegaConf.load(Path(folder, ".hydra/config.yaml")), trials(app)[int(Path(folder).name)]
        assert trial.value == config.x + 100 * config.model.width + 0.25
        assert config.x in range(3, 9)
        assert config.z == {"'a,b'": "a,b", None: None}[trial.params["+z"]]
        assert config.model.width == {"small": 1, "large": 2}[trial.params["model"]]


def test_custom_search_space_adds_parameters_to_the_trials_that_have_them(app):
    sweep_here(app, "model=small,large", "hydra.sweeper.custom_search_space=app.extend", "hydra.sweeper.n_trials=8")
    params = [trial.params for trial in trials(app) if "duplicate_of" not in trial.user_attrs]
    assert Counter(tuple(each) for each in params).keys() == {("model",), ("model", "y")}
    assert all(("y" in each) == (each["model"] == "large") for each in params)
    configs = [OmegaConf.load(Path(folder, ".hydra/config.yaml")) for _, _, folder in runs(app)]
    assert [config.y for config in configs] == [each.get("y", 1) for each in params]


def test_several_objectives_end_in_a_pareto_front(app):
    output = sweep_here(app, "x=1,2,3", "two=true", "hydra.sweeper.direction=[minimize,maximize]", "++faults={3:raise}")
    assert [trial.values for trial in trials(app)] == [[102.0, -102.0], [103.0, -103.0], None]
    assert "Pareto front, 1 of 1" in output
    results = OmegaConf.load(app / "out/study/optimization_results.yaml")
    assert results.solutions == [{"params": {"x": 1}, "values": [102.0, -102.0]}]


def test_enqueued_points_come_first_and_no_equal_point_is_run_twice(app):
    enqueue = "hydra.sweeper.enqueue=[{x:2},{x:0}]"
    output = sweep_here(app, "hydra.sweeper.params={x:'range(0,3)'}", enqueue, "hydra.sweeper.n_trials=12")
    assert xs(app)[:2] == [2, 0]
    assert sorted(xs(app)) == [0, 1, 2]
    assert states(app).keys() == {"COMPLETE"}
    assert states(app)["COMPLETE"] < 12  # it ends once all three are known
    assert output.count("not run again") == states(app)["COMPLETE"] - 3


def test_grid_sampler_tries_all_points_in_order_over_two_commands(app):
    params = ["hydra.sweeper.params.x='range(0,2)'", "+hydra.sweeper.params.model='choice(small,large)'"]
    command = [*params, "hydra/sweeper/sampler=grid"]
    sweep_here(app, *command, "hydra.sweeper.n_trials=3")
    sweep_here(app, *command)
    points = [(x, model) for x in (0, 1) for model in ("small", "large")]
    assert [(trial.params["x"], trial.params["model"]) for trial in trials(app)] == points
    assert xs(app) == [0, 0, 1, 1]


CALLING = """\
import os
from cnn_sweeps.sweep.application import SweepApplication
from cnn_sweeps.sweep.jobs.executor import call_until_worker_lasts


def fail(reason):
    raise LookupError(reason)


class Calling(SweepApplication):
    def finish(self, study, executor):
        try:
            call_until_worker_lasts(executor, fail, "nothing found")
        except LookupError as error:
            return [f"{error} and called {call_until_worker_lasts(executor, os.getpid)} from {os.getpid()}"]
"""


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_other_launchers_run_trials_and_what_is_done_with_the_best_ones(app, launcher):
    """Each of joblib's slots goes on while another one's job runs: the first job waits for the sixth."""
    (app / "calling.py").write_text(CALLING)
    faults = "1:raise,3:prune" + (",0:'wait for runs'" if launcher == "joblib" else "")
    command = ["x=range(0,6)", f"++faults={{{faults}}}", "hydra.sweeper.application={_target_:calling.Calling}"]
    if launcher == "basic":
        output = sweep_here(app, *command)
    else:
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
        output = sweep(app, f"hydra/launcher={launcher}", "hydra.sweeper.n_jobs=2", *command)
    called, controller = re.search(r"nothing found and called (\d+) from (\d+)", output).groups()
    assert (called == controller) == (launcher == "basic")
    assert {x: trial.state.name for x, trial in last_trials(app).items()} == {
        **dict.fromkeys((0, 2, 4, 5), "COMPLETE"),
        1: "FAIL",
        3: "PRUNED",
    }
    assert last_trials(app)[1].user_attrs["error"] == "ValueError: x is 1"
    assert sorted(xs(app)) == list(range(6))
    assert {Path(folder).name for _, _, folder in runs(app)} == set("012345")


# What is refused before the first trial.


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["no_key=1,2"], "no_key"),
        (["x=1,2", "model.depht=3"], "depht"),
        (["model=small,enormous"], "enormous"),
        (["model.depth=1,2"], "depth"),
        (["x=interval(1,0)"], r"x=interval\(1,0\): the interval is empty"),
        (["hydra.sweeper.params={x:'interval(1,0)'}"], "the interval is empty"),
        (["hydra.sweeper.params=null"], "nothing to search"),
        (["x=5"], "nothing to search"),
        (["hydra.sweeper.n_trials=0"], r"hydra\.sweeper\.n_trials=0: should be greater than or equal to 1"),
        (["hydra/sweeper/sampler=annealing"], "annealing"),
        (["hydra/sweeper/pruner=threshold"], r"hydra\.sweeper\.pruner.*lower"),
        (["hydra/sweeper/sampler=grid", "x=interval(0,1)"], "a grid cannot have an interval"),
        (["hydra.sweeper.application={_target_:no_such.Application}"], r"hydra\.sweeper\.application.*no_such"),
        (["hydra.sweeper.application={_target_:collections.Counter}"], "is no SweepApplication"),
        (["hydra.sweeper.application={}"], r"hydra\.sweeper\.application"),
        (
            ["hydra.sweeper.custom_search_space=no_such.extend"],
            r"custom_search_space=no_such\.extend: cannot be imported",
        ),
        (["hydra.sweeper.enqueue=[{y:1}]"], r"enqueue\[0\]\.y: the sweep does not search this key; .* searches x"),
        (["hydra.sweeper.enqueue=[{x:1},{x:2.5}]"], r"enqueue\[1\]\.x: 2\.5 is not"),
        (["hydra/launcher=basic", "hydra.sweeper.trial_timeout_s=3"], "hydra/launcher=workers"),
        (["hydra.sweeper.storage=model"], r"hydra\.sweeper\.storage=.*model"),
        (["hydra.verbose=true,false"], r"hydra\.verbose"),
    ],
)
@pytest.mark.usefixtures("hydra_restore_singletons")
def test_what_cannot_work_is_refused_before_there_is_a_study(app, overrides, message, hydra_sweep_runner, monkeypatch):
    monkeypatch.chdir(app)
    runner = hydra_sweep_runner(str(app / "app.py"), None, None, ".", "config", overrides, app / "swept")
    with pytest.raises((SystemExit, HydraException), match=message), runner:
        pass
    assert not (app / "studies" / "study.journal").exists()
    assert list((app / "swept").iterdir()) == []


CHECKING = """\
from cnn_sweeps.errors import ConfigError
from cnn_sweeps.sweep.application import SweepApplication


class Checking(SweepApplication):
    def check(self, config, directions):
        with open("checked.txt", "a") as file:
            print(config.x, config.y, file=file)
        if config.y == 5 and config.x in (3, 8):
            raise ConfigError(f"x={config.x}: cannot be with y=5")
        if config.x == 9:
            raise ConfigError("x=9: is too large")
        return {"x": config.x, "y": config.y, "of all": 1, "of y": config.y}
"""


@pytest.mark.parametrize(
    ("values", "checked", "told"),
    [
        ("x=range(1,3)", ["1 4", "2 5"], ""),
        ("x=range(1,4)", ["1 4", "3 5", "1 4", "3 4", "1 5"], ""),  # which the sampler may not choose together
        ("x=range(1,10)", ["1 4", "9 5", "1 4", "9 4"], "x=9: is too large"),
        ("x=8,9", ["8 4", "9 4"], "x=9: is too large"),
        ("x=3,1", ["3 4", "1 4", "3 5"], "x=3: cannot be with y=5"),
    ],
)
def test_ends_of_intervals_are_checked_together_where_that_is_allowed_and_listed_values_by_themselves(
    app, values, checked, told
):
    (app / "checking.py").write_text(CHECKING)
    application = "hydra.sweeper.application={_target_:checking.Checking}"
    output = sweep_here(app, values, "y=range(4,6)", "hydra.sweeper.n_trials=1", application, succeeds=not told)
    assert (app / "checked.txt").read_text().splitlines() == checked
    assert told in output
    if not told:
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(app / "studies/study.journal")))
        study = optuna.load_study(study_name="study", storage=storage)
        assert study.user_attrs["definition"]["settings"] == {"of all": 1}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_trials": 2.5}, r"hydra\.sweeper\.n_trials=2\.5: should be a valid integer"),
        ({"n_jobs": 0}, r"hydra\.sweeper\.n_jobs=0: should be auto or a number of trials at once, at least 1"),
        ({"n_trial": 3}, r"hydra\.sweeper\.n_trial=3"),
        ({"max_failure_rate": 1.5}, r"hydra\.sweeper\.max_failure_rate=1\.5: should be less than or equal to 1"),
        ({"trial_timeout_s": 0}, r"hydra\.sweeper\.trial_timeout_s=0: should be greater than 0"),
        ({"direction": "up"}, r"hydra\.sweeper\.direction=up: should be 'minimize' or 'maximize'"),
        ({"direction": []}, r"hydra\.sweeper\.direction=\[\]"),
        ({"study_name": "a/b"}, r"hydra\.sweeper\.study_name=a/b: should be a folder's name"),
        ({"study_name": "."}, r"hydra\.sweeper\.study_name=\.: should be a folder's name"),
        ({"study_name": ".."}, r"hydra\.sweeper\.study_name=\.\.: should be a folder's name"),
        ({"study_name": "-x"}, r"hydra\.sweeper\.study_name=-x: should be a folder's name"),
        ({"on_change": "ask"}, r"hydra\.sweeper\.on_change=ask: should be 'refuse' or 'continue'"),
        ({"enqueue": [3]}, r"hydra\.sweeper\.enqueue=3: should be a valid dict"),
    ],
)
def test_setting_of_the_wrong_type_or_out_of_range_is_named(given, message):
    values = OmegaConf.to_container(OmegaConf.structured(OptunaSweeperConf)) | {"sampler": {}, "pruner": {}}
    del values["defaults"]
    with pytest.raises(ConfigError, match=f"^{message}"):
        check_settings(values | given)


def test_changed_command_of_a_study_is_refused_in_one_line_with_the_difference(app):
    sweep_here(app, "x=1,2", "hydra.sweeper.n_trials=1")
    output = sweep_here(app, "x=1,2", "hydra.sweeper.n_trials=2", "y=3", succeeds=False)
    (line,) = [line for line in output.splitlines() if "was made for another sweep" in line]
    assert "hydra.sweeper.study_name=study" in line
    assert "y=3" in line
    assert xs(app) == [1]


# What is shown.


@pytest.mark.parametrize("is_full", [False, True])
def test_output_that_nobody_reads_or_that_finds_no_space_ends_no_sweep(app, is_full):
    command = [sys.executable, "app.py", "--multirun", "hydra/launcher=basic", "x=1,2"]
    with Path("/dev/full").open("w") as full:
        target = full if is_full else subprocess.PIPE
        process = subprocess.Popen(command, cwd=app, stdout=target, stderr=full if is_full else subprocess.STDOUT)
        if not is_full:
            assert process.stdout.readline()
            process.stdout.close()
        assert process.wait() == 0
    assert states(app) == {"COMPLETE": 2}


# What a sweep survives.

NUM_LONG = 4
LONG = [f"hydra.sweeper.n_trials={NUM_LONG}", "hydra.sweeper.n_jobs=2"]


def _interrupt(process, number):
    """As the terminal does, which sends it to all processes of the command."""
    os.killpg(process.pid, number)


def _go_on(app):
    """Give the command again; check that it ends with exactly its trials, none in another's folder."""
    (app / "go").touch()
    assert processes_in(app) == []
    sweep_here(app, *LONG, "hydra.sweeper.n_jobs=1", "fault=wait")
    assert states(app) == {"COMPLETE": NUM_LONG}
    folders = [folder for _, _, folder in runs(app)]
    assert len(folders) == len(set(folders))


def test_second_ctrl_c_stops_at_once_with_all_workers_and_the_same_command_goes_on(app):
    with started(app, *LONG, "fault=wait") as process:
        wait_for_runs(app, 2)
        _interrupt(process, signal.SIGINT)
        wait_until(lambda: "finishing 2" in (app / "out/study/sweep.log").read_text(), "the answer")
        _interrupt(process, signal.SIGINT)
        process.communicate()
    assert process.returncode == 130
    assert states(app).get("RUNNING", 0) == 0
    wait_until(lambda: processes_in(app) == [], "the workers' end")
    _go_on(app)
    assert sum("retry_of" in trial.user_attrs for trial in trials(app)) == 2


def test_ctrl_c_while_a_worker_starts_ends_neither_it_nor_its_trial_and_the_command_that_is_said_goes_on(app):
    (app / "wait at start").touch()
    with started(app, "hydra.sweeper.n_trials=3") as process:
        wait_until((app / "waiting").exists, "a worker")
        _interrupt(process, signal.SIGINT)
        wait_until(lambda: "finishing 1 running" in (app / "out/study/sweep.log").read_text(), "the answer")
        (app / "go").touch()
        output = process.communicate()[0]
    assert process.returncode == 130
    assert states(app).keys() == {"COMPLETE"}
    assert len(trials(app)) == len(runs(app)) == 1
    command = shlex.split(re.search(r"To go on:\s*(.*)", output)[1])
    assert command[:2] == ["python", "app.py"]
    run_here(app, *command[2:], "hydra/launcher=basic")
    assert states(app) == {"COMPLETE": 3}


def test_killed_controllers_leave_a_study_that_the_same_command_finishes(app):
    for num_runs in (0, 2):
        with started(app, *LONG, "fault=wait") as process:
            wait_for_runs(app, num_runs)
            os.kill(process.pid, signal.SIGKILL)
            wait_until(lambda: processes_in(app) == [], "the workers' end")
    _go_on(app)
    assert len(runs(app)) >= NUM_LONG + 2
    numbers = {trial.number for trial in trials(app) if trial.state.name == "COMPLETE"}
    assert numbers <= {int(Path(folder).name) for _, _, folder in runs(app)}
    retries = [trial for trial in trials(app) if "retry_of" in trial.user_attrs]
    assert len(retries) >= 2
    originals = [trials(app)[trial.user_attrs["retry_of"]] for trial in retries]  # one may have died before it had any
    assert all(trial.params == lost.params for trial, lost in zip(retries, originals, strict=True) if lost.params)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process that cannot notice anything itself")
@pytest.mark.parametrize("is_stopped", [False, True])
def test_worker_that_is_stuck_or_stopped_ends_with_its_children_and_its_controller(app, is_stopped):
    with started(app, "x=1,2", f"fault={'child' if is_stopped else 'stuck'}") as process:
        wait_for_runs(app, 1)
        worker = psutil.Process(int(runs(app)[0][1]))
        wait_until(worker.children, "its child")
        if is_stopped:
            worker.suspend()
        else:
            wait_until((app / "stuck").exists, "the worker to be stuck")
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: processes_in(app) == [], "the end of all")


def test_worker_that_is_starting_ends_without_a_job_if_its_controller_has(app):
    (app / "wait at start").touch()
    with started(app, "x=1,2") as process:
        wait_until((app / "waiting").exists, "a worker that starts")
        os.kill(process.pid, signal.SIGKILL)
        (app / "go").touch()
        wait_until(lambda: processes_in(app) == [], "the worker's end")
    assert runs(app) == []


def test_without_a_name_each_command_is_a_study_of_its_own(app):
    for _ in range(2):
        sweep_here(app, "x=1,2", "hydra.sweeper.n_trials=1", "hydra.sweeper.study_name=null")
    assert len(list((app / "studies").glob("sweep_*.journal"))) == 2
    assert len(runs(app)) == len({folder for _, _, folder in runs(app)}) == 2


@pytest.mark.parametrize("prefix", ["", "sqlite:///"])
def test_every_job_composes_the_name_and_the_storage_of_the_study_whatever_they_are_called(
    prefix, tmp_path, monkeypatch
):
    """From overrides, also where it works in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    place = "it's {mine}, [a=b] $x/study"
    sweeper = {"study_name": None, "storage": prefix + place}
    config = OmegaConf.create({"hydra": {"sweeper": sweeper, "overrides": {"hydra": []}}})
    introduce_sweep(config)
    _pin_storage(config)
    words = OverridesParser.create().parse_overrides(list(config.hydra.overrides.hydra))
    composed = {word.key_or_group: word.value() for word in words}
    assert composed["hydra.sweeper.study_name"] == config.hydra.sweeper.study_name
    assert composed["hydra.sweeper.storage"] == config.hydra.sweeper.storage == f"{prefix}{tmp_path}/{place}"


def test_study_behind_optunas_proxy_is_shared_and_its_outage_is_waited_for(app, tmp_path_factory):
    waits_longer = "from cnn_sweeps.system import patience\npatience.PATIENCE_S = 3600.0\n"
    (app / "app.py").write_text(waits_longer + (app / "app.py").read_text())
    with started_study_proxy(tmp_path_factory.mktemp("proxy")) as proxy:
        command = [f"hydra.sweeper.storage={proxy.address}", "hydra.sweeper.n_trials=2", "hydra/launcher=basic"]
        with started(app, *command, "fault=wait") as process:
            wait_for_runs(app, 1)
            proxy.kill()
            (app / "go").touch()
            told = f"hydra.sweeper.storage={proxy.address}: cannot be used for now"
            assert any(told in line for line in process.stdout)
            proxy.start()
            output = process.communicate()[0]
        assert process.returncode == 0, output
        study = optuna.load_study(study_name="study", storage=open_storage(parse_address(proxy.address)))
        assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2
        assert {sign_key(trial.user_attrs["owner"]) for trial in study.trials} <= study.user_attrs.keys()
