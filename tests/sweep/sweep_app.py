"""A small Hydra application to sweep over, in processes of its own, and what it leaves."""

import io
import logging
import os
import runpy
import signal
import subprocess
import sys
from collections import Counter
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import optuna
import psutil
import pytest
from optuna.storages.journal import JournalFileBackend
from waiting import wait_until

APP = """\
import ctypes, os, signal, subprocess, sys, threading, time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig

VERSION_BASE = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}


class Unpicklable(Exception):
    def __init__(self, message, number):
        super().__init__(message)
        self.lock = threading.Lock()


def wait_until(is_true):
    deadline = time.monotonic() + 600
    while not is_true():
        if time.monotonic() > deadline:
            raise RuntimeError("waited too long")
        time.sleep(0.01)


def go_wrong(fault, x):
    if fault == "raise":
        raise ValueError(f"x is {x}")
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "terminate":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(3600)
    if fault == "leave":
        os._exit(0)
    if fault == "exit":
        sys.exit(3)
    if fault == "memory":
        raise MemoryError
    if fault == "prune":
        from optuna import TrialPruned

        raise TrialPruned
    if fault == "unpicklable":
        raise Unpicklable("cannot travel", 1)
    if fault in ("foreign error", "foreign value"):  # of a module that only this process can import
        sys.path.insert(0, "only_here")
        import foreign

        if fault == "foreign error":
            raise foreign.ForeignError("bad")
        return foreign.ForeignError("bad")
    if fault == "hang":
        time.sleep(3600)
    if fault == "child":
        subprocess.Popen(["sleep", "3600"])
        wait_until(lambda: Path("go").exists())
    if fault == "stuck":  # in C code that lets no thread of Python run
        subprocess.Popen(["sleep", "3600"])
        Path("stuck").touch()
        ctypes.PyDLL(None).sleep(3600)
    if fault == "pause":
        time.sleep(0.15)
    if fault == "wait":  # for the test
        wait_until(lambda: Path("go").exists())
    if fault == "wait for runs":
        wait_until(lambda: len(Path("runs.txt").read_text().splitlines()) >= 6)
    if fault == "wait for partner":
        wait_until(lambda: len({line.split()[1] for line in Path("runs.txt").read_text().splitlines()}) >= 2)
    return {"not a number": float("nan"), "text": "much"}.get(fault)


if __name__ == "__mp_main__":  # a worker begins
    if Path("die at start").exists():
        Path("die at start").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if Path("wait at start").exists():
        Path("waiting").touch()
        wait_until(lambda: Path("go").exists())


def extend(config, trial):
    if trial.params["model"] == "large":
        trial.suggest_int("y", 5, 6)


@hydra.main(config_path=".", config_name="config", **VERSION_BASE)
def main(config):
    folder = HydraConfig.get().runtime.output_dir
    with open("runs.txt", "a") as runs:
        runs.write(f"{config.x} {os.getpid()} {folder}\\n")
    print("printed, x is", config.x, flush=True)
    os.system("echo printed by a child")
    print("printed as an error", file=sys.stderr)
    returned = go_wrong(config.faults.get(config.x) or config.fault, config.x)
    if returned is not None:
        return returned
    value = config.x + 100 * config.model.width + config.y
    return (value, -value) if config.two else value


if __name__ == "__main__":
    main()
"""
CONFIG = """\
defaults:
  - _self_
  - model: small
  - override hydra/sweeper: optuna
  - override hydra/launcher: workers
x: 7
y: 1
two: false
text: ""
fault: none
faults: {}
hydra:
  sweep: {dir: "out/${hydra.sweeper.study_name}"}
  sweeper:
    study_name: study
    n_jobs: 1
    params: {x: "range(0,1000)"}
"""


def write_app(folder):
    """Write `app.py` and its configuration; each of its runs adds `X PID OUTPUT_FOLDER` to `runs.txt`."""
    (folder / "model").mkdir(parents=True)
    (folder / "app.py").write_text(APP)
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "model" / "small.yaml").write_text("width: 1\n")
    (folder / "model" / "large.yaml").write_text("width: 2\ndepth: 3\n")


def start(folder, *overrides, program=("app.py",)):
    """Start a sweep as the leader of a process group, as a terminal does."""
    set_by_others = ("MLFLOW_TRACKING_URI", "HYDRA_FULL_ERROR", "JOBLIB_MULTIPROCESSING")  # in this process
    environment = {key: value for key, value in os.environ.items() if key not in set_by_others}
    command = [sys.executable, "-u", *program, "--multirun", *overrides]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **pipes)


@contextmanager
def started(folder, *overrides, program=("app.py",)):
    """Start a sweep, and leave none of its processes to the next test."""
    process = start(folder, *overrides, program=program)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def sweep(folder, *overrides, succeeds=True, program=("app.py",)):
    """Run a sweep to its end; give what it prints."""
    with started(folder, *overrides, program=program) as process:
        output = process.communicate()[0]
    assert (process.returncode == 0) == succeeds, output
    return output


def sweep_here(folder, *overrides, succeeds=True):
    """Run a sweep to its end in this process, whose imports are done, where no process is the point; give the same."""
    return run_here(folder, "--multirun", "hydra/launcher=basic", *overrides, succeeds=succeeds)


def run_here(folder, *arguments, succeeds=True):
    """Run the application in this process."""
    of_folder = {file.stem for file in folder.glob("*.py")}
    output, code = io.StringIO(), 0
    with (
        chdir(folder),
        redirect_stdout(output),
        redirect_stderr(output),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "argv", ["app.py", *arguments])
        patch.syspath_prepend(folder)
        # when logging is configured anew, absl's handler closes its stream if that is not sys.stderr: pytest's, here
        patch.setattr(logging, "shutdown", lambda *_handlers: None)
        for variable in ("MLFLOW_TRACKING_URI", "HYDRA_FULL_ERROR"):
            patch.delenv(variable, raising=False)
        try:
            runpy.run_path("app.py", run_name="__main__")
        except SystemExit as end:
            code = end.code
            if isinstance(code, str):
                print(code)
        finally:
            for name in of_folder:
                sys.modules.pop(name, None)
    assert (code in (0, None)) == succeeds, output.getvalue()
    return output.getvalue()


def runs(folder):
    """What the application noted of its runs, in order: x, process and output folder."""
    file = Path(folder, "runs.txt")
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def wait_for_runs(folder, number):
    wait_until(lambda: len(runs(folder)) >= number, f"{number} runs")


def xs(folder):
    return [int(x) for x, _, _ in runs(folder)]


def trials(folder, study="study"):
    database = Path(folder, "studies", f"{study}.db")
    if database.exists():
        return optuna.load_study(study_name=study, storage=f"sqlite:///{database}").trials
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(database.with_suffix(".journal"))))
    return optuna.load_study(study_name=study, storage=storage).trials


def states(folder):
    """How many trials are in which state, without those that were tried again."""
    return Counter(trial.state.name for trial in trials(folder) if not trial.user_attrs.get("retried"))


def last_trials(folder):
    """The last trial of each x."""
    return {trial.params["x"]: trial for trial in trials(folder)}


def processes_in(folder):
    """The living processes that work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found
