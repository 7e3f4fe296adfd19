"""Attributes that runs and sweeps note in the study. Anybody may have written to it, so what is read is checked."""

import re
from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial

from cnn_sweeps.sweep.study.address import trial_subfolder

# Names of the attributes of the study and its trials.
STUDY_RUN_ID, RECORD, FOLDER, VALUES = "mlflow.run_id", "record", "folder", "objective_of_trainings"
PER_IMAGE = "val_images"  # a trial's results for each validation image; see `evaluation/per_image`
_PLAIN_ID = re.compile(r"[\w-]{1,64}", re.ASCII)  # safe in a path and in a query
DATA, DATA_SET, DATA_TOLD = "data.fingerprint", "data.set", "data.told"
PROGRAM, STORE = "program", "tracking.uri"
CONFIRMS = "confirms.study"  # in a study of repeated trials: the study whose trials are repeated with other seeds
ABOUT_RUN = "sweep.run"  # facts for the sweep's own run
RANKING = "ranking"  # the best and the chosen trial, values with other seeds, numbers of trials and images, ties, luck
# Noted when it is done, at the sweep's end: test metrics of a trial (its number follows); the number of the trial that
# was registered last; and of the one that was retrained last.
TESTED, REGISTERED, RETRAINED = "tested.", "registered", "retrained.trial"
REGISTERED_AS = "registered.as"  # the sentence about the registration
REGISTERED_MODEL = "registered.model"  # its address in MLflow
VERDICTS = "ablation.verdicts"  # of an ablation: all verdicts in short, then each one with its evidence


def run_id_of(attributes: Mapping[str, Any]) -> str | None:
    """Return the id of the sweep's run from a study's attributes; None if there is none that can be an id."""
    return _plain_id(attributes.get(STUDY_RUN_ID))


def record_of(trial: FrozenTrial) -> str | None:
    """Return the id of a trial's record; None if the trial notes none that can be an id."""
    return _plain_id(trial.user_attrs.get(RECORD))


def _plain_id(noted: Any) -> str | None:
    return noted if isinstance(noted, str) and _PLAIN_ID.fullmatch(noted) else None


def values_of(trial: FrozenTrial) -> list[float]:
    """Return the objective of each training that a trial has noted; empty if none, or the note makes no sense."""
    values: Any = trial.user_attrs.get(VALUES)
    are_numbers = isinstance(values, list) and all(isinstance(value, (int, float)) for value in values)
    return values if are_numbers else []


def senseless_notes(trial: FrozenTrial) -> list[str]:
    """Return the names of those attributes of a trial that a run writes and that make no sense."""
    known = {
        RECORD: record_of(trial),
        FOLDER: subfolder_of(trial) == trial.user_attrs.get(FOLDER),
        VALUES: values_of(trial),
    }
    return [name for name, value in known.items() if not value and trial.user_attrs.get(name)]


def subfolder_of(trial: FrozenTrial) -> str:
    """Return the folder of a trial's files, relative to the sweep's folder and always below it."""
    return trial_subfolder(trial.number, trial.user_attrs.get(FOLDER))
