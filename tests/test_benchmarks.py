"""Every benchmark does what it is for, once, on little: its numbers mean nothing here, but it has them."""

import contextlib
import io
import logging
import os
import re
import runpy
import shutil
import sys
import time
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import TINY, TINY_DATA
from keras.src.trainers import trainer
from tiny_sweeps import IN_THIS_PROCESS, command_in, write_dark_and_light_photos

PROJECT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch):
    """Benchmarks can be imported, Keras compiles without XLA, and the clock on the wall is far from the world's."""
    monkeypatch.syspath_prepend(PROJECT / "benchmarks")
    monkeypatch.setattr(trainer, "model_supports_jit", lambda _model: False)
    # when logging is configured anew, absl's handler closes its stream if that is not sys.stderr: pytest's, here
    monkeypatch.setattr(logging, "shutdown", lambda *_handlers: None)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def train_here(empty_database):
    """What runs a command line of `cnn_sweeps.train` in this process and in a folder, with more settings."""

    def run(command, folder, *more):
        folder = Path(folder)
        if not (folder / "mlflow.db").exists():
            shutil.copy(empty_database, folder / "mlflow.db")
        with command_in(folder, folder) as train:
            train(*command[3:], *more)

    return run


def shown_by(benchmark, capsys, monkeypatch, *arguments):
    """Run a benchmark's `main` with arguments of the command line; give what it shows."""
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    benchmark.main()
    return capsys.readouterr().out


def test_batch_normalization(monkeypatch, capsys):
    benchmark = import_module("batch_normalization")
    monkeypatch.setattr(benchmark, "NUM_STEPS", 1)
    benchmark.measure(8, 1, repeats=1)
    assert re.findall("Keras|fused", capsys.readouterr().out) == ["Keras", "fused"]


def test_folder_pipeline(monkeypatch, capsys):
    pytest.importorskip("scipy")
    benchmark = import_module("folder_pipeline")
    for name, number in {"NUM_IMAGES": 8, "SIZE": 16, "BATCH_SIZE": 4}.items():
        monkeypatch.setattr(benchmark, name, number)
    benchmark.main(repeats=1)
    assert "ours, later run" in capsys.readouterr().out


def test_no_barrier():
    assert 1 < import_module("no_barrier").measure_s(slow_s=1, fast_s=0.1, num_fast=2) < 300


def test_startup(monkeypatch, capsys):
    benchmark = import_module("startup")
    monkeypatch.setattr(benchmark, "COMMANDS", {"import hydra": ["-c", "import hydra"], "nothing": ["-c", ""]})
    benchmark.main(repeats=1)
    assert "nothing" in capsys.readouterr().out


def test_pruning(monkeypatch, capsys, train_here):
    benchmark = import_module("pruning")

    def run(command, cwd, **_how):
        train_here(command, cwd, *TINY, IN_THIS_PROCESS, "hydra.sweeper.n_jobs=1")

    monkeypatch.setattr(benchmark, "subprocess", SimpleNamespace(run=run, DEVNULL=None))
    shown = shown_by(benchmark, capsys, monkeypatch, "--repeats", "1", "--trials", "1")
    assert "ratio of epochs: median 1.00000" in shown


def test_workers(monkeypatch, capsys):
    benchmark = import_module("workers")
    monkeypatch.setattr(benchmark, "SWEEPS", {"default pruner": []})
    shown = shown_by(benchmark, capsys, monkeypatch, "--repeats", "1")
    assert re.findall(r"(\d) at once  0\.0\d+ \(", shown) == ["1", "2", "4"]


def test_defaults(monkeypatch, capsys, train_here):
    benchmark = import_module("defaults")

    def run(command, cwd, **_how):
        train_here(command, cwd, *TINY, IN_THIS_PROCESS, "hydra.sweeper.n_jobs=1")

    monkeypatch.setattr(benchmark, "subprocess", SimpleNamespace(run=run, DEVNULL=None))
    monkeypatch.setattr(benchmark, "BUILT_IN", {"patterns": []})
    shown = shown_by(benchmark, capsys, monkeypatch, "--seeds", "0", "1", "--", "optimizer.learning_rate=1e-9")
    heads, below, others, defaults = [line.strip("|").split("|") for line in shown.splitlines() if line.startswith("|")]
    assert heads[:3] == ["data set", "settings", "validation log loss"]
    assert below == ["---"] * len(heads)
    assert (others[:2], defaults[:2]) == (["patterns", "others"], ["patterns", "defaults"])
    assert others[2] != defaults[2]
    assert others[-1] == defaults[-1] == "2 (2-2)"


def test_warm_trials_tells_times_of_this_day(monkeypatch, capsys, train_here):
    benchmark = import_module("warm_trials")

    class Here(contextlib.nullcontext):
        pid, returncode = os.getpid(), None

        def __init__(self, command, cwd, **_how):
            super().__init__(self)
            train_here(command, cwd, *TINY, IN_THIS_PROCESS)

        def poll(self):
            before, self.returncode = self.returncode, 0
            return before

    monkeypatch.setattr(benchmark, "subprocess", SimpleNamespace(Popen=Here, DEVNULL=None))
    monkeypatch.setattr(benchmark, "worker_mb", lambda controller: 1.0)
    monkeypatch.setattr(benchmark, "FIRST", 2)
    shown = shown_by(benchmark, capsys, monkeypatch, "--repeats", "1", "--trials", "2")
    after_s = re.findall(r"first result after .* median +([\d.,-]+) ", shown)
    assert len(after_s) == 2
    assert all(0 <= float(each) < 600 for each in after_s)


def test_single_run(monkeypatch, capsys, train_here):
    benchmark = import_module("single_run")

    def timed(command, folder):
        if "--bare" not in command:
            train_here(command, folder)
            return 1.0, 1.0, ""
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            benchmark.bare(*command[3:4], int(command[4]))
        return 1.0, 1.0, shown.getvalue()

    assert benchmark.timed([sys.executable, "-c", "print(1)"], Path())[2] == "1\n"
    workload = {"size": 16, "channels": 1, "epochs": 2, "options": TINY}
    monkeypatch.setattr(benchmark, "WORKLOADS", {"tiny": workload})
    monkeypatch.setattr(benchmark, "timed", timed)
    benchmark.measure("tiny", repeats=1)
    assert re.findall("^(bare|ours)", capsys.readouterr().out, re.MULTILINE) == ["bare", "ours", "ours"]


def test_scale(capsys):
    pytest.importorskip("distributed")
    benchmark = import_module("scale")
    benchmark.print_slots(1, 0.1, repeats=1)
    benchmark.print_costs_of_trials(9, ["random"], None, repeats=1, width=4)
    shown = capsys.readouterr().out
    assert "1 slots, trials of 0.1 s" in shown
    assert len(re.findall("^journal, random", shown, re.MULTILINE)) == 2


def test_peers_tell_when_a_trial_had_ended(monkeypatch, capsys, train_here):
    benchmark = import_module("peers")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "SWEEP_RUN_ID"):
        monkeypatch.setenv(name, "")  # and be as it was afterwards
    monkeypatch.syspath_prepend(benchmark.PEERS)

    def execute_here(command, folder, variables, run):
        run.started = time.time()
        if command[2] == "cnn_sweeps.train":
            others = [word for word in command if not word.startswith(("data=", "training.epochs="))]
            train_here(others, folder, *TINY, IN_THIS_PROCESS)
        else:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                patch.setattr(sys, "argv", command[1:])
                patch.setattr("keras.backend.clear_session", lambda: None)  # other tests' networks are here
                patch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", None)
                patch.setattr("mlflow.tracking.fluent._active_experiment_id", None)
                runpy.run_path(command[1], run_name="__main__")
        run.wall_s, run.cpu_s, run.peak_mib = time.time() - run.started, 1.0, 1.0

    monkeypatch.setattr(benchmark, "execute", execute_here)
    write_arrays = benchmark.write_arrays
    monkeypatch.setattr(benchmark, "write_arrays", lambda file, _options: write_arrays(file, TINY_DATA))
    work = benchmark.Workload(size=16, trials=1, epochs=1)
    runs = benchmark.compare("digits", work, ["plain_careful", "ours_1"], {"plain": sys.executable, "": None}, 1)
    assert [run.error for run in runs] == ["", ""]
    assert all(0 < when < run.wall_s + 1 for run in runs for when, _ in run.trials)
    benchmark.print_table("digits", work, runs, 1)
    assert "ours_1" in capsys.readouterr().out


def test_peers_on_a_frozen_backbone_get_the_folder_as_our_runs_divide_it(tmp_path):
    write_dark_and_light_photos(tmp_path / "given")
    import_module("peers").copy_divided(tmp_path / "given", 16, tmp_path / "divided")
    counts = {split: len(list((tmp_path / "divided" / split).glob("*/*.png"))) for split in ("train", "val", "test")}
    assert counts == {"train": 36, "val": 12, "test": 12}


def test_feature_cache(tmp_path):
    benchmark = import_module("feature_cache")
    benchmark.write_images(tmp_path / "images.u8", num_images=20, size=32)
    num_views, num_computed, *_, num_mb = benchmark.measure(tmp_path / "images.u8", 32, views=1).split()
    assert (num_views, num_computed) == ("1", "32")
    assert num_mb == "0"


def test_peers_are_measured_or_say_why_they_failed(tmp_path):
    benchmark = import_module("peers")
    good, bad = benchmark.Run("any", 0, "plain_careful"), benchmark.Run("any", 0, "plain_careful")
    works = "import os, time; sum(range(10**6)); time.sleep(1); print(os.environ['MINE'])"
    benchmark.execute([sys.executable, "-c", works], tmp_path, {"MINE": "told"}, good)
    assert (tmp_path / "output.log").read_text() == "told\n"
    assert good.error == ""
    assert min(good.wall_s, good.cpu_s, good.peak_mib) > 0
    benchmark.execute([sys.executable, "-c", "1 / 0"], tmp_path, {}, bad)
    assert "ZeroDivisionError" in bad.error


@pytest.mark.parametrize(("script", "package"), [("keras_tuner_sweep", "keras_tuner"), ("ray_tune_sweep", "ray")])
def test_peers_that_need_packages_of_their_own(script, package, monkeypatch):
    pytest.importorskip(package)
    benchmark = import_module("peers")
    tool, work = script.removesuffix("_sweep"), benchmark.Workload(size=28, trials=1, epochs=1)
    (run,) = benchmark.compare("digits", work, [tool], {tool: sys.executable}, 1)
    assert run.error == ""
