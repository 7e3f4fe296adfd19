"""Send records of runs that still wait to their tracking store: `python -m cnn_sweeps.deliver outputs`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from cnn_sweeps.errors import ConfigError, TrackingError, UserError
from cnn_sweeps.settings.arguments import CommandLine, run_command
from cnn_sweeps.system.libraries import prepare_libraries
from cnn_sweeps.system.output import outlive_display
from cnn_sweeps.text.names import for_terminal
from cnn_sweeps.text.numbers import counted
from cnn_sweeps.text.passwords import hide_passwords
from cnn_sweeps.tracking.database.address import find_existing_store, is_recorded_as, user_uri
from cnn_sweeps.tracking.record.entry import read_record
from cnn_sweeps.tracking.record.position import num_waiting, store_of_record
from cnn_sweeps.tracking.record.record import close_if_died, find_records, refuse_outboxes

_HELP = """\
Send to the tracking store what it missed while it was away: the metrics of runs with their times, tags, files, models,
and how each run ended. Everything arrives in order and once.

Examples:
  python -m cnn_sweeps.deliver outputs
  python -m cnn_sweeps.deliver outputs/sweeps/first tracking.uri=http://127.0.0.1:5000

The command looks for records of runs (record.jsonl) at any depth of the folders, and follows no links. A file beside
each record says how much of it was delivered. So a second call does nothing, and a run that you deleted in MLflow stays
deleted. The exit code is 1 if something cannot be delivered.

Settings:
  tracking.uri=URI  the store that gets what it lacks; default: MLFLOW_TRACKING_URI, or mlflow.db in this folder. By
                    default only the records of that store are delivered, so that your password goes to no address
                    that you did not give
"""


def deliver(arguments: Sequence[str]) -> None:
    """Deliver the records in the folders that the command line names.

    Raises:
        UserError: if something cannot be delivered; the rest is.
    """
    _, names, settings = CommandLine(_HELP, required=[], optional=["tracking.uri"]).read(arguments)
    if not names:
        raise ConfigError("no folder is given; give the folder of the runs, e.g. outputs")
    folders = [Path(name) for name in names]
    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise ConfigError(f"{missing[0]}: there is no such folder; give the folder of the runs, e.g. outputs")
    outlive_display()
    prepare_libraries()
    records = list(dict.fromkeys(record for folder in folders for record in find_records(folder.absolute())))
    results = [_deliver(record, settings.get("tracking.uri")) for record in records]
    errors = [result for result in results if isinstance(result, UserError)]
    errors += [error for folder in folders for error in refuse_outboxes(folder.absolute())]
    if not any(results) and not errors:
        print("nothing waits to be delivered")
    for error in errors[1:]:
        print(for_terminal(f"not delivered: {error}"))
    if errors:
        raise TrackingError(f"{len(errors)} of {counted(len(records), 'run')} could not be delivered: {errors[0]}")


def _deliver(folder: Path, named_uri: str | None) -> UserError | int:
    """Deliver what waits of a run, and print that; return the number of entries, or the error."""
    uri = user_uri(named_uri)
    try:
        if (recorded := read_record(folder)) is None:
            return 0
        close_if_died(folder)
        its_uri = store_of_record(folder, recorded.begin)
        is_for_another = named_uri is None and not is_recorded_as(uri, its_uri)
        if not (num_entries := num_waiting(folder, its_uri if is_for_another else uri)):
            return 0
        if is_for_another:
            command = shlex.join(["python", "-m", "cnn_sweeps.deliver", str(folder), f"tracking.uri={its_uri}"])
            raise TrackingError(
                f"{folder}: belongs to {its_uri}, but MLFLOW_TRACKING_URI (or the default) is {hide_passwords(uri)}; "
                f"if you trust the first one, run {command}"
            )
        store = find_existing_store(uri)
        from cnn_sweeps.tracking.projection import project

        project(folder, store)
    except UserError as error:
        return error
    print(f"{for_terminal(folder)}: {counted(num_entries, 'entry', 'entries')} delivered to {hide_passwords(uri)}")
    return num_entries


def main() -> None:
    """Run `deliver` on this process's arguments."""
    run_command(deliver)


if __name__ == "__main__":
    main()
