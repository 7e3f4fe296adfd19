"""Hold two recorded runs against each other: `python -m cnn_sweeps.compare RUN RUN`."""

from __future__ import annotations

from collections.abc import Sequence

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.settings.arguments import SEE_HELP, CommandLine, run_command
from cnn_sweeps.system.libraries import prepare_libraries, slow_imports
from cnn_sweeps.tracking.database.address import find_existing_store

_HELP = """\
Show what differs between two runs or trials that MLflow has recorded: settings, data, metrics; and tell whether one is
better than the other by more than chance, where both were measured on the same images.

Examples:
  python -m cnn_sweeps.compare RUN_ID RUN_ID
  python -m cnn_sweeps.compare RUN_ID RUN_ID tracking.uri=http://127.0.0.1:5000

The images are those of the test, or the validation images if one of the two was not tested. Each image counts as a
pair, and the intervals are those of 1,000 bootstrap resamples of the images: so they tell what other images would
change, not what another seed would.

Settings:
  tracking.uri=URI  where the runs are recorded; without it MLFLOW_TRACKING_URI, or mlflow.db in the working folder
"""


def compare(arguments: Sequence[str]) -> None:
    """Do what the command line says.

    Raises:
        UserError: if something in it cannot be used, or a run cannot be compared.
    """
    _, run_ids, settings = CommandLine(_HELP, required=[], optional=["tracking.uri"]).read(arguments)
    if len(run_ids) != 2:
        raise ConfigError(f"{' '.join(run_ids) or 'no run'}: give the ids of two runs; {SEE_HELP}")
    if run_ids[0] == run_ids[1]:
        raise ConfigError(f"{run_ids[0]}: is given twice; give the ids of two runs")
    store = find_existing_store(settings.get("tracking.uri"))
    prepare_libraries()
    with slow_imports():
        from cnn_sweeps.use.comparison import compare_runs
    for line in compare_runs(store, run_ids):
        print(line)


def main() -> None:
    """Run `compare` on this process's arguments."""
    run_command(compare)


if __name__ == "__main__":
    main()
