"""Find and mend what killed processes left behind in a sweep: `python -m cnn_sweeps.doctor STUDY [--fix]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cnn_sweeps.errors import ConfigError, MovedError
from cnn_sweeps.settings.arguments import SEE_HELP, CommandLine, run_command
from cnn_sweeps.sweep.study.address import check_study_exists, parse_address, sweep_folder
from cnn_sweeps.system.files import at_home
from cnn_sweeps.system.libraries import prepare_libraries
from cnn_sweeps.system.output import outlive_display
from cnn_sweeps.text.names import for_terminal
from cnn_sweeps.text.numbers import counted
from cnn_sweeps.text.passwords import hide_passwords
from cnn_sweeps.tracking.database.address import find_existing_store, user_uri

_HELP = """\
Find where Optuna, the records on disk and MLflow disagree about a sweep, as after processes were killed. Also find
whether MLflow's database still has the old paths of files after you moved or copied the folder.

Examples:
  python -m cnn_sweeps.doctor NAME
  python -m cnn_sweeps.doctor NAME --fix
  python -m cnn_sweeps.doctor --fix         only the database

NAME is the name of the study, hydra.sweeper.study_name. Call the doctor in the folder where you started the sweep. It
prints one line for each disagreement: what is wrong, and what --fix does about it or what you can do. Without --fix it
changes nothing. Exit codes: 0 if nothing is wrong or everything is mended, 2 if something is left, 1 if the study
cannot be read.

Settings, if you gave them to the sweep:
  hydra.sweeper.storage=PLACE  the study's file or URL; default: outputs/sweeps/NAME/study.journal
  hydra.sweep.dir=PATH         the sweep's folder; default: outputs/sweeps/NAME
  training.checkpoint_dir=PATH the folder of unfinished trainings; default: outputs/checkpoints
  tracking.uri=URI             where the sweep is recorded; default: MLFLOW_TRACKING_URI, or mlflow.db in this folder
  dead_host=HOST               a host on which all processes are dead; the doctor cannot see other hosts' processes

Flags:
  --fix   mend, as the sweep does when it goes on. Running trials are left alone, no result is removed, and no value is
          made up. The only files that are removed are unfinished trainings in training.checkpoint_dir.
"""
_CHECKPOINTS = "training.checkpoint_dir"
_SETTINGS = ("hydra.sweeper.storage", "hydra.sweep.dir", _CHECKPOINTS, "tracking.uri", "dead_host")
_IS_LEFT = 2


def doctor(arguments: Sequence[str]) -> None:
    """Find and perhaps mend disagreements about the study that is named; exit with _IS_LEFT if one is left.

    Raises:
        UserError: if an argument is wrong, or the study or the store cannot be used.
    """
    command_line = CommandLine(_HELP, required=[], optional=_SETTINGS)
    command_line.add_argument("--fix", action="store_true")
    flags, names, settings = command_line.read(arguments)
    if len(names) > 1:
        raise ConfigError(f"{' '.join(names)}: give the name of one study; {SEE_HELP}")
    name, uri = "".join(names), settings.get("tracking.uri")
    study = parse_address(settings.get("hydra.sweeper.storage"), name)
    if name:
        check_study_exists(study)
    if uri or not name:
        with suppress(MovedError):
            find_existing_store(uri)
    if flags.fix:
        outlive_display()
    prepare_libraries()
    from cnn_sweeps.doctor import mend

    folder = Path(at_home(settings.get("hydra.sweep.dir", str(sweep_folder(name)))))
    dead_hosts = [settings["dead_host"]] if "dead_host" in settings else []
    checkpoints = Path(at_home(settings.get(_CHECKPOINTS, str(mend.FOLDER))))
    place = mend.Place(study, folder, uri, dead_hosts, checkpoints)
    num_mended = num_left = 0
    found = mend.find_disagreements(place) if name else mend.find_moved_files(uri)
    for change, is_mended in mend.made(found) if flags.fix else ((each, False) for each in found):
        who = "mended" if is_mended else "for you" if change.make is None else "for --fix"
        print(for_terminal(f"{who}: {change.what}; {change.remedy}"), flush=True)
        num_mended, num_left = num_mended + is_mended, num_left + (not is_mended)
    left = f"{counted(num_left, 'disagreement')} left"
    verdict = left if num_left else "all mended" if num_mended else "nothing is wrong"
    print(f"{name or hide_passwords(user_uri(uri))}: {verdict}")
    if num_left:
        sys.exit(_IS_LEFT)


def main() -> None:
    """Run `doctor` on this process's arguments."""
    run_command(doctor)


if __name__ == "__main__":
    main()
