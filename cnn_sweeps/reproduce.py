"""Repeat a recorded run, and compare the results: `python -m cnn_sweeps.reproduce RUN_ID [tracking.uri=URI]`."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence

from omegaconf import DictConfig

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.settings.arguments import SEE_HELP, CommandLine
from cnn_sweeps.system.libraries import slow_imports
from cnn_sweeps.tracking.database.address import find_existing_store

DEFAULT_TOLERANCE = 1e-3
"""The largest relative difference that counts as agreement. It allows for rounding before training amplifies it.

Training amplifies rounding a lot. With one thread instead of two, 30 epochs of digits differ by 8 % after the first
epoch and by up to a third later. They end with a validation log loss of 0.0080 instead of 0.0094, as if another seed
had been used.
"""
_HELP = f"""\
Repeat a recorded run or trial, with its settings and images, and compare the results.

Examples:
  python -m cnn_sweeps.reproduce RUN_ID
  python -m cnn_sweeps.reproduce RUN_ID tracking.uri=http://127.0.0.1:5000 data.root=PATH

RUN_ID is the id that MLflow's page of a run or trial shows. A run's last line has it, too, after /runs/.

The command shows what code, packages and machine differ, and trains a new run in the same experiment. Then it shows the
validation log loss of every epoch and the final metrics, recorded and now. Exit codes: 0 if all agree bit for bit or
within the tolerance, 2 if not, 1 if the run cannot be repeated.

Settings that say where things are now:
  tracking.uri=URI              where the run is recorded; default: MLFLOW_TRACKING_URI, or mlflow.db in this folder
  data.root=PATH                the folder of the same images
  data.cache_dir=PATH           for decoded images; default: ~/.cache/cnn_sweeps, whatever the recorded run used
  training.checkpoint_dir=PATH  for finished epochs
  hydra.run.dir=PATH            for log and pictures
The recorded settings may call this project's functions and Keras's optimizers, and read no environment variable. Allow
more only if you trust it:
  allow_target=PACKAGE.MODULE.FUNCTION  another function, or a module, that the settings may call; may be repeated

Flags:
  --tolerance NUMBER   the largest relative difference that counts as agreement; default: {DEFAULT_TOLERANCE:g}
"""
_SETTINGS = ("tracking.uri", "data.root", "data.cache_dir", "training.checkpoint_dir", "hydra.run.dir")
_ALLOW = "allow_target"
_DOES_NOT_AGREE = 2


def _read_arguments(arguments: Sequence[str]) -> tuple[str, float, list[str], list[str]]:
    """Return the run's id, the tolerance, the functions that it may call, and the settings as Hydra takes them.

    Raises:
        ConfigError: if one of them is missing or wrong.
    """
    command_line = CommandLine(_HELP, required=[], optional=_SETTINGS, repeatable=[_ALLOW])
    command_line.add_argument("--tolerance", type=float, default=DEFAULT_TOLERANCE)
    flags, run_ids, settings = command_line.read(arguments)
    if len(run_ids) != 1:
        raise ConfigError(f"{' '.join(run_ids) or 'no run'}: give the id of one run; {SEE_HELP}")
    if not flags.tolerance >= 0:
        raise ConfigError(f"--tolerance {flags.tolerance}: should be a number of at least 0")
    allowed = [name for name in settings.pop(_ALLOW, "").split(",") if name]
    if not all(part.isidentifier() for name in allowed for part in name.split(".")):
        raise ConfigError(f"{_ALLOW}={','.join(allowed)}: should be PACKAGE.MODULE.FUNCTION or PACKAGE.MODULE")
    return run_ids[0], flags.tolerance, allowed, [f"++{key}={value}" for key, value in settings.items()]


def main() -> None:
    """Reproduce the run that the command line names."""
    gc.disable()  # as in `train`
    try:
        run_id, tolerance, allowed, sys.argv[1:] = _read_arguments(sys.argv[1:])
    except ConfigError as error:
        sys.exit(f"error: {error}")
    from cnn_sweeps.settings.command_line import run_application

    def reproduce(composed: DictConfig) -> None:
        """Train from a run's record; exit with _DOES_NOT_AGREE if the results differ."""
        store = find_existing_store(composed.tracking.uri)  # before MLflow is imported
        with slow_imports():
            from cnn_sweeps.experiment.reproduction import prepare_reproduction
        reproduction = prepare_reproduction(run_id, store, composed, allowed)
        from cnn_sweeps.experiment.experiment import run_experiment

        run_experiment(reproduction.config, reproduction)
        if not reproduction.compare(tolerance):
            sys.exit(_DOES_NOT_AGREE)

    run_application(reproduce)


if __name__ == "__main__":
    main()
