"""What is answered over HTTP when something is wrong: in OpenDSR's shape of an error, and never with a value of the
request, because answers may end up in logs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from ...partitioning.errors import InputError

log = logging.getLogger(__name__)


class Detail(BaseModel):
    """One thing that is wrong."""

    domain: str
    reason: str
    field: str
    message: str


class Failure(BaseModel):
    """`code` is the HTTP status."""

    code: int
    message: str
    errors: list[Detail]


class Refusal(BaseModel):
    """The body of every answer of 400 and above."""

    error: Failure


def error_body(code: int, message: str, errors: Sequence[dict[str, str]] = ()) -> dict[str, Any]:
    """A `Refusal` as JSON."""
    return {"error": {"code": code, "message": message, "errors": list(errors)}}


def documented_errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI document: the errors of a route, and those of `admission`, which every route may answer."""
    return {code: {"model": Refusal} for code in (400, 401, 413, 429, *codes)}


def handle_errors(app: FastAPI) -> None:
    """Let the application answer every exception as a `Refusal`."""

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> JSONResponse:
        # Starlette names the methods of the first route with this path only.
        headers = {"Allow": _methods(app, request)} if error.status_code == 405 else error.headers
        return JSONResponse(error_body(error.status_code, str(error.detail)), error.status_code, headers)

    @app.exception_handler(OSError)
    def unavailable(_: Request, error: OSError) -> JSONResponse:
        log.error("not available: %s", type(error).__name__)
        text = "not available at the moment: try again (a request that is posted twice under one id is one request)"
        return JSONResponse(error_body(503, text), 503, {"Retry-After": "5"})

    @app.exception_handler(Exception)
    def failed(_: Request, error: Exception) -> JSONResponse:
        log.error("%s", error if isinstance(error, InputError) else type(error).__name__)
        return JSONResponse(error_body(500, "the service's log says what is wrong"), 500)

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        # Without the value: an answer may end up in a log.
        wrong = [
            {"domain": "Validation", "reason": entry["type"], "field": _field(entry["loc"]), "message": entry["msg"]}
            for entry in error.errors()
        ]
        fields = ", ".join(dict.fromkeys(entry["field"] for entry in wrong))
        return JSONResponse(error_body(422, f"invalid: {fields}", wrong), 422)


def _methods(app: FastAPI, request: Request) -> str:
    matching = [
        route for route in app.routes if isinstance(route, Route) and route.matches(request.scope)[0] != Match.NONE
    ]
    return ", ".join(sorted({method for route in matching for method in route.methods or ()}))


def _field(location: Sequence[str | int]) -> str:
    """The place as a user writes it: `users[0]` from ("body", "users", 0, ...), without pydantic's own words."""
    if location[1:] and isinstance(location[1], int) and location[0] == "body":
        return "body"  # a position in text that is no JSON
    words = [part for part in location[1:] if isinstance(part, int) or (part.isidentifier() and part not in ("int",))]
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in words).lstrip(".")
    return text or str(location[0])
