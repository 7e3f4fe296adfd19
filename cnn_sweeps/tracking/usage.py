"""Commands that use a run which the store has, and the address of its page."""

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
    """Return the command that predicts with a model of a store; `model` is its address in MLflow."""
    words = ["python", "-m", "cnn_sweeps.predict", "PHOTOS", f"model={model}"]
    return Command("To predict the classes of images:", shlex.join(words) + in_store(uri))


def command_to_serve(model: str, uri: str) -> Command:
    """Return the command that serves a model of a store over HTTP."""
    uri, words = hide_passwords(uri), ["mlflow", "models", "serve", "-m", model, "--env-manager", "local", "-p", "5001"]
    variable = "" if uri == DEFAULT else f"MLFLOW_TRACKING_URI={shlex.quote(uri)} "
    return Command("To serve it over HTTP:", variable + shlex.join(words))


def command_to_reproduce(run_id: str, uri: str) -> Command:
    """Return the command that repeats a run of a store and compares the results."""
    what = "To repeat it and compare each metric:"
    return Command(what, f"python -m cnn_sweeps.reproduce {run_id}{in_store(uri)}")


def command_to_look(uri: str) -> Command | None:
    """Return the command that shows the runs of a store; None for a server, which shows them at its address."""
    if uri.startswith("http"):
        return None
    uri, words = hide_passwords(uri), ["mlflow", "ui"]
    if uri != DEFAULT or is_hidden_by_old_store(uri):
        words += ["--backend-store-uri", uri]
    return Command("To look at the run:", shlex.join(words))


def describe_page(what: str, page: str, uri: str) -> list[str]:
    """Return lines with the address of a page for a browser and, if needed, the command that starts a server first."""
    if (look := command_to_look(uri)) is None:
        return [f"To look at {what}:", f"  {hide_passwords(uri).rstrip('/')}/{page}"]
    return [f"To look at {what}:", f"  {look.command}", f"  http://127.0.0.1:5000/{page}"]


def commands_of_record(folder: Path, uri: str, run: str = "this run") -> list[Command]:
    """Return the commands that use the run of a record; those with its id only if the store has the run."""
    if (recorded := read_record(folder)) is None:
        return []
    commands = [Command(f"To repeat {run}:", recorded.tags["command"])] if "command" in recorded.tags else []
    if (run_id := read_position(folder, uri).run_id) is not None:
        commands.append(command_to_reproduce(run_id, uri))
        if recorded.model is not None:
            model = f"runs:/{run_id}/{recorded.model}"
            commands += [command_to_predict(model, uri), command_to_serve(model, uri)]
    return commands


def in_store(uri: str) -> str:
    """Return the end of a command that is about a store: nothing for the one that commands use by themselves."""
    return "" if uri == DEFAULT else f" {shlex.quote(f'tracking.uri={hide_passwords(uri)}')}"
