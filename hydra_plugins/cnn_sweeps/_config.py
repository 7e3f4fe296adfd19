"""The settings of `hydra/sweeper=optuna`, its samplers and pruners, and of `hydra/launcher=workers` and `dask`.

Settings that hydra-optuna-sweeper has, too, have the same keys and meanings here. Null takes Optuna's default.
"""

from dataclasses import dataclass, field
from typing import Any, Optional

from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from omegaconf import MISSING


def _unset(*names: str) -> dict[str, Any]:
    return dict.fromkeys(names)


_WARNS = {"independent_sampler": None, "warn_independent_sampling": True}
_GENETIC = {"seed": 0, "population_size": 50, "crossover_prob": 0.9, "swapping_prob": 0.5} | _unset(
    "mutation_prob", "constraints_func"
)
_PERCENTILE = {"n_startup_trials": 5, "n_warmup_steps": 0, "interval_steps": 1, "n_min_trials": 1}

# Optuna's samplers and pruners, with their arguments.
_SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "tpe": (
        "TPESampler",
        {"seed": 0, "n_startup_trials": 10, "n_ei_candidates": 24, "group": False, "constant_liar": True}
        | _unset("multivariate", "consider_prior", "prior_weight", "consider_magic_clip", "consider_endpoints")
        | _unset("warn_independent_sampling"),
    ),
    "random": ("RandomSampler", {"seed": 0}),
    "grid": ("GridSampler", {}),  # all points in order; needs listed values
    "brute_force": ("BruteForceSampler", {"seed": 0}),  # all points, conditional ones too; needs listed values
    "cmaes": (
        "CmaEsSampler",
        {"seed": 0, "n_startup_trials": 1, "consider_pruned_trials": False, "use_separable_cma": False}
        | {"with_margin": False, "lr_adapt": False}
        | _unset("x0", "sigma0", "source_trials")
        | _WARNS,
    ),
    "gp": (  # needs PyTorch: pip install torch
        "GPSampler",
        {"seed": 0, "n_startup_trials": 10, "deterministic_objective": False, "constraints_func": None} | _WARNS,
    ),
    "qmc": (
        "QMCSampler",
        {"seed": 0, "qmc_type": "sobol", "scramble": False, "warn_asynchronous_seeding": False} | _WARNS,
    ),
    "nsgaii": ("NSGAIISampler", _GENETIC),
    "nsgaiii": ("NSGAIIISampler", _GENETIC | {"dividing_parameter": 3}),
    "partial_fixed": (
        "PartialFixedSampler",
        {"fixed_params": {}, "base_sampler": {"_target_": "optuna.samplers.TPESampler", "seed": 0}},
    ),
}
_PRUNERS: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("NopPruner", {}),
    "median": ("MedianPruner", _PERCENTILE),
    "percentile": ("PercentilePruner", {"percentile": 25.0} | _PERCENTILE),
    "successive_halving": (
        "SuccessiveHalvingPruner",
        {"min_resource": "auto", "reduction_factor": 4, "min_early_stopping_rate": 0, "bootstrap_count": 0},
    ),
    "hyperband": (
        "HyperbandPruner",
        {"min_resource": 1, "max_resource": "auto", "reduction_factor": 3, "bootstrap_count": 0},
    ),
    "threshold": ("ThresholdPruner", {"lower": None, "upper": None, "n_warmup_steps": 0, "interval_steps": 1}),
    "patient": (
        "PatientPruner",
        {"wrapped_pruner": {"_target_": "optuna.pruners.MedianPruner"}, "patience": 3, "min_delta": 0.0},
    ),
    "wilcoxon": ("WilcoxonPruner", {"p_threshold": 0.1, "n_startup_steps": 2}),
}


@dataclass
class OptunaSweeperConf:
    """`hydra.sweeper`."""

    _target_: str = "hydra_plugins.cnn_sweeps.optuna_sweeper.OptunaSweeper"
    _recursive_: bool = False
    defaults: list[Any] = field(default_factory=lambda: [{"sampler": "tpe"}, {"pruner": "none"}])

    # search space: override strings by key, e.g. {"model.l2": "tag(log,interval(1e-6,1e-2))"}; if the command line
    # names keys to search, those take its place
    params: Optional[dict[str, Any]] = None  # noqa: UP045 - OmegaConf reads these types
    # dotted path of a function(config, trial) that suggests further, conditional parameters of an Optuna trial
    custom_search_space: Optional[str] = None  # noqa: UP045
    # config group whose options set `params`; a sweep searches the chosen option, and the keys of the command line,
    # which replace those of the option
    preset_group: Optional[str] = None  # noqa: UP045
    # option of that group if nobody chooses one; not searched if the command line names keys to search
    default_preset: Optional[str] = None  # noqa: UP045
    # points to try first, e.g. [{model.l2: 1e-4}]; the sampler chooses what a point leaves out
    enqueue: list[Any] = field(default_factory=list)

    # minimize or maximize; a list for several objectives
    direction: Any = "minimize"
    sampler: Any = MISSING
    pruner: Any = MISSING
    # trials of the whole study, over all its controllers and continuations; null: 20, or every point of a grid
    n_trials: Optional[int] = None  # noqa: UP045
    # trials at once; auto: as many as cores, memory and GPUs allow; null: auto with hydra/launcher=workers, 1 with
    # others
    n_jobs: Any = None

    # name of a study to continue or to begin; null: a new study
    study_name: Optional[str] = None  # noqa: UP045
    # a journal file, sqlite:///FILE, postgresql+psycopg://..., grpc://HOST:PORT; null: studies/STUDY_NAME.journal
    storage: Any = None
    # if the search space or settings of a study have changed: refuse or continue
    on_change: str = "refuse"
    # true: equal overrides give equal results, so a trial that repeats a finished one is not run
    deterministic: bool = True

    # share of n_trials that may fail, 0 to 1; if more fail, the sweep stops
    max_failure_rate: float = 1.0
    # failures in a row at the same place of the code after which the sweep stops
    max_identical_failures: int = 3
    # how often to repeat a trial whose worker died or ran out of memory
    max_retries: int = 2
    # seconds that one trial may take; null: no limit
    trial_timeout_s: Optional[float] = None  # noqa: UP045
    # seconds after which no trial is started any more; null: no limit
    timeout_s: Optional[float] = None  # noqa: UP045

    # what the application adds, a cnn_sweeps.sweep.application.SweepApplication; null: nothing
    application: Any = None


@dataclass
class WorkersLauncherConf:
    """`hydra.launcher`."""

    _target_: str = "hydra_plugins.cnn_sweeps.launchers.WorkersLauncher"
    # jobs at once with sweepers other than `optuna`, which has its own n_jobs; auto: as there
    n_jobs: Any = 1
    # numbers of the GPUs to use, among those that CUDA_VISIBLE_DEVICES allows, e.g. [0,1]; null: all; []: none
    gpus: Any = None
    # at most this many workers share a GPU
    jobs_per_gpu: int = 1
    # GPUs for each worker alone, for training.strategy=mirrored
    gpus_per_job: int = 1
    # a worker that uses more megabytes of its own is replaced after its job; null: its share of 80 % of the memory
    max_worker_mb: Optional[int] = None  # noqa: UP045


@dataclass
class DaskLauncherConf:
    """`hydra.launcher`."""

    _target_: str = "hydra_plugins.cnn_sweeps.launchers.DaskLauncher"
    # address of the scheduler, tcp://HOST:PORT or tls://HOST:PORT; null: start a cluster on this machine for this sweep
    address: Optional[str] = None  # noqa: UP045
    # jobs at once with sweepers other than `optuna`, which has its own n_jobs; auto: as many as there are workers
    n_jobs: Any = 1
    # resources that a job takes, e.g. {GPU: 1}, from workers started with `dask worker --resources GPU=1`; null: none
    resources: Any = None
    # names, hosts or addresses of the workers to use, * stands for anything: [gpu-*]; null: all
    workers: Any = None
    # seconds to wait for a first worker, or for another one when all are gone
    wait_s: float = 60.0
    # a worker process that uses more megabytes is replaced after its job; null: 80 % of the Dask worker's memory limit
    max_worker_mb: Optional[int] = None  # noqa: UP045
    # environment variables that jobs get from this machine, with their values here
    environment: list[str] = field(default_factory=lambda: ["MLFLOW_TRACKING_URI"])


def register() -> None:
    """Register the options with Hydra, unless they are: a worker process gets those of its controller."""
    _store("hydra/sweeper", "optuna", OptunaSweeperConf)
    _store("hydra/launcher", "workers", WorkersLauncherConf)
    _store("hydra/launcher", "dask", DaskLauncherConf)
    for module, options in (("samplers", _SAMPLERS), ("pruners", _PRUNERS)):
        for option, (name, arguments) in options.items():
            node = {"_target_": f"optuna.{module}.{name}", **arguments}
            _store(f"hydra/sweeper/{module[:-1]}", option, node)


def _store(group: str, name: str, node: Any) -> None:
    store = ConfigStore.instance()
    if store.get_type(f"{group}/{name}.yaml") == ObjectType.NOT_FOUND:
        store.store(group=group, name=name, node=node, provider="cnn_sweeps")
