"""What all sections of the configuration have in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """The base of all sections. They cannot be changed, do not convert types (`"3"` is not 3), and allow no unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def as_tuple(value: Any) -> Any:
    """A list of the YAML file as a tuple, as which a frozen section holds it; any other value as it is."""
    return tuple(value) if isinstance(value, list) else value
