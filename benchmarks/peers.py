"""How many trials a minute do sweeps of this project and of its peers run on the same work?

    python benchmarks/peers.py [--repeats 3] [--workload digits photos96 photos128 features] [--tools ...] [--trials N]
        [--epochs N] [--slow-trials 2] [--root FOLDER] [--weights FILE] [--environments DIR] [--json FILE]

Every tool tunes dropout, L2 and decay rate of the same network on the same training and validation images: batch size
32, Adam, the same number of trials and epochs, no augmentation, no early stopping. The objective is the lowest
validation log loss over the epochs, without the L2 penalty. The sampler is TPE after 10 random trials. The number of
the repeat seeds sampler and trainings. All tools record parameters and each epoch's metrics in MLflow on SQLite; only
`plain_naive` keeps models. Notes below the tables say what differs. The scripts are in `benchmarks/peers/`.

`features` tunes the dense head on a frozen MobileNetV2, at 160x160, with early stopping. `--root` is a folder of class
folders (default: generated images), `--weights` a file of weights without the top (default: random weights).
`features s` is the time in which the peers decode images and compute features; ours do that in the first trials.

Each run is a command in an empty folder, in an environment that this script makes; tools take turns within a repeat.
`wall s` and `trials/min` count the whole command with its start. `warm` counts from the first completed trial (`_2`:
from the second) to the last. CPU seconds are those of all processes of the command. `MiB` is the highest sum of their
proportional set sizes, sampled twice a second. `s to target` is the time from the start of the command to its first
trial that is at least as good as the target; "-" means never. The target is the median of the peers' best objectives in
that repeat, without `plain_naive`, which runs fewer trials. Each number is a median (lowest-highest).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import psutil
from optuna.trial import TrialState
from shared import ArgumentParser, load_study, write_photos
from single_run import write_arrays

PEERS = Path(__file__).parent / "peers"
SAMPLE_EVERY_S = 0.5
LEAVE_WITHIN_S = 15
TIMEOUT_S = 3600
STUDY = "peers"
COMMON_VARIABLES = {"MLFLOW_DISABLE_TELEMETRY": "true", "RAY_USAGE_STATS_ENABLED": "0"}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
SHOWN_PACKAGES = ("tensorflow", "keras", "mlflow", "optuna", "hydra-core", "hydra-optuna-sweeper", "keras-tuner", "ray")


@dataclass(frozen=True)
class Workload:
    """What every tool trains on."""

    size: int
    trials: int
    epochs: int
    root: Path | None = None
    weights: Path | None = None


@dataclass(frozen=True)
class Tool:
    """How to run a tool; ours have no script."""

    script: str = ""
    environment: str = ""
    trial: str = "careful"
    at_once: int = 1
    max_trials: int = sys.maxsize
    options: tuple[str, ...] = ()


@dataclass
class Run:
    """The measurements of one command; `trials` has the seconds since its start and the objective of each trial."""

    workload: str
    repeat: int
    tool: str
    started: float = 0.0
    wall_s: float = math.nan
    cpu_s: float = math.nan
    peak_mib: float = math.nan
    features_s: float = math.nan
    trials: list[tuple[float, float | None]] = field(default_factory=list)
    error: str = ""

    @property
    def best(self) -> float:
        """The lowest objective; pruned trials have none."""
        return min((value for _, value in self.trials if value is not None), default=math.inf)

    def seconds_to(self, target: float) -> float:
        """Return the seconds until the first trial that is at least as good; infinite if there is none."""
        return next((when for when, value in self.trials if value is not None and value <= target), math.inf)

    def rate(self) -> float:
        """Return trials a minute over the whole command."""
        return 60 * len(self.trials) / self.wall_s

    def warm_rate(self) -> float:
        """Return trials a minute after each slot has finished one."""
        first = TOOLS[self.tool].at_once
        if len(self.trials) <= first:
            return math.nan
        return 60 * (len(self.trials) - first) / (self.trials[-1][0] - self.trials[first - 1][0])


WORKLOADS = {
    "digits": Workload(size=28, trials=20, epochs=10),
    "photos96": Workload(size=96, trials=6, epochs=3),
    "photos128": Workload(size=128, trials=6, epochs=3),
    "features": Workload(size=160, trials=20, epochs=30),
}
NO_PRUNER = "hydra/sweeper/pruner=none"
TOOLS = {
    "plain_naive": Tool("plain_naive.py", "plain", max_trials=3),
    "plain_careful": Tool("plain_careful.py", "plain"),
    "plain_careful_2": Tool("plain_careful.py", "plain", at_once=2),
    "hydra_optuna_sweeper": Tool("hydra_sweep.py", "hydra_optuna_sweeper"),
    "hydra_optuna_sweeper_2": Tool(
        "hydra_sweep.py", "hydra_optuna_sweeper", at_once=2, options=("hydra/launcher=joblib",)
    ),
    "keras_tuner": Tool("keras_tuner_sweep.py", "keras_tuner"),
    "ray_tune": Tool("ray_tune_sweep.py", "ray_tune", at_once=2),
    "frozen_images": Tool("plain_careful.py", "plain", "frozen_images", max_trials=2),
    "frozen_features": Tool("plain_careful.py", "plain", "frozen_features"),
    "hydra_features": Tool("hydra_sweep.py", "hydra_optuna_sweeper", "frozen_features"),
    "ours_1": Tool(options=(NO_PRUNER,)),
    "ours_2": Tool(options=(NO_PRUNER,), at_once=2),
    "ours_2_pruning": Tool(at_once=2),
}
BASES = ("plain_careful", "frozen_features")
FOOTNOTES = """\
plain_naive       loads the images in each trial and keeps each model with MLflow's defaults; at most 3 trials
plain_careful     one trial after the other with TensorFlow's own number of threads; _2: two processes of one thread
                  share a study in a journal file; the second has its own seed
hydra_optuna_...  the trial of plain_careful; TPE is that of the Optuna version that this sweeper needs; _2: launcher
                  joblib
keras_tuner       the trial of plain_careful; no TPE, its Bayesian optimization is a Gaussian process; keeps weights
ray_tune          the trial of plain_careful; OptunaSearch with TPE, two trials at once with one core each
frozen_images     computes the backbone in every epoch, with tf.data; fewer trials, and not counted for the target
frozen_features   computes and saves features once, and trains the head on them; hydra_features: the same trial
ours_...          the first trial is the configuration as it is, not a random one; _pruning: the default pruner, whose
                  pruned trials count as trials and have no objective"""


def prepare_environment(folder: Path, name: str) -> Path:
    """Return the Python of a peer's environment; make it anew if its requirements have changed."""
    required, installed = PEERS / "requirements" / f"{name}.txt", folder / name / "requirements.txt"
    python = folder / name / "bin" / "python"
    if not installed.exists() or installed.read_text() != required.read_text():
        print(f"installing the environment {name}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder / name)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--quiet", "-r", str(required)], check=True)
        installed.write_text(required.read_text())
    return python


def describe_versions(python: Path) -> dict[str, str]:
    """Return the versions of packages; the imports also bring slow packages into memory, for all tools alike."""
    code = (
        "import json, keras, mlflow; from importlib.metadata import distributions; "
        "print(json.dumps({d.name.lower(): d.version for d in distributions()}))"
    )
    output = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout
    versions = json.loads(output.splitlines()[-1])
    return {name: versions[name] for name in SHOWN_PACKAGES if name in versions}


def copy_divided(root: Path, size: int, folder: Path) -> None:
    """Copy the images of a folder to folders train, val and test, divided as in our runs."""
    from cnn_sweeps.data import load_folder
    from cnn_sweeps.data.split import split_dataset

    data = load_folder(str(root), size, 3, "skip", str(folder.parent / "cache"))
    split = split_dataset(data, val_fraction=0.2, test_fraction=0.2, seed=0)
    assert data.file_names is not None
    for name in ("train", "val", "test"):
        for i in getattr(split, name).tolist():
            file = folder / name / data.class_names[data.labels[i]] / f"{i:06d}{Path(data.file_names[i]).suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / data.file_names[i], file)


def write_random_weights(file: Path, size: int) -> None:
    import keras

    keras.utils.set_random_seed(0)
    shape = (size, size, 3)
    keras.applications.MobileNetV2(input_shape=shape, include_top=False, weights=None).save_weights(file)


def write_data(folder: Path, workload: str, work: Workload) -> tuple[Path, Workload]:
    """Write the images for all tools; return their path, and the workload with a file of weights if it needs one."""
    if workload == "digits":
        write_arrays(folder / "digits.npz", ["data=digits"])
        return folder / "digits.npz", work
    if work.root is not None:
        copy_divided(work.root, work.size, folder / workload)
    else:  # 600 training, 200 validation and 200 test images
        splits = ["train"] * 600 + ["val"] * 200 + ["test"] * 200
        photos = folder / workload
        write_photos(1000, (150, 200), lambda i, label: photos / splits[i] / f"class{label}" / f"{i:04d}.jpg")
    if workload == "features" and work.weights is None:
        work = replace(work, weights=folder / "random.weights.h5")
        write_random_weights(work.weights, work.size)
    return folder / workload, work


def our_command(tool: Tool, data: Path, work: Workload, seed: int) -> list[str]:
    sweeper = {"n_jobs": tool.at_once, "n_trials": work.trials, "sampler.seed": seed, "study_name": STUDY}
    command = [sys.executable, "-m", "cnn_sweeps.train", "--multirun", "search=regularization", *tool.options]
    command += [f"hydra.sweeper.{key}={value}" for key, value in sweeper.items()]
    command += [f"seed={seed}", "augmentation.enabled=false", f"training.epochs={work.epochs}"]
    command += ["evaluate_best=false", "tracking.log_model=false", "optimizer.learning_rate=1e-3"]  # as the peers
    if work.weights is None:
        command += ["training.early_stopping.enabled=false"]
    else:
        command += ["model=pretrained", f"model.weights={work.weights}", "training.early_stopping.min_steps=0"]
    if data.is_dir():
        return [*command, "data=folder", f"data.root={data}", f"data.image_size={work.size}", "data.cache_dir=cache"]
    return [*command, "data=digits"]


def peer_command(tool: Tool, python: Path, data: Path, work: Workload, seed: int, notes: Path) -> list[str]:
    settings = {"data": data, "size": work.size, "epochs": work.epochs, "notes": notes, "trial": tool.trial}
    settings |= {} if work.weights is None else {"weights": work.weights}
    command = [str(python), str(PEERS / tool.script)]
    if tool.environment != "hydra_optuna_sweeper":
        settings |= {"trials": work.trials, "seed": seed, "workers": tool.at_once}
        return command + [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    settings |= {"seed": seed, "hydra.sweeper.n_trials": work.trials, "hydra.sweeper.sampler.seed": seed}
    settings |= {"hydra.sweeper.n_jobs": tool.at_once}
    return [*command, "--multirun", *tool.options, *(f"{key}={value}" for key, value in settings.items())]


class Watch:
    """Adds up what all processes of a command use, also those that have left their parent."""

    def __init__(self, root: int) -> None:
        self.peak = 0.0
        self._root, self._found, self._cpu = root, dict[int, psutil.Process](), dict[int, float]()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @property
    def cpu_s(self) -> float:
        return sum(self._cpu.values())

    def close(self) -> None:
        """Wait until all processes have ended, so that they do not disturb the next command."""
        self._done.set()
        self._thread.join()
        until = time.monotonic() + LEAVE_WITHIN_S
        while self._living() and time.monotonic() < until:
            self._look()
            time.sleep(SAMPLE_EVERY_S)
        for process in self._living():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_EVERY_S):
            self._look()

    def _look(self) -> None:
        for process in psutil.process_iter():  # by number, so that parents come first
            with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
                if process.ppid() in self._found or os.getsid(process.pid) == self._root:
                    self._found[process.pid] = process
        self.peak = max(self.peak, sum(self._measure(process) for process in self._living()))

    def _measure(self, process: psutil.Process) -> float:
        """Note a process's CPU time; return its memory."""
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            self._cpu[process.pid] = times.user + times.system
            try:
                return process.memory_full_info().pss
            except (psutil.AccessDenied, AttributeError):  # another user's process, or not Linux
                return process.memory_info().rss
        return 0.0

    def _living(self) -> list[psutil.Process]:
        return [process for process in self._found.values() if process.is_running()]


def execute(command: list[str], folder: Path, variables: dict[str, str], run: Run) -> None:
    """Run a command and note what it uses, or why it failed."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "HYDRA_"))}
    log = folder / "output.log"
    before, run.started = os.times(), time.time()
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=inherited | COMMON_VARIABLES | variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        watch = Watch(process.pid)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(TIMEOUT_S)
        finally:  # also on Ctrl-C, which does not reach the process
            process.kill()
            code = process.wait()
            run.wall_s, after = time.time() - run.started, os.times()
            watch.close()
    waited_for = after.children_user + after.children_system - before.children_user - before.children_system
    run.cpu_s, run.peak_mib = max(waited_for, watch.cpu_s), watch.peak / 2**20
    if code:
        run.error = f"ended with {code}:\n{log.read_text(errors='replace')[-3000:]}"


def read_notes(file: Path) -> tuple[list[tuple[float, float | None]], float]:
    """Return the trials that a peer has noted, and the seconds that its features took."""
    notes = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    features_s = next((note["features_s"] for note in notes if "features_s" in note), math.nan)
    return [(note["time"], note["value"]) for note in notes if "value" in note], features_s


def read_study(folder: Path) -> list[tuple[float, float | None]]:
    study = load_study(folder / "outputs/sweeps" / STUDY / "study.journal", STUDY)
    finished = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    return [
        (trial.datetime_complete.timestamp(), trial.value if trial.state.name == "COMPLETE" else None)
        for trial in finished
    ]


def measure(run: Run, python: Path, data: Path, work: Workload) -> None:
    """Run one tool once."""
    tool = TOOLS[run.tool]
    work = replace(work, trials=min(work.trials, tool.max_trials))
    with tempfile.TemporaryDirectory(prefix="peers", ignore_cleanup_errors=True) as temporary:
        folder, notes = Path(temporary, "work"), Path(temporary, "notes.jsonl")
        folder.mkdir()
        if tool.script:
            command = peer_command(tool, python, data, work, run.repeat, notes)
            execute(command, folder, ONE_THREAD if tool.at_once > 1 else {}, run)
            trials, run.features_s = read_notes(notes)
        else:
            execute(our_command(tool, data, work, run.repeat), folder, {}, run)
            trials = read_study(folder) if not run.error else []
        run.trials = sorted((when - run.started, value) for when, value in trials)
        if not run.error and len(run.trials) < work.trials:
            output = (folder / "output.log").read_text(errors="replace")[-3000:]
            run.error = f"finished {len(run.trials)} of {work.trials} trials:\n{output}"
    result = run.error or f"{len(run.trials)} trials in {run.wall_s:.0f} s, best {run.best:.5f}"
    print(f"{run.workload}, repeat {run.repeat}, {run.tool}: {result}", file=sys.stderr, flush=True)


def targets(runs: list[Run]) -> dict[int, float]:
    """Return the median of the peers' best objectives in each repeat."""
    best: dict[int, list[float]] = {}
    for run in runs:
        if TOOLS[run.tool].script and TOOLS[run.tool].max_trials == sys.maxsize and not run.error:
            best.setdefault(run.repeat, []).append(run.best)
    return {repeat: statistics.median(values) for repeat, values in best.items()}


def print_table(name: str, work: Workload, runs: list[Run], repeats: int) -> None:
    """Print one workload's table."""
    target = targets(runs)
    shown = ", ".join(f"{value:.5f}" for value in target.values())
    print(
        f"\n{name}: {work.size}x{work.size}, {work.trials} trials of {work.epochs} epochs, {os.cpu_count()} cores, "
        f"repeats: {repeats}; median (lowest-highest)\ntarget of each repeat: {shown or '-'}\n"
    )
    columns: list[tuple[str, Callable[[Run], float], str]] = [  # an empty format: the ratio to one of BASES
        ("wall s", lambda run: run.wall_s, ",.0f"),
        *([("features s", lambda run: run.features_s, ",.0f")] if name == "features" else []),
        ("trials/min", Run.rate, ".2f"),
        ("ratio", Run.rate, ""),
        ("warm", Run.warm_rate, ".2f"),
        ("ratio", Run.warm_rate, ""),
        ("CPU s/trial", lambda run: run.cpu_s / len(run.trials), ".1f"),
        ("MiB", lambda run: run.peak_mib, ",.0f"),
        ("best", lambda run: run.best, ".5f"),
        ("s to target", lambda run: run.seconds_to(target.get(run.repeat, -math.inf)), ",.0f"),
    ]
    base = [run for run in runs if run.tool in BASES and not run.error]
    rows = [["", *(title for title, _, _ in columns), ""]]
    for tool in dict.fromkeys(run.tool for run in runs):
        good = [run for run in runs if run.tool == tool and not run.error]
        num_failed = sum(run.tool == tool for run in runs) - len(good)
        cells = [_spread(value, good, form) if form else _ratio(value, good, base) for _, value, form in columns]
        rows.append([tool, *cells, f"{num_failed} of {len(good) + num_failed} failed" if num_failed else ""])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        print("  ".join([f"{first:{widths[0]}}", *cells]).rstrip())


def _spread(value: Callable[[Run], float], runs: list[Run], form: str) -> str:
    def show(number: float) -> str:
        return format(number, form) if math.isfinite(number) else "-"

    values = [value(run) for run in runs]
    if not any(map(math.isfinite, values)):
        return "-"
    return f"{show(statistics.median(values))} ({show(min(values))}-{show(max(values))})"


def _ratio(value: Callable[[Run], float], runs: list[Run], base: list[Run]) -> str:
    if not base or not runs:
        return "-"
    ratio = statistics.median(map(value, runs)) / statistics.median(map(value, base))
    return f"{ratio:.2f}" if math.isfinite(ratio) else "-"


def tools_for(workload: str, tools: list[str]) -> list[str]:
    """Return the tools that can do a workload; ours can do any."""
    is_frozen = workload == "features"
    return [tool for tool in tools if not TOOLS[tool].script or TOOLS[tool].trial.startswith("frozen") == is_frozen]


def compare(name: str, work: Workload, tools: list[str], pythons: dict[str, Path], repeats: int) -> list[Run]:
    """Let all tools take turns on one workload."""
    runs = []
    with tempfile.TemporaryDirectory(prefix="peers") as folder:
        data, work = write_data(Path(folder), name, work)
        for repeat in range(repeats):
            for tool in tools:
                runs.append(Run(name, repeat, tool))
                measure(runs[-1], pythons[TOOLS[tool].environment], data, work)
    return runs


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(__doc__)
    parser.add_argument("--workload", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--tools", nargs="+", choices=list(TOOLS), default=list(TOOLS))
    parser.add_argument("--trials", type=int, help="default: 20 (digits, features) or 6 (photos)")
    parser.add_argument("--epochs", type=int, help="default: 10 (digits), 3 (photos) or 30 (features, at most)")
    parser.add_argument("--slow-trials", type=int, default=2, help="largest number of trials of frozen_images")
    parser.add_argument("--root", type=Path, help="for features: a folder of class folders; default: generated images")
    parser.add_argument("--weights", type=Path, help="for features: MobileNetV2 without its top; default: random")
    default = Path("~/.cache/cnn_sweeps/benchmark_environments").expanduser()
    parser.add_argument("--environments", type=Path, default=default, help="where the peers' environments are kept")
    parser.add_argument("--json", type=Path, help="a file for the numbers of every run")
    return parser.parse()


def main() -> None:
    arguments = parse_arguments()
    TOOLS["frozen_images"] = replace(TOOLS["frozen_images"], max_trials=arguments.slow_trials)
    tools_of = {name: tools_for(name, arguments.tools) for name in arguments.workload}
    names = dict.fromkeys(TOOLS[tool].environment for tools in tools_of.values() for tool in tools)
    folder = arguments.environments.absolute()
    pythons = {name: prepare_environment(folder, name) if name else Path(sys.executable) for name in names}
    versions = {name or "ours": describe_versions(python) for name, python in pythons.items()}
    for name, found in versions.items():
        print(f"{name}:", ", ".join(f"{package} {version}" for package, version in found.items()), flush=True)
    runs = []
    for name in arguments.workload:
        usual = WORKLOADS[name]
        work = replace(usual, trials=arguments.trials or usual.trials, epochs=arguments.epochs or usual.epochs)
        if name == "features":
            root, weights = (path and path.absolute() for path in (arguments.root, arguments.weights))
            work = replace(work, root=root, weights=weights)
        runs += compare(name, work, tools_of[name], pythons, arguments.repeats)
        print_table(name, work, [run for run in runs if run.workload == name], arguments.repeats)
        print(f"\n{FOOTNOTES}", flush=True)
        if arguments.json:
            about = {"command": sys.argv, "machine": platform.platform(), "cores": os.cpu_count(), "versions": versions}
            arguments.json.write_text(json.dumps(about | {"runs": [asdict(run) for run in runs]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
