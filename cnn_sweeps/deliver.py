"""Bring what waits of runs to their tracking store: `python -m cnn_sweeps.deliver outputs`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cnn_sweeps.errors import ConfigError, TrackingError, UserError
from cnn_sweeps.settings.arguments import CommandLine, run_command
from cnn_sweeps.system.libraries import prepare_libraries
from cnn_sweeps.system.output import outlive_display
from cnn_sweeps.text.names import for_terminal

_HELP = """\
Bring to the tracking store what it did not get of runs since it was away: metrics with their times, tags, files, models
and how each run ended, in order and once.

Examples:
  python -m cnn_sweeps.deliver outputs
  python -m cnn_sweeps.deliver outputs/sweeps/first tracking.uri=http://127.0.0.1:5000

A folder is searched at any depth for records of runs (record.jsonl), and links in it are not followed. How far each was
delivered is kept beside it, so that a second time there is nothing to do, and a run that you have deleted in MLflow
stays deleted. If something cannot be delivered the exit code is 1.

Settings:
  tracking.uri=URI  the store, which gets all that it does not have; without it MLFLOW_TRACKING_URI, or mlflow.db in
                    this folder, and then only what was recorded there is delivered: your password goes to no address
                    that you did not give
"""


def deliver(arguments: Sequence[str]) -> None:
    """Do what the command line says.

    Raises:
        UserError: if something cannot be delivered; the rest is.
    """
    _, names, settings = CommandLine(_HELP, required=[], optional=["tracking.uri"]).read(arguments)
    if not names:
        raise ConfigError("no folder is named; name the runs' folder, e.g. outputs")
    folders = [Path(name) for name in names]
    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise ConfigError(f"{missing[0]}: there is no such folder; name the runs' folder, e.g. outputs")
    outlive_display()
    prepare_libraries()
    from cnn_sweeps.tracking import delivery, record_folder

    places = [folder.absolute() for folder in folders]
    records = dict.fromkeys(record for place in places for record in record_folder.find_records(place))
    left: list[UserError] = [error for place in places for error in record_folder.refuse_outboxes(place)]
    is_nothing_told = True
    for record in records:
        try:
            if told := delivery.deliver_record(record, settings.get("tracking.uri")):
                print(for_terminal(f"{record}: {told}"))
                is_nothing_told = False
        except UserError as error:
            left.append(error)
    if is_nothing_told and not left:
        print("nothing waits to be delivered")
    for error in left[1:]:
        print(for_terminal(f"not delivered: {error}"))
    if left:
        raise TrackingError(f"{len(left)} of {len(records)} runs could not be delivered: {left[0]}")


def main() -> None:
    """Run `deliver` on this process's arguments."""
    run_command(deliver)


if __name__ == "__main__":
    main()
