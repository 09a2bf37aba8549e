"""The bodies that are taken over HTTP, for validation and for the OpenAPI document."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from ..layout import REQUEST_ID
from ..lifecycle.operators import LONGEST_NAME, OPERATOR
from ..requests.rows import RANGES, parse_row
from ..serving.callbacks import LONGEST_URL, MOST_URLS

Name = Annotated[str, Field(min_length=1, max_length=1024)]
Id = Annotated[int, Field(strict=True)] | Annotated[Name, Field(strict=True)]
_TIMES = [{"format": "date-time"}, {"format": "date"}, {"pattern": "^[+-]?[0-9]{1,18}$"}]
Time = (
    Annotated[int, Field(strict=True)]
    | Annotated[str, Field(strict=True, max_length=64), WithJsonSchema({"type": "string", "anyOf": _TIMES})]
)


class Identity(BaseModel):
    """OpenDSR's way to name a user."""

    model_config = ConfigDict(extra="forbid")

    identity_type: Literal["controller_customer_id"]
    identity_value: Name
    identity_format: Literal["raw"]


class Range(BaseModel):
    """A user's events in [since, until): numbers in the unit of the time column, or ISO-8601 (without a zone: UTC)."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "anyOf": [{"required": [n], "properties": {n: {"type": ["integer", "string"]}}} for n in ("since", "until")]
        },
    )

    user: Id
    item: Id | None = None
    since: Time | None = None
    until: Time | None = None

    @model_validator(mode="after")
    def _is_a_range(self) -> Range:
        row = parse_row(self.user, self.item, self.since, self.until)
        if isinstance(row, str) or row[0] != RANGES:
            raise ValueError(row if isinstance(row, str) else "has neither since nor until; give at least one")
        return self

    def range(self) -> Any:
        """As `NewRequest.ranges` has it."""
        return parse_row(self.user, self.item, self.since, self.until)[1]


NAMING = ("users", "items", "interactions", "ranges", "subject_identities")
"""The fields of a deletion that name what is to be forgotten; one of them must not be empty."""


class Deletion(BaseModel):
    """What is to be forgotten: users and items with all their interactions, single interactions, and time ranges."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        json_schema_extra={"anyOf": [{"required": [n], "properties": {n: {"minItems": 1}}} for n in NAMING]},
    )

    users: list[Id] = []
    items: list[Id] = []
    interactions: list[tuple[Id, Id]] = []
    ranges: list[Range] = []
    subject_identities: list[Identity] = []
    """More users to forget, named as OpenDSR does."""
    subject_request_id: Annotated[str, Field(pattern=f"^{REQUEST_ID.pattern}$")] | None = None
    """The id of the request, where its path has none."""
    status_callback_urls: Annotated[
        list[Annotated[str, Field(max_length=LONGEST_URL)]], Field(max_length=MOST_URLS)
    ] = []
    """These URLs are told of every change of the request's state."""
    subject_request_type: Literal["erasure"] = "erasure"
    api_version: Literal["2.0"] | None = None
    regulation: Literal["gdpr", "ccpa"] | None = None
    """Read and not kept."""
    submitted_time: datetime | None = None
    """Read and not kept."""

    @model_validator(mode="after")
    def _names_something(self) -> Deletion:
        if not any(getattr(self, name) for name in NAMING):
            raise ValueError("names no user, item, interaction or range; give at least one")
        return self


class Approval(BaseModel):
    """Who approves a held request, where no token says it."""

    model_config = ConfigDict(extra="forbid")

    by: Annotated[str, Field(pattern=f"^{OPERATOR.pattern}$", max_length=LONGEST_NAME)]
