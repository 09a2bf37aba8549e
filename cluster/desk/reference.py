"""The reference of the API as a page, made from its OpenAPI document: nothing is loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from .visits import Visit

METHODS = ("get", "post", "delete", "put", "patch")


@dataclass(frozen=True)
class Value:
    """A parameter of a call, or a field of a body or an answer."""

    name: str
    kind: str
    needed: bool
    text: str


def reference(visit: Visit, document: Mapping[str, Any]) -> Response:
    """The page. document: as `FastAPI.openapi` gives it."""
    return visit.page(
        "reference.html",
        calls=list(_calls(document)),
        schemas={name: _fields(schema) for name, schema in sorted(document["components"]["schemas"].items())},
        version=document["info"]["version"],
    )


def _calls(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Each call with what a reader needs: its address, words, parameters, body and answers."""
    for path, item in document["paths"].items():
        for method in filter(item.__contains__, METHODS):
            call = item[method]
            body = call.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            yield {
                "name": f"{method}-{path.strip('/').replace('/', '-').replace('{', '').replace('}', '')}",
                "method": method.upper(),
                "path": path,
                "text": " ".join(call.get("description", call.get("summary", "")).split()),
                "parameters": [
                    Value(one["name"], _kind(one["schema"]), one.get("required", False), one.get("description", ""))
                    for one in call.get("parameters", ())
                ],
                "body": None if body is None else _kind(body),
                "answers": [
                    (code, answer.get("description", ""), _answer_kind(answer))
                    for code, answer in sorted(call["responses"].items())
                ],
            }


def _answer_kind(answer: Mapping[str, Any]) -> str:
    found = [
        _kind(content["schema"]) or kind for kind, content in answer.get("content", {}).items() if "schema" in content
    ]
    return ", ".join(dict.fromkeys(found))


def _fields(schema: Mapping[str, Any]) -> list[Value]:
    needed = schema.get("required", ())
    return [
        Value(name, _kind(one), name in needed, " ".join(one.get("description", "").split()))
        for name, one in schema.get("properties", {}).items()
    ]


def _kind(schema: Mapping[str, Any]) -> str:
    """The type of a value in a few words: "list of integer or string", or the name of a schema."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if several := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(filter(None, map(_kind, several))))
    if "enum" in schema:
        return " or ".join(f'"{value}"' for value in schema["enum"])
    if "const" in schema:
        return f'"{schema["const"]}"'
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {})) or 'values'}"
    kind = str(schema.get("type", ""))
    return f"{kind} ({schema['format']})" if "format" in schema else kind
