"""The definition of a study, kept with it; tells whether another sweep may go on with the study."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import (
    CategoricalDistribution,
    check_distribution_compatibility,
    distribution_to_json,
    json_to_distribution,
)
from optuna.trial import TrialState
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from cnn_sweeps.errors import StudyError, describe_error
from cnn_sweeps.sweep.settings import SweepSettings
from cnn_sweeps.sweep.space import SearchSpace
from cnn_sweeps.text.numbers import counted

DEFINITION = "definition"
"""The user attribute of the study that holds it."""


class StudyDefinition(TypedDict):
    """What a study is for, in JSON types: directions, space, and the settings that all trials share."""

    directions: list[str]
    space: dict[str, dict[str, Any]]
    settings: dict[str, Any]


def define_study(space: SearchSpace, directions: Sequence[str], shared_settings: dict[str, Any]) -> StudyDefinition:
    """Return the definition of a sweep's study."""
    return {
        "directions": list(directions),
        "space": {key: json.loads(distribution_to_json(each)) for key, each in space.distributions.items()},
        "settings": json.loads(json.dumps(shared_settings, default=str)),
    }


def check_definition(study_name: str, definition: Any) -> None:
    """Check the definition that a study has.

    Raises:
        StudyError: if it is not valid.
    """
    try:
        for each in TypeAdapter(StudyDefinition).validate_python(definition)["space"].values():
            json_to_distribution(json.dumps(each))
    except (LookupError, TypeError, ValueError) as error:
        raise StudyError(
            f"{study_name}: the study's attribute {DEFINITION} is not valid ({describe_error(error)}); "
            "name another study"
        ) from error


def read_definition(study: optuna.Study, now: StudyDefinition) -> StudyDefinition:
    """Return the definition of a study; a new study, which may have waiting trials, gets that of the current sweep.

    Raises:
        StudyError: if it is not valid, or another program has run trials in the study.
    """
    if (noted := study.user_attrs.get(DEFINITION)) is None:
        if num_foreign := sum(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False)):
            raise StudyError(
                f"hydra.sweeper.study_name={study.study_name}: this storage has a study of another program by that "
                f"name, with {counted(num_foreign, 'trial')}; choose another hydra.sweeper.study_name"
            )
        return {**now, "directions": [each.name.lower() for each in study.directions]}
    check_definition(study.study_name, noted)
    definition: StudyDefinition = noted
    return definition


def settings_id_of(settings: dict[str, Any]) -> str:
    """Return a digest of the settings in a study's definition, 12 hexadecimal digits."""
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def why_not_continued(before: StudyDefinition, now: StudyDefinition, on_change: str) -> str | None:
    """Say why a sweep cannot go on with a study that has the definition `before`; None if it can.

    With `on_change="continue"` only changes that Optuna cannot make are a reason.
    """
    changes, obstacles = _differences(before, now), _obstacles(before, now)
    if not changes or (on_change == "continue" and not obstacles):
        return None
    advice = "choose another hydra.sweeper.study_name"
    cannot = f"Optuna cannot continue with another {' or '.join(obstacles)}; {advice}"
    advice = cannot if obstacles else f"{advice}, or set hydra.sweeper.on_change=continue"
    return f"the study was made for another sweep ({'; '.join(changes)}); {advice}"


def _differences(before: StudyDefinition, now: StudyDefinition) -> list[str]:
    parts: list[tuple[dict[str, Any], dict[str, Any], Any]] = [
        ({"direction": before["directions"]}, {"direction": now["directions"]}, ", ".join),
        (before["space"], now["space"], _show_distribution),
        (before["settings"], now["settings"], str),
    ]
    changes = []
    for old, new, show in parts:
        for key in sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key)):
            was, becomes = ("-" if each.get(key) is None else show(each[key]) for each in (old, new))
            changes.append(f"{key}: {was} -> {becomes}")
    return changes


def _obstacles(before: StudyDefinition, now: StudyDefinition) -> list[str]:
    """Name the changes that Optuna cannot make in a study."""
    obstacles = ["direction"] if before["directions"] != now["directions"] else []
    for key in before["space"].keys() & now["space"].keys():
        old, new = (json_to_distribution(json.dumps(each["space"][key])) for each in (before, now))
        try:
            check_distribution_compatibility(old, new)
        except ValueError:
            is_list = any(isinstance(each, CategoricalDistribution) for each in (old, new))
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
    """Describe a sweep in words: search space, sampler, pruner, direction and storage."""
    searched = define_study(space, settings.direction, {})["space"]
    return {
        "search space": "; ".join(f"{key} in {_show_distribution(each)}" for key, each in searched.items()),
        "sampler": str(settings.sampler.get("_target_")),
        "pruner": str(settings.pruner.get("_target_")),
        "direction": ", ".join(settings.direction),
        "storage": settings.address.shown,
    }
