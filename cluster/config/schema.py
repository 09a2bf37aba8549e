"""The configuration: one frozen model for each section. All of it is checked before any work starts.

An unknown key, a value of the wrong type or a value outside its range is an `InputError`, which names the dotted path, the
value and what would be right. The type and the range are written once, in the field; the messages are made from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from ...partitioning.errors import InputError
from .data_sections import Cluster, Columns, Partitioning, Storage
from .errors import explain
from .model_sections import Backbone, Evaluate, Influence, Pretrain, Train, Tune, Validation
from .request_sections import Drop, Evidence, Forget, Serve, Watch
from .section import Section
from .tracking_section import Tracking
from .yaml import parse_yaml, parse_yaml_value


class Config(Section):
    """Everything on which a run depends. Relative paths are relative to the working directory."""

    interactions: str
    """The table of interactions, local or on s3://: Parquet or CSV (a file or a folder), a Delta table (`delta://PLACE` or
    its folder) or an Iceberg table (`iceberg://CATALOG/NAMESPACE.TABLE` or its folder). `?version=`, `?snapshot=` or
    `?timestamp=` after it chooses a state (docs/lake.md)."""
    test_interactions: str | None = None
    """The table of held-out interactions for `evaluate`, with the same columns as `interactions`. If it has no column
    `columns.value`, every row counts."""
    output: str
    """The folder, local or on s3://, into which everything is written."""
    seed: int = Field(0, ge=0, lt=2**63)
    """The seed of all random draws. The same seed and data give the same result. Whoever knows it can tell far better what
    was forgotten (docs/audit.md): where that matters, take a large random number and keep it to yourself."""
    columns: Columns = Columns()
    storage: Storage = Storage()
    cluster: Cluster = Cluster()
    partitioning: Partitioning = Partitioning()
    backbone: Backbone = Backbone()
    train: Train = Train()
    validation: Validation = Validation()
    tune: Tune = Tune()
    influence: Influence = Influence()
    pretrain: Pretrain = Pretrain()
    forget: Forget = Forget()
    evaluate: Evaluate = Evaluate()
    evidence: Evidence = Evidence()
    serve: Serve = Serve()
    watch: Watch = Watch()
    drop: Drop = Drop()
    tracking: Tracking = Tracking()


def parse_config(values: Mapping[str, Any]) -> Config:
    """Check nested values and return them as a configuration.

    Raises:
        InputError: keys are unknown or missing, or values have the wrong type or are out of range. The message names each.
    """
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        raise InputError(explain(error, Config)) from None


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a YAML file with some values set on the command line.

    Args:
        path: the file. None: the defaults are taken, and `interactions` and `output` must be among the overrides.
        overrides: texts `section.key=value` with the value in YAML. Later ones replace earlier ones.

    Raises:
        InputError: the file is missing or is not a mapping, an override has no `=`, or as `parse_config`.
    """
    values = {} if path is None else read_values(path)
    for override in overrides:
        _set_override(values, override)
    return parse_config(values)


def read_values(path: str | Path) -> dict[str, Any]:
    """The nested values of a YAML file, not checked yet.

    Raises:
        InputError: the file is missing, or is not a mapping in YAML.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"configuration {str(path)!r}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"configuration {str(path)!r}: not a text file in UTF-8") from None
    return parse_yaml(text, str(path))


def _set_override(values: dict[str, Any], override: str) -> None:
    """Set one `section.key=value` in the nested values."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise InputError(f"{override!r} on the command line: expected section.key=value, such as train.epochs=10")
    place = values
    for depth, key in enumerate(keys[:-1], start=1):
        # A section written as `train:` with nothing below it is None in YAML, and means that all its keys have defaults.
        inner = place.get(key) or {}
        if not isinstance(inner, dict):
            raise InputError(f"{override!r} on the command line: {'.'.join(keys[:depth])} holds a value, not keys")
        place[key] = dict(inner)
        place = place[key]
    place[keys[-1]] = parse_yaml_value(text, override)


def to_yaml(config: Config) -> str:
    """The configuration as YAML with every default written out. `load_config` reads it back as an equal object."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
