"""A module imports only from lower layers."""

import ast
from pathlib import Path

import pytest

import cnn_sweeps

LAYERS = [
    ["locks", "names", "output", "owners", "passwords", "plain_files", "signals"],
    ["errors", "commands", "threads"],
    ["patience", "whole_files"],
    ["schema", "arguments", "environment"],
    ["targets"],
    ["command_line"],
    ["config", "stored_config"],
    ["databases"],
    # within a layer, each line may use the ones before it
    ["data.dataset", "data.decode"],
    ["data.cache", "data.arrays", "data.split"],
    ["data.folder", "data.pipeline", "data.batches"],
    ["data"],
    ["models.blocks"],
    ["models.cnn", "models.residual"],
    ["models"],
    ["optimizers", "evaluation", "evaluation.metrics", "checkpoint"],
    ["evaluation.estimates"],
    ["evaluation.figures", "evaluation.grad_cam"],
    ["evaluation.image_sheets", "evaluation.ablation"],
    ["tracking", "tracking.store", "tracking.served_model", "tracking.process", "tracking.views"],
    ["tracking.entries"],
    ["tracking.outbox"],
    ["tracking.runs", "tracking.models"],
    ["tracking.sweeps", "tracking.kept_models", "tracking.records", "tracking.sweep_records"],
    ["sweep", "sweep.places", "sweep.machine", "sweep.space", "sweep.patient_storage", "sweep.outcome", "sweep.ledger"],
    ["sweep.heartbeat", "sweep.settings", "sweep.storage"],
    ["sweep.job_process", "sweep.dask_settings"],
    ["sweep.samplers", "sweep.definition"],
    ["sweep.recovery", "sweep.workers"],
    ["sweep.study"],
    ["sweep.dask_worker", "sweep.dask_connection"],
    ["sweep.dask_fleet"],
    ["sweep.executors", "sweep.trial", "sweep.progress", "sweep.report", "sweep.kept_study"],
    ["sweep.dask_cluster"],
    ["sweep.application", "sweep.failures", "sweep.interruption"],
    ["sweep.preparation"],
    ["sweep.sweeper"],
    ["replicas", "batch_statistics"],
    ["repeats", "epoch_record", "network", "prediction", "conversion", "comparison", "description"],
    ["training", "prediction_output", "sweep_files"],
    ["results"],
    ["pictures"],
    ["trained"],
    ["trial_run"],
    ["evidence"],
    ["run_diagnosis", "leftovers"],
    ["diagnosis"],
    ["assembly"],
    ["chosen", "reproduction"],
    ["completion", "retraining", "recording", "checkup"],
    ["experiment", "sweep_application"],
    ["train", "predict", "export", "reproduce", "deliver", "doctor"],
]
HEIGHT = {module: height for height, layer in enumerate(LAYERS) for module in layer}
PACKAGE = Path(cnn_sweeps.__file__).parent


def modules() -> dict[str, Path]:
    files = [file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py"]
    return {".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imports(file: Path) -> set[str]:
    """Give the package's modules that a file imports, wherever in it, by their full names."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in submodules if name.removeprefix("cnn_sweeps.") in HEIGHT} or {node.module}
    return {name.removeprefix("cnn_sweeps.") for name in found if name.startswith("cnn_sweeps.")}


def test_every_module_has_its_layer():
    assert set(modules()) == set(HEIGHT)


@pytest.mark.parametrize("module", sorted(HEIGHT))
def test_module_imports_only_from_lower_layers(module):
    higher = {name for name in imports(modules()[module]) if HEIGHT[name] >= HEIGHT[module]}
    assert not higher


def test_the_sweeper_knows_hydra_and_optuna_and_neither_tensorflow_nor_mlflow():
    for module in (name for name in HEIGHT if name.startswith("sweep.")):
        text = modules()[module].read_text()
        assert not {"tensorflow", "keras", "mlflow"} & _imported_packages(text), module
        assert not {name.split(".")[0] for name in imports(modules()[module])} & {"tracking", "data", "models"}


def _imported_packages(text: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(text)))
    names = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {(node.module or "").split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}


def test_layer_one_imports_nothing_slow():
    slow = {"tensorflow", "keras", "mlflow", "optuna", "sklearn", "matplotlib"}
    for module in LAYERS[0] + LAYERS[1] + LAYERS[2] + LAYERS[3]:
        assert not _imported_packages(modules()[module].read_text()) & slow, module
