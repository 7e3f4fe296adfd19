"""The package's rooms: each imports only from those before it, and what must answer at once imports nothing slow."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import cnn_sweeps

ROOMS = [
    *("text", "errors", "system", "settings", "sweep", "data", "models", "training", "evaluation", "tracking"),
    *("use", "experiment", "selection", "doctor"),
]
COMMANDS = ["train", "predict", "export", "reproduce", "compare", "deliver", "notebook"]
FAST = ["text", "errors", "system", "settings", "sweep"]  # and the commands, until they start work, and of other rooms:
FAST_MODULES = [
    f"cnn_sweeps.tracking.{name}"
    for name in ("database.address", "record.entry", "record.record", "record.position", "page")
]
SLOW = {"tensorflow", "keras", "mlflow", "sklearn", "matplotlib", "pandas", "scipy"}
PACKAGE = Path(cnn_sweeps.__file__).parent
_REFERENCE = re.compile(r"cnn_sweeps(?:\.[a-z_]+)+:[a-z_]\w*")  # "module:function"


def _modules() -> dict[str, Path]:
    files = [file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py"]
    return {
        ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): file
        for file in files
    }


MODULES = _modules()


def _room(module: str) -> str:
    return module.split(".")[1]


def _imported(tree: ast.AST) -> set[str]:
    """Give all that is imported, wherever in the code, also by name."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                found |= {alias.name for alias in node.names}
            case ast.ImportFrom(module=str(module)):
                found |= {f"{module}.{alias.name}" for alias in node.names} & MODULES.keys() or {module}
            case ast.Call(args=[ast.Constant(value=str(name)), *_]) if "import_module" in ast.unparse(node.func):
                found.add(name)
            case ast.Constant(value=str(text)) if _REFERENCE.fullmatch(text):
                found.add(text.partition(":")[0])
    return found


TREES = {module: ast.parse(file.read_text(encoding="utf-8")) for module, file in MODULES.items()}
IMPORTS = {module: {name for name in _imported(tree) if name in MODULES} for module, tree in TREES.items()}


def test_every_module_has_its_room():
    assert {_room(module) for module in MODULES} == {*ROOMS, *COMMANDS}


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_only_from_those_before_it(room):
    later = {*ROOMS[ROOMS.index(room) + 1 :], *COMMANDS}
    wrong = [
        f"{module} imports {name}"
        for module in MODULES
        for name in IMPORTS[module]
        if _room(module) == room and _room(name) in later
    ]
    assert not wrong


def test_commands_do_not_import_each_other():
    for module in MODULES:
        if _room(module) in COMMANDS:
            assert not {_room(name) for name in IMPORTS[module]} & set(COMMANDS), module


def test_no_module_imports_itself_by_way_of_others():
    without_packages = {module: names - {module.rpartition(".")[0]} for module, names in IMPORTS.items()}
    try:
        TopologicalSorter(without_packages).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_sweep_knows_neither_this_application_nor_its_libraries():
    for module, tree in TREES.items():
        if _room(module) == "sweep":
            assert not {name.partition(".")[0] for name in _imported(tree)} & SLOW, module


def test_fast_rooms_import_nothing_slow():
    fast = sorted(
        module
        for module in MODULES
        if (_room(module) in [*FAST, *COMMANDS] and not module.startswith("cnn_sweeps.sweep.jobs.dask"))
        or module in FAST_MODULES
    )
    code = f"import importlib, sys; [importlib.import_module(each) for each in {fast}]; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert not {name.partition(".")[0] for name in shown.split()} & SLOW


def test_controller_of_a_sweep_and_the_doctor_import_no_tensorflow():
    left, seen = [f"cnn_sweeps.{name}" for name in ("selection.sweep_run", "selection.finishing", "doctor.mend")], set()
    while left:
        module = left.pop()
        seen.add(module)
        names = set().union(
            *(_imported(node) for node in TREES[module].body if isinstance(node, ast.Import | ast.ImportFrom))
        )
        assert not {name.partition(".")[0] for name in names} & {"tensorflow", "keras"}, module
        left += names & MODULES.keys() - seen
