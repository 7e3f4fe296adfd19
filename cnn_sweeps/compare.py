"""Compare two recorded runs: `python -m cnn_sweeps.compare RUN RUN`."""

from __future__ import annotations

from collections.abc import Sequence

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.settings.arguments import SEE_HELP, CommandLine, run_command
from cnn_sweeps.system.libraries import slow_imports
from cnn_sweeps.tracking.database.address import find_existing_store

_HELP = """\
Show how two runs or trials in MLflow differ in settings, data and metrics. If both were measured on the same images,
also show whether one is better than the other by more than chance.

Examples:
  python -m cnn_sweeps.compare RUN_ID OTHER_RUN_ID
  python -m cnn_sweeps.compare RUN_ID OTHER_RUN_ID tracking.uri=http://127.0.0.1:5000

RUN_ID is the id that MLflow's page of a run or trial shows. A run's last line has it, too, after /runs/.

It compares both image by image: on the test images or, if one of them was not tested, on the validation images. The
intervals come from 1,000 bootstrap resamples of the images. They show what other images would change, not what another
seed would change.

Settings:
  tracking.uri=URI  where the runs are recorded; default: MLFLOW_TRACKING_URI, or mlflow.db in the working folder
"""


def compare(arguments: Sequence[str]) -> None:
    """Compare the runs that the command line names, and print the result.

    Raises:
        UserError: if an argument is wrong, or a run cannot be compared.
    """
    _, run_ids, settings = CommandLine(_HELP, required=[], optional=["tracking.uri"]).read(arguments)
    if len(run_ids) != 2:
        raise ConfigError(f"{' '.join(run_ids) or 'no run'}: give the ids of two runs; {SEE_HELP}")
    if run_ids[0] == run_ids[1]:
        raise ConfigError(f"{run_ids[0]}: is given twice; give the ids of two runs")
    store = find_existing_store(settings.get("tracking.uri"))
    with slow_imports():
        from cnn_sweeps.use.comparison import compare_runs
    for line in compare_runs(store, run_ids):
        print(line)


def main() -> None:
    """Run `compare` on this process's arguments."""
    run_command(compare)


if __name__ == "__main__":
    main()
