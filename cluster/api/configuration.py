"""The configuration of a session: a YAML file or nested values, with keywords on top, and tables in the place of paths."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
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


def with_grid(config: Config, grid: Mapping[str, Sequence[Any]]) -> Config:
    """The configuration with this grid to tune over: values by key.

    Raises:
        InputError: it is no such mapping.
    """
    if not isinstance(grid, Mapping) or not grid:
        raise InputError(
            f"train: tune: got {type(grid).__name__}, expected True or values by key, such as "
            '{"train.learning_rate": [0.003, 0.01]}'
        )
    listed = {key: list(_values(key, values)) for key, values in grid.items()}
    return parse_config(config.model_dump() | {"tune": {"grid": listed}})


def _values(key: str, values: Any) -> Sequence[Any]:
    if hasattr(values, "tolist"):  # np.logspace(-3, -1, 3)
        values = values.tolist()
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise InputError(f"train: tune: {key}: got {values!r}, expected a list of values to try")
    return values


def _path_as_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value
