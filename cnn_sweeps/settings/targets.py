"""Calls the functions that the configuration names: the extension points `data`, `model` and `optimizer`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import hydra.utils
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.settings.target_arguments import TARGET_ARGUMENTS
from cnn_sweeps.settings.trees import everything_in

_KERAS_OPTIMIZERS = (
    *("Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Ftrl", "Lamb", "Lion", "Muon", "Nadam"),
    *("RMSprop", "ScheduleFreeAdamW", "SGD"),
)
OFFERED = tuple(dict.fromkeys([*TARGET_ARGUMENTS, *(f"keras.optimizers.{name}" for name in _KERAS_OPTIMIZERS)]))
"""What this project and Keras offer to configurations: all that a configuration from elsewhere may call.

Whole names only: by way of a package, `cnn_sweeps.models.keras.utils.get_file` is reached, and
`keras.optimizers.deserialize` builds whatever it is told to.
"""
_OFFERED_TO_HYDRA = (
    "cnn_sweeps.settings.environment.HomeInFolders",
    "cnn_sweeps.settings.environment.PasswordsToEnvironment",
    "cnn_sweeps.text.names.OnlyPrintable",
    "cnn_sweeps.system.files.LogFile",
)
_NAMED_TO_HYDRA = re.compile(r"""(?:(?:_target_|class|\(\))["']?\s*[:=]\s*["']?|ext://)([^\W\d]\w*(?:\.[^\W\d]\w*)+)""")


def trusting(targets: Iterable[str]) -> AbstractContextManager[Any]:
    """Let the configuration call these in the block, and what is offered; before Hydra 1.4 there is no such list."""
    if not hasattr(hydra.utils, "execution_whitelist"):
        return nullcontext()
    whitelist: AbstractContextManager[Any] = hydra.utils.execution_whitelist([*OFFERED, *_OFFERED_TO_HYDRA, *targets])
    return whitelist


def targets_in_text(text: str) -> list[str]:
    """Return what a user's own words or files name for Hydra itself to call: callbacks, and parts of the logging."""
    return _NAMED_TO_HYDRA.findall(text)


def targets_in_folder(folder: Path) -> Iterator[str]:
    """Return what the files of a folder of config groups name."""
    for pattern in ("*.yaml", "*/*.yaml", "*/*/*.yaml"):
        for file in folder.glob(pattern):
            yield from targets_in_text(file.read_text(encoding="utf-8", errors="replace"))


def named_targets(tree: Any) -> Iterator[str]:
    """Return every `_target_` of nested dicts and lists."""
    return (str(each["_target_"]) for each in everything_in(tree) if isinstance(each, dict) and "_target_" in each)


def build(component: dict[str, Any]) -> Any:
    """Build what the user's own configuration describes, with its nested parts.

    Raises:
        InstantiationException: if that fails, whatever the reason.
    """
    with trusting(named_targets(component)):
        try:
            return instantiate(component, _convert_="all")
        except InstantiationException:
            raise
        except Exception as error:  # which Hydra wraps so itself before 1.4
            raise InstantiationException(f"{type(error).__name__}: {error}") from error


def call_target(group: str, component: dict[str, Any], **given: Any) -> Any:
    """Call `component["_target_"]` with the component's other values and `given` as named arguments.

    The component is trusted: one that was stored is checked where it is read.

    Raises:
        ConfigError: if there is no such function, or it does not take an argument that it gets.
    """
    target = component["_target_"]
    with trusting(named_targets(component)):  # in the call, too: the function may build nested parts with Hydra
        try:
            found = instantiate(component, _partial_=True, _recursive_=False, _convert_="all")
        except InstantiationException as error:
            if _is_bug_in_module(error):
                raise
            reason = " ".join(str(error.__cause__ or error).split())
            raise ConfigError(f"{group}._target_={target}: cannot be used: {reason}") from error
        bound = partial(found.func, *found.args, **found.keywords)  # Hydra's own lets no function return a network
        _check_arguments(f"{group}: {target}", bound, given)
        return bound(**given)


def _check_arguments(target: str, bound: partial[Any], given: dict[str, Any]) -> None:
    with suppress(ValueError):  # some types written in C have no signature; they tell by themselves
        signature = inspect.signature(bound.func)
        try:
            signature.bind(**bound.keywords, **given)
        except TypeError as error:
            raise ConfigError(f"{target} {error}; it takes: {', '.join(signature.parameters)}") from error


def _is_bug_in_module(error: BaseException) -> bool:
    """Return whether the module was found and failed by itself, as opposed to not being there."""
    while error.__cause__ is not None:
        error = error.__cause__
    return not isinstance(error, (ImportError, AttributeError, InstantiationException))
