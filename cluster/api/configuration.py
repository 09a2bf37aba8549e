"""The configuration of a session: a YAML file or nested values, with keywords on top, and tables in the place of paths."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ...partitioning.errors import InputError
from ..config.schema import Config, parse_config, read_values

TABLES = ("interactions", "test_interactions")
"""The keys that may hold a table in memory in the place of a path."""

ConfigLike = str | os.PathLike[str] | Mapping[str, Any] | Config | None


def nested_values(config: ConfigLike, sections: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a configuration with `sections` put over them. A section in both has the keys of both; where a key is
    in both too, that of `sections` counts.

    Raises:
        InputError: the file is missing or no YAML, or `config` is something else than a file or a mapping.
    """
    if isinstance(config, Config):
        values = config.model_dump(exclude_unset=True)
    elif isinstance(config, Mapping):
        values = dict(config)
    elif isinstance(config, str | os.PathLike):
        values = read_values(os.fspath(config))
    elif config is None:
        values = {}
    else:
        raise InputError(
            f"Session: got {type(config).__name__}, expected the path of a YAML file or a dictionary. A table is given as "
            "interactions=TABLE"
        )
    for key, value in sections.items():
        before = values.get(key)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        values[key] = {**before, **value} if both else _path_as_text(value)  # type: ignore[dict-item]
    return {key: _path_as_text(value) for key, value in values.items()}


def split_tables(values: Mapping[str, Any]) -> tuple[Config, dict[str, Any]]:
    """(the configuration, the tables in memory by their key). In the configuration a table's path is "" for the present.

    Raises:
        InputError: as `parse_config`.
    """
    tables = {key: values[key] for key in TABLES if key in values and not isinstance(values[key], str | None)}
    return parse_config({**values, **dict.fromkeys(tables, "")}), tables


def _path_as_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value
