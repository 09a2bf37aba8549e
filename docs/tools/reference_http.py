"""The HTTP interface, from the OpenAPI document that `serve` answers under /openapi.json."""

from __future__ import annotations

from typing import Any, cast

from unlearnrec.cluster.http.admission import AdmissionRules
from unlearnrec.cluster.http.app import make_app
from unlearnrec.cluster.serving.callbacks import url_pattern

HEAD = """# HTTP

Every call of `unlearnrec serve`, made from the code of this version. [Serving](../serving.md) says how they are meant, which
token may make them, and what survives a crash. The same as a document for machines: [openapi.json](openapi.json), which a
running service has under `/openapi.json`.
"""
METHODS = ("get", "post", "put", "patch", "delete")
ADMISSION = {"400", "401", "413", "429"}
"""Answers that every call may have; they are described once."""
EVERYWHERE = """Every call may be refused with 400 (no readable request), 401 (no known token), 413 (the body is too long) or
429 (too many calls, or too many open requests; the header `Retry-After` has the seconds to wait). What else a call may be
refused with stands below it. The body of every refusal is a [`Refusal`](#refusal).
"""


def openapi() -> dict[str, Any]:
    """The document of a service with tokens that calls one host back. No service is needed to describe it."""
    pattern = url_pattern(["desk.example"])
    return make_app(cast(Any, None), AdmissionRules((), 1, 1, 1), pattern).openapi()


def http_page(described: dict[str, Any]) -> str:
    """Markdown: a heading for each call, and one for each shape of a body."""
    lines = [HEAD, "## Calls", "", EVERYWHERE]
    for path, calls in described["paths"].items():
        for method in METHODS:
            if method in calls:
                lines += _call(method, path, calls[method])
    lines += ["## Shapes", ""]
    for name, schema in described["components"]["schemas"].items():
        lines += _shape(name, schema)
    return "\n".join(lines) + "\n"


def _call(method: str, path: str, call: dict[str, Any]) -> list[str]:
    lines = [f"### {method.upper()} {path}", ""]
    if call.get("description"):
        lines += [call["description"], ""]
    parameters = call.get("parameters", [])
    if parameters:
        lines += ["| parameter | in | is |", "|---|---|---|"]
        lines += [f"| `{p['name']}` | {p['in']} | {_type(p['schema'])} |" for p in parameters]
        lines.append("")
    if body := call.get("requestBody"):
        lines += [f"Body: {_content(body)}", ""]
    refused = []
    for code, answer in sorted(call["responses"].items()):
        if code in ADMISSION:
            continue
        if _content(answer) == _type({"$ref": "/Refusal"}):
            refused.append(code)
        else:
            lines.append(f"- {code}: {_content(answer) or answer.get('description', '')}")
    if refused:
        lines.append(f"- refused: {', '.join(refused)}")
    return [*lines, ""]


def _content(part: dict[str, Any]) -> str:
    return ", ".join(_type(content["schema"]) for content in part.get("content", {}).values() if "schema" in content)


def _shape(name: str, schema: dict[str, Any]) -> list[str]:
    lines = [f"### {name}", ""]
    if schema.get("description"):
        lines += [" ".join(schema["description"].split()), ""]
    fields = schema.get("properties", {})
    if fields:
        lines += ["| field | is | |", "|---|---|---|"]
        for field, what in fields.items():
            need = "must be given. " if field in schema.get("required", ()) else ""
            about = " ".join(what.get("description", "").split())
            lines.append(f"| `{field}` | {_type(what)} | {need}{about} |")
        lines.append("")
    return lines


def _type(schema: dict[str, Any]) -> str:
    """In words, with links to the shapes of this page; safe in a cell of a table."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[`{name}`](#{name.lower()})"
    if "const" in schema:
        return f'`"{schema["const"]}"`'
    if "enum" in schema:
        return " or ".join(f'`"{value}"`' for value in schema["enum"])
    for key in ("anyOf", "oneOf"):
        if key in schema and "type" not in schema:
            return " or ".join(dict.fromkeys(_type(one) for one in schema[key]))
    kind = schema.get("type", "anything")
    if kind == "array":
        if "prefixItems" in schema:
            return "list of (" + ", ".join(_type(one) for one in schema["prefixItems"]) + ")"
        return f"list of {_type(schema['items'])}" if "items" in schema else "list"
    text = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false"}.get(kind, str(kind))
    if "format" in schema:
        text += f" ({schema['format']})"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        text += f", {low} to {high}"
    return (
        text if "default" not in schema or schema["default"] in (None, []) else f"{text}, default `{schema['default']}`"
    )
