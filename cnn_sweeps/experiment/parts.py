"""One configuration trained several times: with other seeds, on other folds; what their mean is worth."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cnn_sweeps.data.images import Images
from cnn_sweeps.data.split import split_into_folds
from cnn_sweeps.settings.schema import RunConfig

RESULTS = "results"
"""The folder, below that of the record of a part or of the whole, of settings, texts and pictures."""
_LOSES_BELOW_P = 0.05
SHOWN_OF_PARTS = {
    "final_val_log_loss": "validation log loss",
    "final_val_accuracy": "validation accuracy",
    "test_log_loss": "test log loss",
    "test_accuracy": "test accuracy",
}


@dataclass(frozen=True, eq=False)
class Part:
    """One of a run's trainings; of a run with a single one, all of it."""

    config: RunConfig  # with the training's own seed
    images: Images  # with the training's own validation images
    name: str = ""  # what tells it from the others; empty if there are none
    is_first: bool = True

    @property
    def network_name(self) -> str:
        """What the network is called in short, such as `cnn`."""
        return str(self.config.model["_target_"]).rpartition(".")[2].removeprefix("build_")


def plan_parts(config: RunConfig, images: Images) -> list[Part]:
    """Give every training: `config.repeats` seeds from `config.seed` on, each on `config.folds` folds.

    Raises:
        DataError: if a class has fewer different images than folds.
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
    """Give the folder of the record of a part, below that of the whole."""
    return whole / name.replace(" ", "_")


def average_metrics(finals: Sequence[dict[str, float]]) -> dict[str, float]:
    """Give the mean of each metric and, of several trainings, its standard error under the name with `_se`.

    Each training is measured at its own decision threshold; of several none is given, since their mean is nobody's. The
    error takes the trainings as independent, which folds, sharing training images, are not quite.
    """
    if len(finals) == 1:
        return dict(finals[0])
    averaged: dict[str, float] = {}
    for name in finals[0]:
        values = np.array([final[name] for final in finals])
        averaged |= {name: float(values.mean()), f"{name}_se": float(values.std(ddof=1) / np.sqrt(len(values)))}
    return {name: value for name, value in averaged.items() if not name.startswith("decision_threshold")}


def describe_mean(averaged: dict[str, float], num_trainings: int) -> str:
    """Say what `average_metrics` gave for several trainings."""
    told = [
        f"{name} {averaged[metric]:.4f} ± {averaged[f'{metric}_se']:.4f}"
        for metric, name in SHOWN_OF_PARTS.items()
        if metric in averaged
    ]
    return f"mean of {num_trainings} trainings ± its standard error: {', '.join(told)}"


def clearly_loses(values: Sequence[float], best_values: Sequence[float], *, minimize: bool) -> bool:
    """Tell whether trainings are worse than the best configuration's of the same seeds and folds, beyond chance.

    A one-sided paired t-test at the 5 % level; never after a single training. It is asked after each training without a
    correction for that, and folds share images: of equal configurations more than 5 % are taken to lose.
    """
    num_pairs = min(len(values), len(best_values))
    if num_pairs < 2:
        return False
    differences = np.array(values[:num_pairs]) - np.array(best_values[:num_pairs])
    worse = differences if minimize else -differences
    if np.ptp(worse) == 0:
        return bool(worse[0] > 0)
    from scipy.special import stdtr  # 0.25 s, before a run's first line

    # scipy.stats would test it, too, but takes a sweep's controller 0.3 s to import
    t = worse.mean() / (worse.std(ddof=1) / np.sqrt(num_pairs))
    return bool(stdtr(num_pairs - 1, -t) < _LOSES_BELOW_P)


def final_metric(objective: str) -> str:
    """Name the metric of a run's final weights that an objective is."""
    return objective if objective == "num_parameters" else f"final_{objective}"


def objective_values(final: dict[str, float], config: RunConfig) -> list[float]:
    """Give the objectives among a run's final metrics."""
    return [final[final_metric(name)] for name in config.objective]
