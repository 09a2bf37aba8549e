"""The answers over HTTP: their shapes, for the OpenAPI document and for clients, and how a dict becomes one."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from fastapi import Response
from pydantic import BaseModel, ConfigDict
from pydantic_core import to_json


class RequestState(BaseModel):
    """Where a request is. Once it is carried out, the numbers of its answer stand beside these."""

    model_config = ConfigDict(extra="allow")

    api_version: Literal["2.0"]
    subject_request_id: str
    request_status: Literal["pending", "in_progress", "completed", "cancelled"]
    """OpenDSR's word for `status`."""
    status: str
    received_time: datetime
    request_id: str
    phase: str
    version: int | None
    cancellable_until: datetime | None = None
    expected_completion_time: datetime | None = None
    """When it becomes overdue."""
    matched: bool | None = None
    """False: none of the ids that were named is known. They may be mistyped."""
    removed_interactions: int | None = None
    requester: str | None = None
    """The name of the token that the request came with."""
    share: float | None = None
    """The share of the interactions that it removes, for which it was held."""
    approved_by: str | None = None
    error: str | None = None
    evidence_failed: list[str] | None = None
    """The checks after the commit that failed; absent as long as there is no evidence."""
    checks: Literal["pending"] | None = None
    """"pending": it is carried out, and the evidence of it is not written yet. Else absent."""
    repeated: bool | None = None
    """Whether the request was there already, so that this call changed nothing."""


class RequestPage(BaseModel):
    """A page of requests in the order that was asked for."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    api_version: Literal["2.0"]
    requests: list[RequestState]
    next_cursor: str | None
    """The `cursor` of the next page; null after the last one."""


class Step(BaseModel):
    """Something that happened to a request. What more is known of it stands beside these."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    step: Literal[
        "received",
        "held",
        "approved",
        "matched",
        "carried_out",
        "checked",
        "receipt",
        "cancelled",
        "failed",
        "received_again",
    ]
    at: datetime | None
    """null where a checkpoint of an earlier release stands for it."""
    by: str | None
    """Who did it: the name of a token, or the name that was given."""


class DocumentEntry(BaseModel):
    """A document about a request."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    document: str
    """Its name behind `/v1/requests/{request_id}/evidence/`."""
    file: str
    """Its file under the output."""
    media_type: str
    sha256: str | None
    """As a record of the log fixes it; null where none does."""


class RequestEvidence(BaseModel):
    """What happened to a request, and the documents that show it."""

    api_version: Literal["2.0"]
    request: RequestState
    steps: list[Step]
    documents: list[DocumentEntry]


class SupportedIdentity(BaseModel):
    """A way in which users may be named."""

    identity_type: str
    identity_format: str


class Discovery(BaseModel):
    """What of OpenDSR is supported."""

    api_version: Literal["2.0"]
    supported_identities: list[SupportedIdentity]
    supported_subject_request_types: list[str]


class Recommendation(BaseModel):
    """One recommended item; the best has rank 1."""

    item_id: int | str
    score: float
    rank: int


class Recommendations(BaseModel):
    """The recommendations for one user from this version, best first."""

    version: int
    recommendations: list[Recommendation]


class Health(BaseModel):
    """Whether recommendations are answered, from which version, and what keeps requests waiting."""

    status: Literal["ok", "starting"]
    version: int | None
    blocked: str | None
    watch_blocked: str | None = None
    """What keeps deletions in the table that is followed (`watch.table`) from becoming requests."""


def json_answer(content: dict[str, Any], status_code: int = 200) -> Response:
    """A JSON answer, made here because FastAPI would first validate what a function returns, in another thread."""
    return Response(to_json(content, inf_nan_mode="null"), status_code, media_type="application/json")
