"""The keys of the configuration, as the models of the sections have them: their types, defaults and meanings."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from ...partitioning.errors import InputError
from .errors import expected, section_of


@dataclass(frozen=True)
class Key:
    """One key. `default` is as JSON has it."""

    path: str
    """Dotted: `train.epochs`."""
    about: str
    """Its docstring, as one paragraph."""
    expected: str
    """What may stand there, in words."""
    default: Any
    required: bool
    """There is no default; it must be given."""
    section: bool
    """It holds keys, not a value."""
    optional: bool = False
    """A section that is null where nobody writes it."""


def all_keys(model: type[BaseModel]) -> list[Key]:
    """Every key and section, those of a section right behind it, in the order of the models."""
    schema = model.model_json_schema()
    return list(_walk(schema, schema, ""))


def find_keys(model: type[BaseModel], path: str) -> list[Key]:
    """The key of this path; of a section it and all keys in it.

    Raises:
        InputError: there is no such key; names those that look like it.
    """
    keys = {key.path: key for key in all_keys(model)}
    if path in keys:
        return [key for name, key in keys.items() if name == path or name.startswith(f"{path}.")]
    raise InputError(f"config {path}: no such key{_near(path, list(keys))} `unlearnrec config` lists all")


def _near(path: str, known: list[str]) -> str:
    """The end of the sentence: keys that may be meant, of the same last word anywhere, else spelt alike."""
    word = path.rpartition(".")[2]
    same = [name for name in known if name.rpartition(".")[2] == word]
    if not same:
        words = difflib.get_close_matches(word, {name.rpartition(".")[2] for name in known}, n=2)
        same = [name for name in known if name.rpartition(".")[2] in words]
        # The section that was named goes first: `train.epoch` is meant for train.epochs, not pretrain.epochs.
        same.sort(key=lambda name: -difflib.SequenceMatcher(None, name, path).ratio())
    close = same[:4] or difflib.get_close_matches(path, known, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else "."


def _walk(node: dict[str, Any], schema: dict[str, Any], prefix: str) -> Iterator[Key]:
    for name, field in node["properties"].items():
        inner = section_of(field, schema)
        is_section = "properties" in inner
        optional = is_section and "anyOf" in field
        about = field.get("description") or (inner.get("description", "") if is_section else "")
        words = ("null or a section" if optional else "a section") if is_section else expected(field, schema)
        required = name in node.get("required", ())
        about = " ".join(about.split())
        yield Key(prefix + name, about, words, field.get("default"), required, is_section, optional)
        if is_section:
            yield from _walk(inner, schema, f"{prefix}{name}.")
