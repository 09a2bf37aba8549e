"""The HTTP face of the service (docs/serving.md): validation, limits and status codes; decides nothing else."""

from __future__ import annotations

import hmac
import ipaddress
import logging
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Protocol

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..partitioning.errors import InputError
from .accepting import TakenId
from .desk import TooLate, TooMany
from .requests import REQUEST_ID

API_VERSION = "2.0"
"""Of OpenDSR, whose names are used where they fit."""
MAX_K = 1000

log = logging.getLogger(__name__)

Name = Annotated[str, Field(min_length=1, max_length=1024)]
Id = Annotated[int, Field(strict=True)] | Annotated[Name, Field(strict=True)]
RequestId = Annotated[str, Path(pattern=f"^{REQUEST_ID.pattern}$")]


class Deletion(BaseModel):
    """What is to be forgotten: users and items with all their interactions, and single interactions."""

    model_config = ConfigDict(extra="forbid")

    users: list[Id] = []
    items: list[Id] = []
    interactions: list[tuple[Id, Id]] = []

    @model_validator(mode="after")
    def _something(self) -> Deletion:
        if not (self.users or self.items or self.interactions):
            raise ValueError("names no user, item or interaction; give at least one")
        return self


class Desk(Protocol):
    """What this module needs of `desk.Desk`."""

    def accept(self, users: Any, items: Any, interactions: Any, request_id: str | None) -> dict[str, Any]:
        """Raises TakenId, TooMany."""

    def status(self, request_id: str) -> dict[str, Any] | None:
        """None: unknown."""

    def cancel(self, request_id: str) -> dict[str, Any] | None:
        """None: unknown. Raises TooLate."""


class Service(Protocol):
    """What this module needs of `service.Service`."""

    desk: Any

    def recommendations(self, user: str, k: int) -> dict[str, Any] | None:
        """None: no such user. Raises LookupError: no version is loaded yet."""

    def health(self) -> dict[str, Any]:
        """Names nobody."""

    def gauges(self) -> dict[str, float]:
        """Names nobody."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def make_app(service: Service, token: str | None, max_body_bytes: int) -> FastAPI:
    """The application. Without a token it answers to loopback names alone, against pages that rebind theirs."""
    app = FastAPI(title="unlearnrec", version=API_VERSION, docs_url=None, redoc_url=None)
    app.add_middleware(_Door, token=token, max_body_bytes=max_body_bytes)
    _errors(app)
    desk: Desk = service.desk

    def accept(body: Deletion, request_id: str | None) -> dict[str, Any]:
        try:
            return _stamped(desk.accept(body.users, body.items, body.interactions, request_id))
        except TakenId:
            raise HTTPException(409, "another request has this id: choose a new one, or leave it out") from None
        except TooMany as full:
            wait = {"Retry-After": str(full.seconds)}
            raise HTTPException(429, "too many open requests: try again later", wait) from None

    @app.post("/v1/requests", status_code=202)
    def post(body: Deletion) -> dict[str, Any]:
        return accept(body, None)

    @app.post("/v1/requests/{request_id}", status_code=202)
    def post_under_id(request_id: RequestId, body: Deletion) -> dict[str, Any]:
        return accept(body, request_id)

    @app.get("/v1/requests/{request_id}")
    def get(request_id: RequestId) -> dict[str, Any]:
        return _stamped(_known(desk.status(request_id)))

    @app.delete("/v1/requests/{request_id}")
    def cancel(request_id: RequestId) -> dict[str, Any]:
        try:
            return _stamped(_known(desk.cancel(request_id)))
        except TooLate:
            raise HTTPException(409, "its grace window has passed: it cannot be cancelled any more") from None

    @app.get("/v1/discovery")
    def discovery() -> dict[str, Any]:
        return {
            "api_version": API_VERSION,
            "supported_identities": [{"identity_type": "controller_customer_id", "identity_format": "raw"}],
            "supported_subject_request_types": ["erasure"],
        }

    @app.get("/v1/recommendations/{user:path}")
    def recommendations(user: str, k: Annotated[int, Query(ge=1, le=MAX_K)] = 20) -> dict[str, Any]:
        try:
            found = service.recommendations(user, k)
        except LookupError:
            raise HTTPException(503, "no version is loaded yet", {"Retry-After": "5"}) from None
        if found is None:
            raise HTTPException(404, "no such user")
        return found

    @app.get("/healthz")
    def healthz(response: Response) -> dict[str, Any]:
        health = service.health()
        response.status_code = 200 if health["status"] == "ok" else 503
        return health

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(_prometheus(service.gauges()), media_type="text/plain; version=0.0.4")

    return app


def _known(found: dict[str, Any] | None) -> dict[str, Any]:
    if found is None:
        raise HTTPException(404, "no such request")
    return found


def _stamped(state: dict[str, Any]) -> dict[str, Any]:
    return {"api_version": API_VERSION, **state}


def _prometheus(gauges: dict[str, float]) -> str:
    lines = []
    for name, value in gauges.items():
        family = name.partition("{")[0]
        kind = f"# TYPE unlearnrec_{family} {'counter' if family.endswith('_total') else 'gauge'}"
        lines += [kind] if kind not in lines else []
        lines.append(f"unlearnrec_{name} {float(value):g}" if value % 1 else f"unlearnrec_{name} {int(value)}")
    return "\n".join(lines) + "\n"


# ---- errors ----------------------------------------------------------------------------------------------------------


def _error(code: int, message: str, errors: Sequence[dict[str, str]] = ()) -> dict[str, Any]:
    """OpenDSR's shape of an error."""
    return {"error": {"code": code, "message": message, "errors": list(errors)}}


def _errors(app: FastAPI) -> None:
    @app.exception_handler(HTTPException)
    def refused(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(_error(error.status_code, str(error.detail)), error.status_code, error.headers)

    @app.exception_handler(OSError)
    def unavailable(_: Request, error: OSError) -> JSONResponse:
        log.error("storage: %s", type(error).__name__)
        return JSONResponse(
            _error(503, "storage failed: ask again, the same request is accepted only once"), 503, {"Retry-After": "5"}
        )

    @app.exception_handler(Exception)
    def failed(_: Request, error: Exception) -> JSONResponse:
        log.error("%s", error if isinstance(error, InputError) else type(error).__name__)
        return JSONResponse(_error(500, "the service's log says what is wrong"), 500)

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        # Without the value: an answer may end up in a log.
        wrong = [
            {"domain": "Validation", "reason": entry["type"], "field": _field(entry["loc"]), "message": entry["msg"]}
            for entry in error.errors()
        ]
        fields = ", ".join(dict.fromkeys(entry["field"] for entry in wrong))
        return JSONResponse(_error(422, f"invalid: {fields}", wrong), 422)


def _field(location: Sequence[str | int]) -> str:
    """`users[0]` from ("body", "users", 0, ...); words of pydantic's own are left out."""
    if location[1:] and isinstance(location[1], int) and location[0] == "body":
        return "body"  # a position in text that is no JSON
    words = [part for part in location[1:] if isinstance(part, int) or (part.isidentifier() and part not in ("int",))]
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in words).lstrip(".")
    return text or str(location[0])


# ---- the door --------------------------------------------------------------------------------------------------------


class _Door:
    """Before anything else is looked at: the token, the host where there is none, and the length of the body."""

    def __init__(self, app: ASGIApp, token: str | None, max_body_bytes: int) -> None:
        self._app, self._token, self._limit = app, token, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if scope["path"] != "/healthz" and (refusal := self._refusal(headers)) is not None:
            await refusal(scope, receive, send)
            return
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client is gone
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._limit:
                too_long = _error(413, f"the body is longer than {self._limit} bytes (serve.max_body_bytes)")
                await JSONResponse(too_long, 413, {"Connection": "close"})(scope, receive, send)
                return
        messages: Iterator[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> Message:
            return next(messages, None) or await receive()

        await self._app(scope, replay, send)

    def _refusal(self, headers: dict[bytes, bytes]) -> JSONResponse | None:
        if self._token is not None:
            given = headers.get(b"authorization", b"")
            if hmac.compare_digest(given, b"Bearer " + self._token.encode()):
                return None
            return JSONResponse(_error(401, "a bearer token is needed"), 401, {"WWW-Authenticate": "Bearer"})
        host = headers.get(b"host", b"").decode("latin-1")
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        if is_loopback(name):
            return None
        return JSONResponse(_error(400, "without a token, only loopback host names are answered"), 400)
