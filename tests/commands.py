"""How tests type commands: in this process, or in one of their own."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from cnn_sweeps.errors import UserError

SLOW = {"tensorflow", "keras", "mlflow", "optuna", "sklearn", "matplotlib"}
"""What no help and no refusal may wait for."""


def refusal(command, *arguments):
    """Give the one line in which a command refuses its arguments."""
    with pytest.raises(UserError) as error:
        command([str(argument) for argument in arguments])
    assert "\n" not in str(error.value)
    return str(error.value)


def started_command(module, folder, *arguments, **environment):
    """Run `python -m MODULE ARGUMENTS` in a process of its own; give how it ended, and what it has imported."""
    script = (
        "import atexit, runpy, sys\n"
        "atexit.register(lambda: print('IMPORTED', *{name.split('.')[0] for name in sys.modules}))\n"
        f"runpy.run_module('{module}', run_name='__main__', alter_sys=True)"
    )
    variables = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"} | environment
    words = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    shown, _, imported = done.stdout.rpartition("IMPORTED")
    return SimpleNamespace(returncode=done.returncode, stdout=shown, stderr=done.stderr, imported=set(imported.split()))
