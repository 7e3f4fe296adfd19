"""Commands that use a run, and its page, once the store has it."""

from __future__ import annotations

import shlex
from pathlib import Path

from cnn_sweeps.text.commands import Command
from cnn_sweeps.text.passwords import hide_passwords
from cnn_sweeps.tracking.database.address import DEFAULT, is_hidden_by_old_store
from cnn_sweeps.tracking.record.entry import read_record
from cnn_sweeps.tracking.record.position import read_position

THIS_RUN_ID, STORE = "%this_run_id%", "%store%"
"""What stands in a note's commands for a run's own id and for the address of the store that has it."""


def command_to_predict(model: str, uri: str) -> Command:
    """Give the command by which a model of a store, named as MLflow does, classifies photographs."""
    words = ["python", "-m", "cnn_sweeps.predict", "PHOTOS", f"model={model}"]
    return Command("To give images their classes:", shlex.join(words) + in_store(uri))


def command_to_serve(model: str, uri: str) -> Command:
    """Give the command that has a model of a store answer over HTTP."""
    uri, words = hide_passwords(uri), ["mlflow", "models", "serve", "-m", model, "--env-manager", "local", "-p", "5001"]
    variable = "" if uri == DEFAULT else f"MLFLOW_TRACKING_URI={shlex.quote(uri)} "
    return Command("To have it answer over HTTP:", variable + shlex.join(words))


def command_to_reproduce(run_id: str, uri: str) -> Command:
    """Give the command that makes a run of a store again and compares what it measures."""
    what = "To make it again and compare, metric by metric:"
    return Command(what, f"python -m cnn_sweeps.reproduce {run_id}{in_store(uri)}")


def command_to_look(uri: str) -> Command | None:
    """Give the command that shows the runs of a store; None of a server, which does so at its address."""
    if uri.startswith("http"):
        return None
    uri, words = hide_passwords(uri), ["mlflow", "ui"]
    if uri != DEFAULT or is_hidden_by_old_store(uri):
        words += ["--backend-store-uri", uri]
    return Command("To look at the run:", shlex.join(words))


def describe_page(what: str, page: str, uri: str) -> list[str]:
    """Say at which address of a store a browser shows something, and which command starts a server where none is."""
    if (look := command_to_look(uri)) is None:
        return [f"To look at {what}:", f"  {hide_passwords(uri).rstrip('/')}/{page}"]
    return [f"To look at {what}:", f"  {look.command}", f"  http://127.0.0.1:5000/{page}"]


def commands_of_record(folder: Path, uri: str, run: str = "this run") -> list[Command]:
    """Give the commands that use the run of a record: those that need its id only once the store has given it one."""
    if (recorded := read_record(folder)) is None:
        return []
    commands = [Command(f"To make {run} again:", recorded.tags["command"])] if "command" in recorded.tags else []
    if (run_id := read_position(folder, uri).run_id) is not None:
        commands.append(command_to_reproduce(run_id, uri))
        if recorded.model is not None:
            model = f"runs:/{run_id}/{recorded.model}"
            commands += [command_to_predict(model, uri), command_to_serve(model, uri)]
    return commands


def in_store(uri: str) -> str:
    """Give the end of a command that is about a store: nothing for the one that commands use by themselves."""
    return "" if uri == DEFAULT else f" {shlex.quote(f'tracking.uri={hide_passwords(uri)}')}"
