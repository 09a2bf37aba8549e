"""What `config` shows people: one key with all that is known of it, or the keys of the sections."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from typing import Any, TextIO


def print_keys(result: Mapping[str, Any], stdout: TextIO) -> None:
    """What `explain_config` returned; of several sections one line a key, of one section what each key means, too."""
    if "keys" not in result:
        _print_key(result, stdout)
        return
    sections, keys = result["sections"], result["keys"]
    if len(sections) == 1:
        [(name, about)] = sections.items()
        print(f"{name}: {about}", file=stdout)
        for key in keys:
            print(file=stdout)
            _print_key(key, stdout)
        return
    rows = [(key["key"], _default(key), key["expected"]) for key in keys]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    last = ""
    for name, default, expected in rows:
        section = name.rpartition(".")[0]
        if section != last:
            print(f"\n{section}: {sections[section]}", file=stdout)
            last = section
        print(f"  {name:<{widths[0]}}  {default:<{widths[1]}}  {expected}", file=stdout)
    print("\nunlearnrec config KEY or SECTION says what a key means.", file=stdout)


def _print_key(key: Mapping[str, Any], stdout: TextIO) -> None:
    print(f"{key['key']}  (default: {_default(key)}; {key['expected']})", file=stdout)
    print(textwrap.fill(key["about"], 100, initial_indent="  ", subsequent_indent="  "), file=stdout)


def _default(key: Mapping[str, Any]) -> str:
    """As YAML writes it."""
    if key["required"]:
        return "must be given"
    return key["default"] if isinstance(key["default"], str) else json.dumps(key["default"])
