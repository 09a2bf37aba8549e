"""`config`: what a key of the configuration means; reads no configuration."""

from __future__ import annotations

from typing import Any

from ..config.keys import Key, all_keys, find_keys
from ..config.schema import Config


def explain_config(path: str | None) -> dict[str, Any]:
    """All keys, or the one of this path, or those of the section of this path.

    Returns:
        `keys`: a list of {key, required, default, expected, about}, and `sections`, what each section is for: {name: text}.
        Of one key these themselves.

    Raises:
        InputError: no such key; names near ones.
    """
    if path is None:
        keys = all_keys(Config)
        # Where a section may be left out altogether, its keys are told when one asks for it.
        closed = [key.path for key in keys if key.optional]
        keys = [key for key in keys if not any(key.path.startswith(f"{name}.") for name in closed)]
    else:
        keys = find_keys(Config, path)
        if not keys[0].section:
            return _row(keys[0])
    return {
        "sections": {key.path: key.about for key in keys if key.section and not (path is None and key.optional)},
        "keys": [_row(key) for key in keys if not key.section or (path is None and key.optional)],
    }


def _row(key: Key) -> dict[str, Any]:
    names = ("required", "default", "expected", "about")
    return {"key": key.path} | {name: getattr(key, name) for name in names}
