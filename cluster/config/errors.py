"""Turn pydantic's errors into lines for the user: the dotted path of the key, the value, and what would be right there."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Everything that is wrong with a configuration, one line each: `train.epochs: got 0, expected an integer >= 1`."""
    schema = model.model_json_schema()
    lines = [_error_line(dict(entry), schema) for entry in error.errors()]
    # One value may violate several branches of a union (`int | None`). One line is enough for all of them.
    return "configuration: " + "\n  ".join(dict.fromkeys(lines))


def _error_line(entry: dict[str, Any], schema: dict[str, Any]) -> str:
    """The line for one of pydantic's errors. schema: the JSON schema of the whole configuration."""
    # In a union, the location also contains pydantic's own names of the branches. The user wrote only keys and positions.
    path, node = _locate(entry["loc"], schema)
    dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    if entry["type"] == "extra_forbidden":
        return _unknown_key(dotted, path, schema)
    if entry["type"] == "missing":
        return f"{dotted}: missing; expected {expected(node, schema)} ({node.get('description', '').strip()})"
    if entry["type"] == "value_error":
        return str(entry["ctx"]["error"])
    value = list(entry["input"]) if isinstance(entry["input"], tuple) else entry["input"]
    got = "null" if value is None else f"{value!r} ({type(value).__name__})"
    return f"{dotted}: got {got}, expected {expected(node, schema)}"


def _unknown_key(dotted: str, path: Sequence[str | int], schema: dict[str, Any]) -> str:
    """The line for a key that does not exist, with the nearest name and all names of its section."""
    _, parent = _locate(path[:-1], schema)
    known = list(section_of(parent, schema).get("properties", {}))
    close = difflib.get_close_matches(str(path[-1]), known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{dotted}: unknown key{hint} (here: {', '.join(known)})"


def resolved(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The node, or the one that it refers to."""
    reference = node.get("$ref")
    return schema["$defs"][reference.rsplit("/", 1)[1]] if reference else node


def section_of(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The node, or the section that may stand there beside null."""
    branches = [resolved(branch, schema) for branch in node.get("anyOf", ())]
    return next((branch for branch in branches if "properties" in branch), resolved(node, schema))


def _locate(location: Sequence[str | int], schema: dict[str, Any]) -> tuple[list[str | int], dict[str, Any]]:
    """(the part of a location that the user wrote, the schema's node there). The node is {} for an unknown key."""
    path: list[str | int] = []
    node = schema
    for part in location:
        node = section_of(node, schema)
        if "properties" in node:
            path.append(part)
            node = node["properties"].get(part, {})
        elif isinstance(part, int):
            path.append(part)
            node = node.get("items", {})
    return path, node


def expected(node: dict[str, Any], schema: dict[str, Any]) -> str:
    """What may stand there, in words, from the JSON schema."""
    node = resolved(node, schema)
    if "anyOf" in node:
        return " or ".join(expected(branch, schema) for branch in node["anyOf"])
    if "enum" in node:
        return "one of " + ", ".join(map(str, node["enum"]))
    if node.get("type") == "array":
        least = f"at least {node['minItems']} " if node.get("minItems") else ""
        return f"a list of {least}values, each {expected(node['items'], schema)}"
    words = {"integer": "an integer", "number": "a number", "string": "a string", "boolean": "true or false"}
    keys = ", ".join(node.get("properties", {}))
    words |= {"null": "null", "object": f"a section with keys {keys}" if keys else "keys with values"}
    bounds = [
        f"{sign} {node[key]}"
        for key, sign in (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
        if key in node
    ]
    return " ".join([words.get(node.get("type", ""), "another value"), " and ".join(bounds)]).strip()
