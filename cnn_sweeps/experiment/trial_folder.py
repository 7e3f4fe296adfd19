"""Keeps in a trial's folder what testing and retraining it later need."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from omegaconf import OmegaConf
from pydantic import TypeAdapter, ValidationError

from cnn_sweeps.data.images import load_images_once
from cnn_sweeps.errors import DataError
from cnn_sweeps.experiment.beginning import prepare_beginning
from cnn_sweeps.experiment.parts import Part, plan_parts
from cnn_sweeps.settings.config import check_values
from cnn_sweeps.settings.stored_config import Trusted, parse_stored, trusted_values
from cnn_sweeps.system.files import replace_whole
from cnn_sweeps.training.progress import TrainingProgress

if TYPE_CHECKING:
    from cnn_sweeps.experiment.trained import TrainedNetwork

WEIGHTS_FILE = "final.weights.h5"
_HISTORY_FILE = "history.json"
_CONFIG_FILE = "config.yaml"
_PIXELS: Literal["0 to 255"] = "0 to 255"  # the network's input; networks of earlier versions take 0 to 1
_HISTORY = TypeAdapter(tuple[list[dict[str, float]], int, float | None, Literal["0 to 255"], tuple[int | None, int]])


def keep(folder: Path, trained: TrainedNetwork, threshold: float | None) -> None:
    """Keep configuration, history, weights and decision threshold (of two classes) in a trial's folder."""
    progress = trained.progress
    OmegaConf.save(OmegaConf.create(trained.part.config.resolved), folder / _CONFIG_FILE)
    fine_tuned = progress.fine_tuned_after, progress.best_epoch_before
    about = [progress.history, progress.best_epoch, threshold, _PIXELS, fine_tuned]
    (folder / _HISTORY_FILE).write_text(json.dumps(about))
    trained.network.model.save_weights(folder / WEIGHTS_FILE)


def take_over(earlier: Path, folder: Path) -> TrainingProgress | None:
    """Copy what `keep` left in an earlier attempt's folder; return its progress, or None if nothing is there."""
    if not (earlier / WEIGHTS_FILE).exists():
        return None
    for name in (_CONFIG_FILE, _HISTORY_FILE, WEIGHTS_FILE):  # weights last: they show that the folder is complete
        replace_whole(folder / name, (earlier / name).read_bytes())
    return _load_history(folder)[0]


def _load_history(folder: Path) -> tuple[TrainingProgress, float | None]:
    file = folder / _HISTORY_FILE
    try:
        history, best_epoch, threshold, _, fine_tuned = _HISTORY.validate_json(file.read_bytes())
    except ValidationError as error:
        raise DataError(
            f"{file}: makes no sense, or is of an earlier version, whose networks take pixels from 0 to 1; train the "
            "trial again"
        ) from error
    progress = TrainingProgress(history, best_epoch, fine_tuned_after=fine_tuned[0], best_epoch_before=fine_tuned[1])
    return progress, threshold


@dataclass(frozen=True)
class TrialFolder:
    """The folder of a trial."""

    path: str
    number: int  # of the trial
    data_fingerprint: str
    trusted: Trusted  # what its configuration may call


class KeptTrial(NamedTuple):
    """What `keep` left of a trial's first training, without the weights; with all images, also test images."""

    part: Part
    progress: TrainingProgress
    threshold: float | None


def load_kept(kept: TrialFolder) -> KeptTrial:
    """Read what a trial left in its folder, and load its images.

    Raises:
        ConfigError: if its configuration would call anything that the sweep's own does not.
        DataError: if the images have changed (so that test images may have been trained on), or a file makes no sense.
    """
    folder, trusted = Path(kept.path), kept.trusted
    file = folder / _CONFIG_FILE
    tree = parse_stored(file.read_text(encoding="utf-8", errors="replace"), str(file))
    tree = {**tree, **trusted.groups} if isinstance(tree, dict) else tree
    if trusted.cache_dir and isinstance(tree, dict) and isinstance(tree.get("training"), dict):
        tree["training"] = tree["training"] | {"cache_dir": trusted.cache_dir}
    config = check_values(trusted_values(tree, trusted, str(file), "the sweep's own configuration must name {}"), tree)
    config = prepare_beginning(config)
    images = load_images_once(config)
    if images.dataset.fingerprint != kept.data_fingerprint:
        raise DataError(
            f"data: the images in {images.dataset.source} have changed since trial {kept.number} was trained; "
            "restore them to test it"
        )
    progress, threshold = _load_history(folder)
    return KeptTrial(plan_parts(config, images)[0], progress, threshold)
