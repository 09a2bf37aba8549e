"""The routes about deletion requests: make one, look at it, cancel it, approve it."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import FastAPI, Path, Response, Security
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from ..layout import REQUEST_ID
from ..lifecycle.refusals import NotApproved, TakenId, TooLate, TooMany
from ..serving.callbacks import API_VERSION
from ..serving.interface import NewRequest, RequestsInterface
from .answers import Discovery, RequestState, json_answer
from .bodies import Approval, Deletion
from .errors import documented_errors
from .scopes import BEARER, Caller, needs_scope

TAKEN = "another request has this id: choose a new one, or leave it out"
FULL = "too many open requests: try again later"
LATE = "its grace window has passed: it cannot be cancelled any more"
REFUSED = "it is not held, or whoever asked for it would approve it"
UNKNOWN = "no such request"
"""What is said where a call about a request is refused, here and on the pages of the desk."""

RequestId = Annotated[str, Path(pattern=f"^{REQUEST_ID.pattern}$")]


def add_request_routes(app: FastAPI, service: RequestsInterface, callback_pattern: str | None) -> None:
    """Make, look at and cancel requests. callback_pattern: as for `make_app`."""

    def accept(body: Deletion, request_id: str | None, caller: str | None) -> Response:
        _check_callbacks(body, callback_pattern)
        try:
            state = service.accept(_new_request(body, request_id, caller))
        except TakenId:
            raise HTTPException(409, TAKEN) from None
        except TooMany as full:
            raise HTTPException(429, FULL, {"Retry-After": str(full.seconds)}) from None
        return _state_answer(state, 202)

    accepting: Any = {
        "status_code": 202,
        "dependencies": [needs_scope("requests:write")],
        "responses": {202: {"model": RequestState}, **documented_errors(403, 409, 413, 422, 503)},
    }

    @app.post("/v1/requests", **accepting)
    def post(body: Deletion, caller: Caller) -> Response:
        """Ask for a deletion. The answer says that the request is durable, not that it is carried out. Scope:
        `requests:write`."""
        return accept(body, body.subject_request_id, caller)

    @app.post("/v1/requests/{request_id}", **accepting)
    def post_under_id(request_id: RequestId, body: Deletion, caller: Caller) -> Response:
        """The same under an id of your own, so that it can be repeated safely. Scope: `requests:write`."""
        if body.subject_request_id not in (None, request_id):
            raise HTTPException(409, "subject_request_id is not the id of the path")
        return accept(body, request_id, caller)

    @app.get(
        "/v1/requests/{request_id}",
        dependencies=[needs_scope("requests:read")],
        responses={200: {"model": RequestState}, **documented_errors(403, 404, 422, 503)},
    )
    def get(request_id: RequestId) -> Response:
        """Where a request is. Scope: `requests:read`."""
        return _state_answer(service.status(request_id))

    @app.delete(
        "/v1/requests/{request_id}",
        dependencies=[needs_scope("requests:write")],
        responses={200: {"model": RequestState}, **documented_errors(403, 404, 409, 422, 503)},
    )
    def cancel(request_id: RequestId) -> Response:
        """Cancel a request that is held or in its grace window. Scope: `requests:write`."""
        try:
            return _state_answer(service.cancel(request_id))
        except TooLate:
            raise HTTPException(409, LATE) from None


def add_approval_route(app: FastAPI, service: RequestsInterface, has_tokens: bool) -> None:
    """Approve a held request, in the name of the token; without tokens, in the name that the body gives."""

    def approve(request_id: str, by: str) -> Response:
        try:
            return _state_answer(service.approve(request_id, by))
        except NotApproved:
            raise HTTPException(409, REFUSED) from None

    approving: Any = {
        "dependencies": [needs_scope("requests:approve")],
        "responses": {200: {"model": RequestState}, **documented_errors(403, 404, 409, 422, 503)},
    }
    if has_tokens:

        @app.post("/v1/requests/{request_id}/approval", **approving)
        def approve_by_token(request_id: RequestId, caller: Caller) -> Response:
            """Approve a held request in the name of the token. Scope: `requests:approve`."""
            return approve(request_id, str(caller))

    else:

        @app.post("/v1/requests/{request_id}/approval", **approving)
        def approve_by_name(request_id: RequestId, body: Approval) -> Response:
            """Approve a held request in the name that the body gives, since there are no tokens."""
            return approve(request_id, body.by)


def add_discovery_route(app: FastAPI) -> None:
    """What of OpenDSR is supported."""

    @app.get(
        "/v1/discovery",
        dependencies=[Security(BEARER)],
        responses={200: {"model": Discovery}, **documented_errors()},
    )
    def discovery() -> Response:
        """What of OpenDSR is supported."""
        return json_answer(
            {
                "api_version": API_VERSION,
                "supported_identities": [{"identity_type": "controller_customer_id", "identity_format": "raw"}],
                "supported_subject_request_types": ["erasure"],
            }
        )


def document_callback_urls(app: FastAPI, callback_pattern: str | None) -> None:
    """Say in the OpenAPI document which callback URLs are accepted: the pattern is a setting, not part of the model."""
    urls = app.openapi()["components"]["schemas"]["Deletion"]["properties"]["status_callback_urls"]
    urls |= {"maxItems": 0} if callback_pattern is None else {"items": urls["items"] | {"pattern": callback_pattern}}


def _check_callbacks(body: Deletion, callback_pattern: str | None) -> None:
    for number, url in enumerate(body.status_callback_urls):
        if callback_pattern is None or not re.fullmatch(callback_pattern, url):
            place = ("body", "status_callback_urls", number)
            message = "not at a host of serve.callback_hosts"
            raise RequestValidationError([{"type": "value_error", "loc": place, "msg": message}])


def _new_request(body: Deletion, request_id: str | None, caller: str | None) -> NewRequest:
    return NewRequest(
        users=[*body.users, *(identity.identity_value for identity in body.subject_identities)],
        items=body.items,
        interactions=body.interactions,
        ranges=[entry.range() for entry in body.ranges],
        request_id=request_id,
        requester=caller,
        callback_urls=body.status_callback_urls,
    )


def _state_answer(state: dict[str, Any] | None, status_code: int = 200) -> Response:
    """Where a request is; 404 for None."""
    if state is None:
        raise HTTPException(404, UNKNOWN)
    return json_answer({"api_version": API_VERSION, **state}, status_code)
