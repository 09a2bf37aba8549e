"""The routes that show what became of requests: a list in pages, and the evidence of one."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Path, Query, Response
from pydantic import BeforeValidator
from starlette.exceptions import HTTPException

from ..layout import REQUEST_ID
from ..output.tickets import State
from ..serving.callbacks import API_VERSION
from ..serving.documents import DOCUMENT, Document
from ..serving.interface import DeskInterface
from ..serving.listing import MOST, Key, RequestQuery
from .answers import RequestEvidence, RequestPage, json_answer
from .errors import documented_errors
from .request_routes import UNKNOWN, RequestId
from .scopes import needs_scope

CURSOR = rf"[0-9]{{1,12}}\.[0-9]{{1,6}}~{REQUEST_ID.pattern}"
StateName = Literal["accepted", "held", "failed", "committed", "completed", "cancelled"]
Text = Annotated[str, Query(max_length=128, description="Only requests whose id has this text somewhere.")]


def _written(value: Any) -> Any:
    """Refuse a number, which pydantic would take for seconds since 1970."""
    if isinstance(value, str) and not re.match(r"\d{4}-\d\d-\d\d", value):
        raise ValueError("write a moment such as 2026-11-30T12:00:00Z")
    return value


DueBefore = Annotated[
    datetime | None,
    BeforeValidator(_written),
    Query(description="Only requests without an answer that become overdue before this moment (without a zone: UTC)."),
]
SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""The content policy of a page under `reports/`, which has its style within it, and runs nothing."""


def add_list_route(app: FastAPI, service: DeskInterface) -> None:
    """The list of requests."""

    @app.get(
        "/v1/requests",
        dependencies=[needs_scope("requests:read")],
        responses={200: {"model": RequestPage}, **documented_errors(403, 422, 503)},
    )
    def list_requests(
        state: Annotated[list[StateName], Query(description="Only requests in one of these states.")] = [],  # noqa: B006
        due_before: DueBefore = None,
        text: Text = "",
        evidence_failed: Annotated[
            bool, Query(description="Only requests with a failed check of their evidence.")
        ] = False,
        order: Annotated[Literal["oldest", "newest"], Query(description="By first acceptance.")] = "oldest",
        limit: Annotated[int, Query(ge=1, le=MOST)] = 50,
        cursor: Annotated[str | None, Query(pattern=f"^{CURSOR}$", description="`next_cursor` of a page.")] = None,
    ) -> Response:
        """Requests in pages; the one that was accepted first, and so is due first, comes first. Scope: `requests:read`."""
        page = service.requests(
            RequestQuery(
                states=frozenset(map(State, state)),
                due_before=None if due_before is None else _seconds(due_before),
                text=text,
                evidence_failed=evidence_failed,
                newest_first=order == "newest",
                after=None if cursor is None else read_cursor(cursor),
                limit=limit,
            )
        )
        found = [{"api_version": API_VERSION, **state} for state in page["requests"]]
        return json_answer({"api_version": API_VERSION, "requests": found, "next_cursor": write_cursor(page["next"])})


def add_evidence_routes(app: FastAPI, service: DeskInterface) -> None:
    """The timeline of a request, and the documents about it."""
    reading: dict[str, Any] = {"dependencies": [needs_scope("requests:read")]}

    @app.get(
        "/v1/requests/{request_id}/evidence",
        responses={200: {"model": RequestEvidence}, **documented_errors(403, 404, 422, 503)},
        **reading,
    )
    def evidence(request_id: RequestId) -> Response:
        """What happened to a request and who did it, and which documents show it. Scope: `requests:read`."""
        found = service.timeline(request_id)
        if found is None:
            raise HTTPException(404, UNKNOWN)
        request = {"api_version": API_VERSION, **found["request"]}
        return json_answer({"api_version": API_VERSION, **found, "request": request})

    @app.get(
        "/v1/requests/{request_id}/evidence/{document}",
        response_class=Response,
        responses={
            200: {
                "content": {
                    kind: {"schema": {}} for kind in ("application/json", "text/html", "application/octet-stream")
                }
            },
            **documented_errors(403, 404, 422, 503),
        },
        **reading,
    )
    def document(request_id: RequestId, document: Annotated[str, Path(pattern=f"^{DOCUMENT.pattern}$")]) -> Response:
        """A document as it lies under the output, checked against the log: `evidence.json`, `evidence.html`,
        `receipt.json` (the newest state), `receipt.html`, `receipt-2.json`, `receipt.sig`, `lineage.json`. Scope:
        `requests:read`."""
        found = service.document(request_id, document)
        if found is None:
            raise HTTPException(404, "no such request, or it has no such document yet")
        return document_answer(found)


def document_answer(found: Document, inline: bool = False) -> Response:
    """The document as a download; with `inline` a page is shown by the browser, in a sandbox.

    The media type is that of the file, and no browser is to guess another one.
    """
    way = "inline" if inline else "attachment"
    headers = {
        "Content-Disposition": f'{way}; filename="{found.name}"',
        "Content-Security-Policy": SANDBOX,
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }
    return Response(found.content, media_type=found.media_type, headers=headers)


def write_cursor(after: Key | None) -> str | None:
    """The text of a cursor; None for none."""
    return None if after is None else f"{after[0]:.6f}~{after[1]}"


def read_cursor(text: str) -> Key:
    """The inverse of `write_cursor`. text: matches CURSOR."""
    seconds, _, request_id = text.partition("~")
    return float(seconds), request_id


def _seconds(moment: datetime) -> float:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
