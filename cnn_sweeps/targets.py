"""Calls the functions that the configuration names: the extension points `data`, `model` and `optimizer`."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from cnn_sweeps.errors import ConfigError


def call_target(group: str, component: dict[str, Any], **given: Any) -> Any:
    """Call `component["_target_"]` with the component's other values and `given` as named arguments.

    Raises:
        ConfigError: if there is no such function, or it does not take an argument that it gets.
    """
    target = component["_target_"]
    try:
        bound = instantiate(component, _partial_=True, _recursive_=False, _convert_="all")
    except InstantiationException as error:
        if _is_bug_in_module(error):
            raise
        reason = " ".join(str(error.__cause__ or error).split())
        raise ConfigError(f"{group}._target_={target}: cannot be used: {reason}") from error
    _check_arguments(group, target, bound, given)
    return bound(**given)


def _check_arguments(group: str, target: str, bound: partial[Any], given: dict[str, Any]) -> None:
    try:
        signature = inspect.signature(bound.func)
    except ValueError:  # some types written in C have none; they tell by themselves
        return
    try:
        signature.bind(**bound.keywords, **given)
    except TypeError as error:
        raise ConfigError(f"{group}: {target} {error}; it takes: {', '.join(signature.parameters)}") from error


def _is_bug_in_module(error: InstantiationException) -> bool:
    """Tell whether the module was found and failed by itself, as opposed to not being there."""
    cause: BaseException | None = error
    while cause is not None and cause.__cause__ is not None:
        cause = cause.__cause__
    return not isinstance(cause, (ImportError, AttributeError, InstantiationException))
