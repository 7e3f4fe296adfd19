"""Bring what waits of runs to their tracking store: `python -m cnn_sweeps.deliver outputs`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cnn_sweeps.errors import ConfigError, TrackingError, UserError
from cnn_sweeps.settings.arguments import CommandLine, run_command
from cnn_sweeps.system.output import outlive_display
from cnn_sweeps.text.names import for_terminal
from cnn_sweeps.text.passwords import hide_passwords

if TYPE_CHECKING:
    from cnn_sweeps.tracking.outbox import Outbox

_HELP = """\
Bring to the tracking store what it did not get of runs since it was away: metrics with their times, tags, files, models
and how each run ended, in order and once.

Examples:
  python -m cnn_sweeps.deliver outputs
  python -m cnn_sweeps.deliver outputs/sweeps/first tracking.uri=http://127.0.0.1:5000

A folder is searched at any depth, and links in it are not followed. What was delivered is removed from it, so that a
second time there is nothing to do. What cannot be delivered stays, and the exit code is then 1.

Settings:
  tracking.uri=URI  the store; without it MLFLOW_TRACKING_URI, or mlflow.db in this folder, and then only what was
                    recorded there is delivered: your password goes to no address that you did not give
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
    from cnn_sweeps.system.libraries import prepare_libraries

    prepare_libraries()
    from cnn_sweeps.tracking.outbox import find_outboxes

    outboxes = [outbox for folder in folders for outbox in find_outboxes(folder.absolute())]
    if not outboxes:
        print("nothing waits to be delivered")
    left = [error for outbox in outboxes if (error := _deliver(outbox, settings.get("tracking.uri")))]
    for error in dict.fromkeys(left[1:]):
        print(for_terminal(f"not delivered: {error}"))
    if left:
        raise TrackingError(f"{len(left)} of {len(outboxes)} runs could not be delivered: {left[0]}")


def _deliver(outbox: Outbox, named_uri: str | None) -> str:
    """Deliver what waits of a run and say so; give why not, if that fails."""
    import mlflow

    from cnn_sweeps.tracking.store import find_existing_store, is_recorded_as, user_uri

    uri = user_uri(named_uri)
    try:
        if named_uri is None and not is_recorded_as(uri, recorded := outbox.recorded_uri):
            command = shlex.join(["python", "-m", "cnn_sweeps.deliver", str(outbox.folder), f"tracking.uri={recorded}"])
            return (
                f"{outbox.folder}: is for {recorded}, and MLFLOW_TRACKING_URI, or its default, is "
                f"{hide_passwords(uri)}; if the former is yours, too, give {command}"
            )
        mlflow.set_tracking_uri(find_existing_store(uri))
        num_waiting = outbox.num_waiting
        if not outbox.deliver(at_once=True):
            return f"{hide_passwords(uri)} does not answer; start it and give the same command again"
    except FileNotFoundError:  # another process has delivered it meanwhile
        return ""
    except UserError as error:
        return str(error)
    print(f"run {outbox.run_id}: {num_waiting} entries delivered to {hide_passwords(uri)}")
    return ""


def main() -> None:
    """Run `deliver` on this process's arguments."""
    run_command(deliver)


if __name__ == "__main__":
    main()
