"""Write docs/settings.md from the files in conf/ and the schema that checks them.

python docs/write_settings.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from cnn_sweeps.settings.schema import RunConfig, ScheduleConfig
from cnn_sweeps.settings.target_arguments import TARGET_ARGUMENTS

PAGE = Path(__file__).parent / "settings.md"
CONF = Path(__file__).parent.parent / "conf"
GROUPS = ("data", "model", "optimizer", "training", "regularization", "tracking", "search", "experiment", "ablation")
TYPES = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text", "null": "null"}
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
INTRODUCTION = """\
# Settings

Every setting with its default, what it may be and what it means. Change one with `key=value`, choose an option of a
group with `group=option`; `python -m cnn_sweeps.train --cfg job` shows what a command line composes to. A default of
`???` is set by another group. This page is written by `python docs/write_settings.py`, from `conf/` and the schema.
"""
SETTING = re.compile(r"^(?P<indent> *)(?P<key>[\w.]+):(?P<value>[^#]*)(?:# (?P<meaning>.*))?$")


def settings_page() -> str:
    """Give the page's text."""
    lines = [INTRODUCTION, "## In every configuration", "", *_table(CONF / "config.yaml", "")]
    for group in GROUPS:
        lines += ["", f"## {group}"]
        for file in sorted((CONF / group).glob("*.yaml")):
            is_global = "@package" in file.read_text().splitlines()[0]
            lines += ["", f"### {group}={file.stem}", "", *_header(file), ""]
            lines += _table(file, "" if is_global else f"{group}.")
    return "\n".join(lines) + "\n"


def _header(file: Path) -> Iterator[str]:
    """Give the comment at the top of a file, its commands as code and what it says of them as their comments."""
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            return
        text = line.removeprefix("# ").removeprefix("#")
        if text.startswith("  "):
            yield "\n    " + re.sub(r" {4,}", "   # ", text.strip())
        elif not text.startswith("@package"):
            yield text


def _table(file: Path, prefix: str) -> Iterator[str]:
    content = yaml.safe_load(file.read_text())
    target = content.get("_target_") or content.get("data", {}).get("_target_")
    allowed = _allowed_by_key(target)
    yield "| key | default | allowed | meaning |"
    yield "| --- | --- | --- | --- |"
    for key, value, meaning in _settings(file, prefix):
        told = (f"`{key}`", f"`{value}`", allowed.get(key, ""), meaning)
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in told)} |"


def _settings(file: Path, prefix: str) -> Iterator[tuple[str, str, str]]:
    """Give dotted key, value and comment of each leaf."""
    path: list[tuple[int, str, str]] = []
    for line in file.read_text().splitlines():
        found = SETTING.match(line)
        if not found or line.startswith("#"):
            continue
        indent, value, meaning = len(found["indent"]), found["value"].strip(), (found["meaning"] or "").strip()
        path = [*(each for each in path if each[0] < indent), (indent, found["key"], meaning)]
        is_setting = value and not any(key in ("hydra", "defaults", "_target_") for _, key, _ in path)
        if is_setting:
            of_group = "; ".join(text for _, _, text in path[:-1] if text)
            key = prefix + ".".join(key for _, key, _ in path)
            yield key.removeprefix("params."), value, meaning or of_group  # of a search preset


def _allowed_by_key(target: str | None) -> dict[str, str]:
    """Say of each dotted key what it may be; of those of data, model and optimizer under a target first."""
    schemas = [("", RunConfig), ("optimizer.", ScheduleConfig)]
    by_target = sorted(TARGET_ARGUMENTS.items(), key=lambda item: item[0] == target)
    for name, schema in by_target:
        group = {"data": "data.", "models": "model.", "optimizers": "optimizer."}[name.split(".")[1]]
        schemas.append((group, schema))
    return {key: text for prefix, schema in schemas for key, text in _leaves(schema, prefix)}


def _leaves(schema: Any, prefix: str) -> Iterator[tuple[str, str]]:
    whole = TypeAdapter(schema).json_schema()

    def walk(part: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
        for name, child in part.get("properties", {}).items():
            resolved = whole["$defs"][child["$ref"].split("/")[-1]] if "$ref" in child else child
            if "properties" in resolved:
                yield from walk(resolved, f"{path}{name}.")
            else:
                yield f"{path}{name}", _allowed(resolved)

    return walk(whole, prefix)


def _allowed(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_allowed(each) for each in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return f"list, each: {_allowed(schema.get('items', {})) or 'see there'}"
    bounds = [f"{word} {schema[name]}" for name, word in BOUNDS.items() if name in schema]
    return ", ".join([TYPES.get(str(schema.get("type")), ""), *bounds]).strip(", ")


if __name__ == "__main__":
    PAGE.write_text(settings_page(), encoding="utf-8")
