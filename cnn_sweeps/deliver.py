"""Bring what waits of runs to their tracking store: `python -m cnn_sweeps.deliver outputs`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cnn_sweeps.arguments import CommandLine, run_command
from cnn_sweeps.errors import ConfigError, TrackingError, UserError
from cnn_sweeps.output import outlive_display
from cnn_sweeps.passwords import hide_passwords

if TYPE_CHECKING:
    from cnn_sweeps.tracking.outbox import Outbox

_HELP = """\
Bring to the tracking store what it did not get of runs since it was away: metrics with their times, tags, files, models
and how each run ended, in order and once.

Examples:
  python -m cnn_sweeps.deliver outputs
  python -m cnn_sweeps.deliver outputs/sweeps/first tracking.uri=http://127.0.0.1:5000

A folder is searched at any depth. What was delivered is removed from it, so that a second time there is nothing to do.
What cannot be delivered stays, and the exit code is then 1.

Settings:
  tracking.uri=URI  the store, if it has another address by now, or a password, which is not kept; without it the one
                    that the run was recorded in, with the password of MLFLOW_TRACKING_URI
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
    from cnn_sweeps.assembly import prepare_libraries

    prepare_libraries()
    from cnn_sweeps.tracking.outbox import find_outboxes

    outboxes = [outbox for folder in folders for outbox in find_outboxes(folder.absolute())]
    if not outboxes:
        print("nothing waits to be delivered")
    left = [error for outbox in outboxes if (error := _deliver(outbox, settings.get("tracking.uri")))]
    if left:
        raise TrackingError(f"{len(left)} of {len(outboxes)} runs could not be delivered: {left[0]}")


def _deliver(outbox: Outbox, named_uri: str | None) -> str:
    """Deliver what waits of a run and say so; give why not, if that fails."""
    import mlflow

    from cnn_sweeps.tracking.store import find_existing_store

    try:
        uri = named_uri or _with_password(outbox.recorded_uri)
    except FileNotFoundError:  # another process has delivered it meanwhile
        return ""
    try:
        mlflow.set_tracking_uri(find_existing_store(uri))
        num_waiting = outbox.num_waiting
        if not outbox.deliver(at_once=True):
            return f"{hide_passwords(uri)} does not answer; start it and give the same command again"
    except UserError as error:
        return str(error)
    print(f"run {outbox.run_id}: {num_waiting} entries delivered to {hide_passwords(uri)}")
    return ""


def _with_password(recorded_uri: str) -> str:
    from cnn_sweeps.tracking.store import is_recorded_as

    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    return given if is_recorded_as(given, recorded_uri) else recorded_uri


def main() -> None:
    """Run `deliver` on this process's arguments."""
    run_command(deliver)


if __name__ == "__main__":
    main()
