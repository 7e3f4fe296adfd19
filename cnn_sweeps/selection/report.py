"""The table of a study's trials."""

from __future__ import annotations

from pathlib import Path

import optuna

from cnn_sweeps.text.names import for_csv


def write_table(study: optuna.Study, folder: Path) -> None:
    """Write `trials.csv` into a folder that exists; the study has at least one completed trial."""
    table = study.trials_dataframe().rename(columns=for_csv)
    table.map(lambda cell: for_csv(cell) if isinstance(cell, str) else cell).to_csv(folder / "trials.csv", index=False)
