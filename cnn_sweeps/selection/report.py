"""The table of a study's trials."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pandas as pd

from cnn_sweeps.experiment.notes import PER_IMAGE
from cnn_sweeps.selection.standing import Standing
from cnn_sweeps.text.names import for_csv


def write_table(study: optuna.Study, standing: Standing, folder: Path) -> None:
    """Write `trials.csv`, with all trials by number, into an existing folder.

    Completed trials have their `rank` by value, from 1, and as far as known whether they are `tied_with_best`, and the
    `mean_of_other_seeds` that they were confirmed with.
    """
    table = study.trials_dataframe().drop(columns=f"user_attrs_{PER_IMAGE}", errors="ignore")
    if len(study.directions) == 1 and study.metric_names is not None:
        table = table.rename(columns={f"value_{study.metric_names[0]}": "value"})
    numbers = [trial.number for trial in standing.by_value]
    marks = [("rank", pd.Series(range(1, len(numbers) + 1), index=numbers, dtype="Int64"))]
    if standing.uncertainty is not None:
        marks.append(("tied_with_best", pd.Series(standing.uncertainty.is_tied, index=numbers, dtype="boolean")))
    if standing.again:
        marks.append(("mean_of_other_seeds", pd.Series({key: np.mean(each) for key, each in standing.again.items()})))
    for place, (name, values) in enumerate(marks, 1):
        table.insert(place, name, table["number"].map(values))
    table = table.rename(columns=for_csv)
    table.map(lambda cell: for_csv(cell) if isinstance(cell, str) else cell).to_csv(folder / "trials.csv", index=False)
