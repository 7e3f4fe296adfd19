"""What a study was made for, kept with it, and whether a sweep that would go on with it still fits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from optuna.distributions import distribution_to_json
from pydantic import BaseModel, ValidationError

from cnn_sweeps.errors import StudyError
from cnn_sweeps.sweep.settings import SweepSettings
from cnn_sweeps.sweep.space import SearchSpace

DEFINITION = "definition"
"""The study's attribute that holds it."""


class _Attributes(BaseModel):
    choices: list[Any] | None = None
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None


class _Distribution(BaseModel):
    name: str
    attributes: _Attributes


class _Definition(BaseModel):
    directions: list[str]
    space: dict[str, _Distribution]
    settings: dict[str, Any]


def define_study(space: SearchSpace, directions: Sequence[str], kept_settings: dict[str, Any]) -> dict[str, Any]:
    """Give what makes a sweep another one, in JSON types: directions, space, and the settings that all trials share."""
    return {
        "directions": list(directions),
        "space": {key: json.loads(distribution_to_json(each)) for key, each in space.distributions.items()},
        "settings": json.loads(json.dumps(kept_settings, default=str)),
    }


def check_definition(study_name: str, definition: Any) -> None:
    """See that what a study has as its definition is one.

    Raises:
        StudyError: if it is not.
    """
    try:
        _Definition.model_validate(definition)
    except ValidationError as error:
        reason = error.errors()[0]
        place = ".".join(map(str, reason["loc"][:1]))
        raise StudyError(
            f"{study_name}: the study's attribute {DEFINITION} makes no sense ({place}: {reason['msg']}); "
            "name another study"
        ) from error


def settings_id_of(settings: dict[str, Any]) -> str:
    """Give what tells a study's settings, as its definition has them, from others."""
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def why_not_continued(before: dict[str, Any], now: dict[str, Any], on_change: str) -> str | None:
    """Say what keeps a sweep from going on with a study, and what to do; None if nothing does.

    Args:
        before: what the study was made for.
        now: what the sweep is for.
        on_change: "refuse" or "continue", which goes on where Optuna can.
    """
    changes, obstacles = _differences(before, now), _obstacles(before, now)
    if not changes or (on_change == "continue" and not obstacles):
        return None
    advice = (
        f"Optuna cannot continue with another {' or '.join(obstacles)}; choose another hydra.sweeper.study_name"
        if obstacles
        else "choose another hydra.sweeper.study_name, or hydra.sweeper.on_change=continue"
    )
    return f"was made for another sweep ({'; '.join(changes)}); {advice}"


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    changes = []
    if before["directions"] != now["directions"]:
        changes.append(f"direction: {', '.join(before['directions'])} -> {', '.join(now['directions'])}")
    for part, show in (("space", _show_distribution), ("settings", str)):
        for key in sorted(before[part].keys() | now[part].keys()):
            old, new = before[part].get(key), now[part].get(key)
            if old != new:
                changes.append(f"{key}: {'-' if old is None else show(old)} -> {'-' if new is None else show(new)}")
    return changes


def _obstacles(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Name what Optuna cannot change in a study."""
    obstacles = ["direction"] if before["directions"] != now["directions"] else []
    for key in before["space"].keys() & now["space"].keys():
        old, new = before["space"][key], now["space"][key]
        is_list = "CategoricalDistribution" in (old["name"], new["name"])
        is_other_type = (old["name"], old["attributes"].get("log")) != (new["name"], new["attributes"].get("log"))
        if old != new and (is_list or is_other_type):
            obstacles.append(f"list of values of {key}" if is_list else f"type of {key}")
    return obstacles


def _show_distribution(distribution: dict[str, Any]) -> str:
    attributes = distribution["attributes"]
    if "choices" in attributes:
        return f"choice({','.join(str(choice) for choice in attributes['choices'])})"
    told = ", log" if attributes["log"] else ""
    told += f", step {attributes['step']:g}" if attributes["step"] not in (None, 1) else ""
    return f"[{attributes['low']:g}, {attributes['high']:g}{told}]"


def describe_study(settings: SweepSettings, space: SearchSpace) -> dict[str, str]:
    """Say in plain words what a sweep searches, how and where it is kept."""
    return {
        "search space": "; ".join(
            f"{key} in {_show_distribution(json.loads(distribution_to_json(each)))}"
            for key, each in space.distributions.items()
        ),
        "sampler": str(settings.sampler.get("_target_")),
        "pruner": str(settings.pruner.get("_target_")),
        "direction": ", ".join(settings.direction),
        "storage": settings.address.shown,
    }
