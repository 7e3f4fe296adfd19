"""The settings of `hydra/sweeper=optuna`, its samplers and pruners, and of `hydra/launcher=workers` and `dask`.

Keys and meanings are those of hydra-optuna-sweeper where it has them. Null takes Optuna's default.
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

    # what to try: override strings by key, e.g. {"model.l2": "tag(log,interval(1e-6,1e-2))"}; what the command line
    # names goes before
    params: Optional[dict[str, Any]] = None  # noqa: UP045 - OmegaConf reads these types
    # dotted path of a function of the configuration and an Optuna trial that suggests further, conditional parameters
    custom_search_space: Optional[str] = None  # noqa: UP045
    # config group whose options set `params`; one that the command line or an experiment chooses is searched beside the
    # keys that the command line names, which replace its own
    preset_group: Optional[str] = None  # noqa: UP045
    # its option that is there if nobody chooses one, and gives way to the keys that the command line names
    default_preset: Optional[str] = None  # noqa: UP045
    # points to try first, e.g. [{model.l2: 1e-4}]; what a point leaves out is sampled
    enqueue: list[Any] = field(default_factory=list)

    # minimize or maximize; a list for several objectives
    direction: Any = "minimize"
    sampler: Any = MISSING
    pruner: Any = MISSING
    # of the whole study, over all its controllers and continuations; null: 20, or every point of a grid
    n_trials: Optional[int] = None  # noqa: UP045
    # trials at once; auto: as many as cores, memory and GPUs are good for; null: auto with hydra/launcher=workers,
    # 1 with others
    n_jobs: Any = None

    # null: a new one; the same name and storage continue a study
    study_name: Optional[str] = None  # noqa: UP045
    # a journal file, sqlite:///FILE, postgresql+psycopg://..., grpc://HOST:PORT; null: studies/STUDY_NAME.journal
    storage: Any = None
    # refuse or continue a study whose search space or settings have changed
    on_change: str = "refuse"
    # equal overrides give equal results, so that exact duplicates of finished trials are not run again
    deterministic: bool = True

    # share of n_trials that may fail, 0 to 1, before the sweep stops
    max_failure_rate: float = 1.0
    # failures in a row at the same place of the code before the sweep stops
    max_identical_failures: int = 3
    # how often a trial is tried again whose worker died or ran out of memory
    max_retries: int = 2
    # seconds for one trial, and for starting trials at all; null: no limit
    trial_timeout_s: Optional[float] = None  # noqa: UP045
    timeout_s: Optional[float] = None  # noqa: UP045

    # a cnn_sweeps.sweep.application.SweepApplication: checks, a record, what is done with the best trials
    application: Any = None


@dataclass
class WorkersLauncherConf:
    """`hydra.launcher`."""

    _target_: str = "hydra_plugins.cnn_sweeps.launchers.WorkersLauncher"
    # jobs at once under sweepers other than `optuna`, which has its own n_jobs; auto: see there
    n_jobs: Any = 1
    # numbers of the GPUs to use, among those that CUDA_VISIBLE_DEVICES allows, e.g. [0,1]; null: all; []: none
    gpus: Any = None
    # workers that share a GPU, at the most
    jobs_per_gpu: int = 1
    # GPUs that each worker has to itself, for training.strategy=mirrored
    gpus_per_job: int = 1
    # megabytes of its own beyond which a worker is replaced after its job; null: its share of 80 % of the memory
    max_worker_mb: Optional[int] = None  # noqa: UP045


@dataclass
class DaskLauncherConf:
    """`hydra.launcher`."""

    _target_: str = "hydra_plugins.cnn_sweeps.launchers.DaskLauncher"
    # of the cluster's scheduler, tcp://HOST:PORT or tls://HOST:PORT; null: a cluster on this machine, for this sweep
    address: Optional[str] = None  # noqa: UP045
    # jobs at once under sweepers other than `optuna`, which has its own n_jobs; auto: as many as there are workers
    n_jobs: Any = 1
    # what a worker must have, as told it with `dask worker --resources GPU=1`, and a job takes: {GPU: 1}; null: nothing
    resources: Any = None
    # names, hosts or addresses of the workers to use, * stands for anything: [gpu-*]; null: all
    workers: Any = None
    # seconds that a first worker, or another one when all are gone, is waited for
    wait_s: float = 60.0
    # megabytes beyond which a worker's process is replaced after its job; null: 80 % of the Dask worker's memory limit
    max_worker_mb: Optional[int] = None  # noqa: UP045
    # variables of the environment that jobs get from here, with the values that they have here
    environment: list[str] = field(default_factory=lambda: ["MLFLOW_TRACKING_URI"])


def register() -> None:
    """Make the options known to Hydra, unless they are: a worker process gets those of its controller."""
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
