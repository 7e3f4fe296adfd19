"""Checks a composed configuration: against the schema, and what spans several settings.

Nothing slow is imported, so that a bad value is refused at once.
"""

from __future__ import annotations

import importlib.util
import os
import re
import stat
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.settings.backbones import BACKBONES
from cnn_sweeps.settings.schema import RunConfig, ScheduleConfig
from cnn_sweeps.settings.target_arguments import FOLDER, PRETRAINED, TARGET_ARGUMENTS
from cnn_sweeps.settings.trees import with_texts_changed
from cnn_sweeps.settings.typed import as_text
from cnn_sweeps.text.numbers import counted

Checked = TypeVar("Checked")
_DERIVED = ("schedule", "resolved")  # by `check_values`, from what is composed
_IMAGE_SIZE = 128
_HDF5 = b"\x89HDF"
_VARIABLE = re.compile(r"\$\{\s*oc\.env\s*:\s*([^\s,{}]+)")


def check_config(composed: DictConfig) -> RunConfig:
    """Turn Hydra's composed configuration into a checked one.

    Raises:
        ConfigError: naming every setting that is missing, of the wrong type, out of range or contradicting another.
    """
    try:
        missing = sorted(OmegaConf.missing_keys(composed))
        plain: dict[str, Any] = OmegaConf.to_container(composed, resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError(" ".join(str(error).split())) from error
    if missing:
        raise ConfigError(f"{', '.join(missing)}: no value given; add {missing[0]}=VALUE to the command")
    return check_values(plain, name_variables(OmegaConf.to_container(composed, resolve=False), plain))


def check_values(plain: dict[str, Any], for_the_record: dict[str, Any]) -> RunConfig:
    """Turn a configuration's values, and what is to be recorded of them, into a checked one.

    Raises:
        ConfigError: as `check_config` does.
    """
    if missing := sorted({"data", "model", "optimizer"} - plain.keys()):
        raise ConfigError(f"{', '.join(missing)}: no value given")
    if unknown := sorted(str(key) for key in plain if not isinstance(key, str) or key in _DERIVED):
        raise ConfigError(f"{', '.join(unknown)}: no such setting here; remove it")
    plain, for_the_record = _with_image_size(plain), _with_image_size(for_the_record)
    optimizer = plain["optimizer"] if isinstance(plain["optimizer"], dict) else {}
    schedule = {key: optimizer[key] for key in optimizer if key in ScheduleConfig.__dataclass_fields__}
    own = {key: optimizer[key] for key in optimizer if key not in schedule}
    plain = plain | {"optimizer": own, "schedule": schedule, "resolved": for_the_record}
    config, problems = _validated(RunConfig, plain)
    for group in ("data", "model", "optimizer"):
        problems += _target_problems(group, plain[group])
    if config is None or problems:
        raise ConfigError("; ".join(problems))
    _check_together(config)
    return config


def _with_image_size(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with an image size: of files that are resized to whatever suits, what suits the network."""
    data, model = tree["data"], tree["model"]
    if not (isinstance(data, dict) and data.get("_target_") == FOLDER and data.get("image_size", 0) is None):
        return tree
    backbone = model.get("backbone") if isinstance(model, dict) else None
    return tree | {"data": data | {"image_size": BACKBONES.get(str(backbone), _IMAGE_SIZE)}}


def name_variables(raw: Any, resolved: Any) -> Any:
    """Return the resolved configuration with the names of environment variables for their values, which may be secret.

    By whatever way it came there; but numbers stay, which `oc.decode` made of them.
    """
    names = set(_VARIABLE.findall(str(raw)))
    held = {value: name for name in sorted(names) if (value := os.environ.get(name))}
    return _named(raw, resolved, held)


def _named(raw: Any, resolved: Any, held: dict[str, str]) -> Any:
    if isinstance(raw, dict) and isinstance(resolved, dict):
        return {key: _named(raw[key], resolved[key], held) for key in resolved}
    if isinstance(raw, list) and isinstance(resolved, list):
        return [_named(*pair, held) for pair in zip(raw, resolved, strict=True)]
    if not (isinstance(raw, str) and "${" in raw):
        return resolved
    if isinstance(resolved, str) and _VARIABLE.search(raw):
        return raw

    def name_values(text: str) -> str:
        for value in sorted(held, key=len, reverse=True):
            text = text.replace(value, f"${{oc.env:{held[value]}}}")
        return text

    return with_texts_changed(resolved, name_values)


def smallest_cnn_image(num_blocks: int, padding: str) -> int:
    """Return the side in pixels of the smallest image that passes `num_blocks` of 3x3 convolution and 2x2 pooling."""
    side = 1
    for _ in range(num_blocks):
        side = 2 * side + (2 if padding == "valid" else 0)
    return side


def _validated(schema: type[Checked], values: dict[str, Any], prefix: str = "") -> tuple[Checked | None, list[str]]:
    """Return what a schema makes of values, or what is wrong with them."""
    try:
        return TypeAdapter(schema).validate_python(values), []
    except ValidationError as error:
        return None, list(dict.fromkeys(_problem(detail, prefix) for detail in error.errors()))


def _problem(detail: Any, prefix: str) -> str:
    key = re.sub(r"^schedule\.", "optimizer.", prefix + ".".join(map(str, detail["loc"])))  # where it is composed
    if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):  # of a group, of a target
        return f"{key}: no such setting here; remove it"
    if detail["type"] == "missing":
        return f"{key}: no value given; add {key}=VALUE to the command"
    allowed = detail["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    how = f"; if it is a text, type {as_text(key, detail['input'])}" if detail["type"] == "string_type" else ""
    return f"{key}={detail['input']}: {allowed}{how}"


def _target_problems(group: str, component: Any) -> list[str]:
    target = component.get("_target_") if isinstance(component, dict) else component
    if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")):
        return [f"{group}._target_={target}: should be the dotted path of a function, e.g. my_package.my_function"]
    package = target.split(".")[0]
    if importlib.util.find_spec(package) is None:
        return [
            f"{group}._target_={target}: there is no module {package} on the Python path; install it or set PYTHONPATH"
        ]
    arguments = {key: value for key, value in component.items() if key != "_target_"}
    schema = TARGET_ARGUMENTS.get(target)
    return _validated(schema, arguments, f"{group}.")[1] if schema else []


def _check_together(config: RunConfig) -> None:
    val, test = config.split.val_fraction, config.split.test_fraction
    if val + test >= 1:
        raise ConfigError(
            f"split.val_fraction={val} and split.test_fraction={test} leave nothing to train on; their sum must be "
            "below 1"
        )
    if len(config.objective) > 1 and (config.confirm or config.prefer):
        wrong = f"confirm={config.confirm}" if config.confirm else f"prefer={config.prefer}"
        raise ConfigError(f"{wrong}: of several objectives no trial is the best; leave it out, or name one objective")
    for_several_devices = config.training.strategy != "single"
    if for_several_devices and config.training.xla:
        raise ConfigError(
            "training.xla=true: XLA compiles for one device, training.strategy=mirrored is for several; leave one out"
        )
    if for_several_devices and config.training.precision == "mixed_float16":
        raise ConfigError(
            "training.precision=mixed_float16: scales its loss for one device, training.strategy=mirrored is for "
            "several; set training.precision=mixed_bfloat16 or float32, or training.strategy=single"
        )
    if config.model["_target_"] == PRETRAINED:
        _check_weights(config.model["weights"], config.fine_tune)
    size = config.data.get("image_size")
    if size is not None and config.data["_target_"] in TARGET_ARGUMENTS:
        check_image_fits(config.model, *(size if isinstance(size, list) else (size, size)))


def _check_weights(weights: str | None, fine_tune: int) -> None:
    """See, without an import, that a file of weights can be one."""
    if weights is None and fine_tune:
        raise ConfigError(
            f"model.fine_tune={fine_tune}: with model.weights=null all layers are trained from the start; leave it out"
        )
    if weights is None or not weights.endswith(".h5"):
        return
    file = Path(os.path.expanduser(weights))  # noqa: PTH111  takes any text
    try:
        is_file = stat.S_ISREG(file.stat().st_mode)  # a named pipe would be waited for
        with file.open("rb") if is_file else BytesIO() as content:
            is_hdf5 = content.read(len(_HDF5)) == _HDF5
    except OSError as error:
        raise ConfigError(f"model.weights={weights}: cannot be read ({error.strerror}); name a file") from error
    if not is_hdf5:
        raise ConfigError(f"model.weights={weights}: is no file of Keras weights (HDF5); name one that is")


def check_image_fits(model: dict[str, Any], height: int, width: int) -> None:
    """Check that images of a size pass the network, as far as its settings tell.

    Raises:
        ConfigError: if they are too small for this project's `cnn`.
    """
    if model["_target_"] != "cnn_sweeps.models.build_cnn":
        return
    num_blocks, padding = len(model["filters"]), model["padding"]
    smallest = smallest_cnn_image(num_blocks, padding)
    if min(height, width) < smallest:
        raise ConfigError(
            f"images of {height}x{width} pixels: {counted(num_blocks, 'block')} with model.padding={padding}; allowed: "
            f"at least {smallest} pixels a side; set a larger data.image_size, shorten model.filters or set "
            "model.padding=same"
        )
