"""One configuration trained several times, with other seeds or on other folds, and the mean of the results."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cnn_sweeps.data.images import Images
from cnn_sweeps.data.split import split_into_folds
from cnn_sweeps.settings.schema import RunConfig

RESULTS = "results"
"""The folder for settings, texts and pictures, below the folder of a record."""
_LOSES_BELOW_P = 0.05
SHOWN_OF_PARTS = {
    "final_val_log_loss": "validation log loss",
    "final_val_accuracy": "validation accuracy",
    "test_log_loss": "test log loss",
    "test_accuracy": "test accuracy",
}


@dataclass(frozen=True, eq=False)
class Part:
    """One of a run's trainings; a run with a single training has one part."""

    config: RunConfig  # with the training's own seed
    images: Images  # with the training's own validation images
    name: str = ""  # such as "seed 0 fold 1 of 5"; empty if there is only one training
    is_first: bool = True

    @property
    def network_name(self) -> str:
        """The short name of the network, such as `cnn`."""
        return str(self.config.model["_target_"]).rpartition(".")[2].removeprefix("build_")


def plan_parts(config: RunConfig, images: Images) -> list[Part]:
    """Return all trainings of a run: `config.repeats` seeds from `config.seed` on, each on `config.folds` folds.

    Raises:
        DataError: if a class has fewer different images than there are folds.
    """
    if config.repeats == config.folds == 1:
        return [Part(config, images)]
    dataset, split, folds = images.dataset, images.split, [images.split]
    if config.folds > 1:
        folds = split_into_folds(dataset, split, config.folds, config.split.seed)
    parts: list[Part] = []
    for seed in range(config.seed, config.seed + config.repeats):
        of_seed = replace(config, seed=seed, resolved=config.resolved | {"seed": seed})
        for number, fold in enumerate(folds, 1):
            name = f"seed {seed} fold {number} of {config.folds}" if config.folds > 1 else f"seed {seed}"
            parts.append(Part(of_seed, replace(images, split=fold), name, is_first=not parts))
    return parts


def folder_of_part(name: str, whole: Path) -> Path:
    """Return the folder of a part's record, below the folder of the whole run."""
    return whole / name.replace(" ", "_")


def average_metrics(finals: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each metric and, if there are several trainings, its standard error under NAME_se.

    Each training is measured at its own decision threshold. The mean of thresholds would belong to no training, so it
    is left out. The standard error assumes independent trainings; folds are not quite, since they share images.
    """
    if len(finals) == 1:
        return dict(finals[0])
    averaged: dict[str, float] = {}
    for name in finals[0]:
        values = np.array([final[name] for final in finals])
        averaged |= {name: float(values.mean()), f"{name}_se": float(values.std(ddof=1) / np.sqrt(len(values)))}
    return {name: value for name, value in averaged.items() if not name.startswith("decision_threshold")}


def describe_mean(averaged: dict[str, float], num_trainings: int) -> str:
    """Describe the result of `average_metrics` for several trainings in one line."""
    means = [
        f"{name} {averaged[metric]:.4f} ± {averaged[f'{metric}_se']:.4f}"
        for metric, name in SHOWN_OF_PARTS.items()
        if metric in averaged
    ]
    return f"mean of {num_trainings} trainings ± its standard error: {', '.join(means)}"


def clearly_loses(values: Sequence[float], best_values: Sequence[float], *, minimize: bool) -> bool:
    """Return whether trainings are worse than those of the best configuration, with the same seeds and folds.

    This is a one-sided paired t-test at the 5 % level; it needs two trainings. It is repeated after each training
    without a correction, and folds share images. So more than 5 % of equally good configurations are rejected.
    """
    num_pairs = min(len(values), len(best_values))
    if num_pairs < 2:
        return False
    differences = np.array(values[:num_pairs]) - np.array(best_values[:num_pairs])
    worse = differences if minimize else -differences
    if np.ptp(worse) == 0:
        return bool(worse[0] > 0)
    from scipy.special import stdtr  # importing it at the top would delay each run's first line by 0.25 s

    # scipy.stats has this test, but takes a sweep's controller 0.3 s to import
    t = worse.mean() / (worse.std(ddof=1) / np.sqrt(num_pairs))
    return bool(stdtr(num_pairs - 1, -t) < _LOSES_BELOW_P)


def final_metric(objective: str) -> str:
    """Return the name of the final metric for an objective."""
    return objective if objective == "num_parameters" else f"final_{objective}"


def objective_values(final: dict[str, float], config: RunConfig) -> list[float]:
    """Return the values of the objectives among a run's final metrics."""
    return [final[final_metric(name)] for name in config.objective]
