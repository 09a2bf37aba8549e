"""The public names of the package, from their signatures and docstrings."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import unlearnrec
from unlearnrec.cluster.api import embeddings, results

HEAD = """# Python

The public names of `unlearnrec`, made from the code of this version. [From Python](../python.md) says how they are used
together. Every result also has the keys that `--json` prints, as `result["recall@20"]`.
"""
NOT_SHOWN = {"of"}
"""Methods of the results that only this package calls."""


def python_page() -> str:
    """Markdown: a heading for each class, with its methods and fields."""
    lines = [HEAD]
    for name in sorted(set(unlearnrec.__all__) - {"__version__"}, key=_order):
        lines += _class(getattr(unlearnrec, name), f"unlearnrec.{name}")
    lines += ["## Results", ""]
    shown = [one for _, one in inspect.getmembers(results, inspect.isclass) if one.__module__ == results.__name__]
    for one in sorted([*shown, embeddings.Embeddings], key=lambda one: inspect.getsourcelines(one)[1]):
        lines += _class(one, one.__name__, level=3)
    return "\n".join(lines) + "\n"


def _order(name: str) -> tuple[int, str]:
    first = ("Session", "ForgetRequest", "InputError", "SessionClosed")
    return (first.index(name) if name in first else len(first), name)


def _class(one: type[Any], title: str, level: int = 2) -> list[str]:
    lines = [f"{'#' * level} {title}", ""]
    if _has_own_init(one):
        lines += ["```python", _signature(title, one.__init__), "```", ""]
    lines += [_prose(inspect.getdoc(one) or ""), ""]
    if _has_own_init(one):
        lines += [_prose(inspect.getdoc(one.__init__) or ""), ""]
    lines += _fields(one)
    for name, member in _members(one):
        if isinstance(member, property):
            lines += [f"{'#' * (level + 1)} {name}", "", f"*attribute* `{_annotation(member.fget)}`", ""]
            lines += [_prose(inspect.getdoc(member) or ""), ""]
        else:
            lines += [f"{'#' * (level + 1)} {name}", "", "```python", _signature(name, member), "```", ""]
            lines += [_prose(inspect.getdoc(member) or ""), ""]
    return lines


def _has_own_init(one: type[Any]) -> bool:
    return not is_dataclass(one) and not issubclass(one, Exception) and inspect.isfunction(one.__init__)


def _members(one: type[Any]) -> Iterator[tuple[str, Any]]:
    """Public methods and properties of the class and of those of this package above it, in the order of the source."""
    seen: dict[str, Any] = {}
    for owner in one.__mro__:
        # What all results have is told once, at their base.
        if owner.__module__.startswith("unlearnrec.") and (owner is not results.Result or one is owner):
            for name, member in vars(owner).items():
                plain = inspect.isfunction(member) or isinstance(member, property)
                if plain and not name.startswith("_") and name not in NOT_SHOWN and name not in seen:
                    seen[name] = member
    return iter(seen.items())


def _fields(one: type[Any]) -> list[str]:
    if not is_dataclass(one):
        return []
    about, own = _field_texts(one), inspect.get_annotations(one)
    rows = [
        f"| `{f.name}` | `{f.type}` | {about.get(f.name, '')} |".replace(" | None`", r" \| None`")
        for f in fields(one)
        if f.name in own
    ]
    return ["| field | type | |", "|---|---|---|", *rows, ""] if rows else []


def _field_texts(one: type[Any]) -> dict[str, str]:
    """Name of a field -> the text that stands below it in the source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(about))):
                found[name] = " ".join(about.split()).replace("|", r"\|")
    return found


def _signature(name: str, function: Any) -> str:
    """As it is written in code, without `self`; long ones with a line for each argument."""
    signature = inspect.signature(function)
    given = [p for p in signature.parameters.values() if p.name != "self"]
    returned = signature.return_annotation
    ends = "" if returned in (inspect.Parameter.empty, "None") else f" -> {_text(returned)}"
    parts: list[str] = []
    starred = False
    for p in given:
        starred |= p.kind is p.VAR_POSITIONAL
        if p.kind is p.KEYWORD_ONLY and not starred:
            parts.append("*")
            starred = True
        parts.append(str(p).replace("'", ""))
    line = f"{name}({', '.join(parts)}){ends}"
    return line if len(line) <= 76 else f"{name}(\n    " + ",\n    ".join(parts) + f",\n){ends}"


def _annotation(function: Any) -> str:
    return _text(inspect.signature(function).return_annotation)


def _text(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _prose(doc: str) -> str:
    """A docstring as Markdown: its sections as bold words, their entries as a list."""
    lines: list[str] = []
    inside = False
    for line in doc.splitlines():
        section = re.fullmatch(r"(Args|Returns|Raises|Attributes|Shapes|Yields):", line)
        entry = re.match(r" {4}([\w*, .\[\]]+): (.*)", line) if inside else None
        if section:
            inside = True
            lines += ["", f"**{section.group(1)}**", ""]
        elif entry:
            lines.append(f"- `{entry.group(1)}`: {entry.group(2)}")
        elif inside and line.startswith("    "):
            lines.append("  " + line.strip())
        else:
            inside = inside and not line.strip()
            lines.append(line)
    return "\n".join(lines).replace("<", "&lt;")
