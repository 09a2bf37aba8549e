"""Read YAML as people write configurations: `1e-3` is a number, and a repeated key is an error."""

from __future__ import annotations

import re
from typing import Any

import yaml

from ...partitioning.errors import InputError


class _Loader(yaml.SafeLoader):
    """A loader that differs from PyYAML's in two points. PyYAML reads YAML 1.1: there `1e-3` is a string, and of two equal
    keys the second one replaces the first without an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                problem = f"the key {key!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """The mapping in `text`; {} for an empty document. source: the name of the text in messages.

    Raises:
        InputError: the text is not YAML, or not a mapping.
    """
    values = parse_yaml_value(text, source)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"configuration {source!r}: expected `key: value` lines, got {type(values).__name__}")
    # `train:` with every line below it commented out means the defaults of that section, not the value null.
    return {key: value for key, value in values.items() if value is not None}


def parse_yaml_value(text: str, source: str) -> Any:
    """The value that `text` has as YAML. source: the name of the text in messages; for the part of an override after its
    `=`, the whole override.

    Raises:
        InputError: the text is not YAML. The message says where.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(f"{source!r}{place}: not valid YAML: {getattr(error, 'problem', error)}") from None
