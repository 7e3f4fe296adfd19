"""What a run and a sweep note in the study, beside what Optuna keeps there; anybody may have written to it."""

import re
from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial

from cnn_sweeps.sweep.study.address import trial_subfolder

# What is kept with the study and its trials.
STUDY_RUN_ID, RECORD, FOLDER, VALUES = "mlflow.run_id", "record", "folder", "objective_of_trainings"
PER_IMAGE = "val_images"  # what a trial makes of each validation image, as `evaluation/per_image` reads it
_PLAIN_ID = re.compile(r"[\w-]{1,64}", re.ASCII)  # safe in a path and in a query
DATA, DATA_SET, DATA_TOLD = "data.fingerprint", "data.set", "data.told"
PROGRAM, STORE = "program", "tracking.uri"
CONFIRMS = "confirms.study"  # of a study whose trials are run again here, to see what another seed gives
ABOUT_RUN = "sweep.run"  # what the sweep's own run is to say beside what the trials come to
RANKING = "ranking"  # the best, the champion, what other seeds gave; numbers of trials and images, tied ones, the luck
# What was done at the sweep's end, noted once it is done: what a trial, whose number follows, measured on test images;
# the numbers of the trials that were registered and retrained last.
TESTED, REGISTERED, RETRAINED = "tested.", "registered", "retrained.trial"
REGISTERED_AS = "registered.as"  # what is said of that
VERDICTS = "ablation.verdicts"  # what an ablation comes to: in short, and each verdict with its evidence


def run_id_of(attributes: Mapping[str, Any]) -> str | None:
    """Give the sweep's run that a study notes; None if it notes none, or what cannot be a run's id."""
    return _plain_id(attributes.get(STUDY_RUN_ID))


def record_of(trial: FrozenTrial) -> str | None:
    """Give the id of the record that a trial notes; None if it notes none, or what cannot be one."""
    return _plain_id(trial.user_attrs.get(RECORD))


def _plain_id(noted: Any) -> str | None:
    return noted if isinstance(noted, str) and _PLAIN_ID.fullmatch(noted) else None


def values_of(trial: FrozenTrial) -> list[float]:
    """Give the objective of each of a trial's trainings, as far as it notes them."""
    values: Any = trial.user_attrs.get(VALUES)
    are_numbers = isinstance(values, list) and all(isinstance(value, (int, float)) for value in values)
    return values if are_numbers else []


def senseless_notes(trial: FrozenTrial) -> list[str]:
    """Name the attributes of a trial that make no sense, of those that a run notes."""
    known = {
        RECORD: record_of(trial),
        FOLDER: subfolder_of(trial) == trial.user_attrs.get(FOLDER),
        VALUES: values_of(trial),
    }
    return [name for name, value in known.items() if not value and trial.user_attrs.get(name)]


def subfolder_of(trial: FrozenTrial) -> str:
    """Give the folder of a trial's files, relative to the sweep's; always below that."""
    return trial_subfolder(trial.number, trial.user_attrs.get(FOLDER))
