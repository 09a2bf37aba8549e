"""The HTTP face of the service (docs/serving.md): validation, scopes and status codes; decides nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import anyio
import anyio.to_thread
from fastapi import Depends, FastAPI, Path, Query, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from ..layout import REQUEST_ID
from ..lifecycle.refusals import NotApproved, TakenId, TooLate, TooMany
from ..requests.rows import Twice, once
from ..serving.callbacks import API_VERSION
from ..serving.interface import NewRequest, ServiceInterface
from . import answers
from .admission import OPEN, Admission, AdmissionRules
from .bodies import Approval, Deletion
from .errors import Refusal, handle_errors
from .tokens import Scope, Token

MAX_K = 1000
MEMORY_THREADS = 8
"""For calls that are answered from memory: the others may all be waiting for the storage."""


class _StrictRequest(Request):
    async def json(self) -> Any:
        try:
            return json.loads(await self.body(), object_pairs_hook=once)
        except Twice as error:
            raise HTTPException(422, f"invalid body: {error}") from None


class _StrictRoute(APIRoute):
    """Refuses a body in which a key stands twice: of the two, one would be acknowledged and lost."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strictly


RequestId = Annotated[str, Path(pattern=f"^{REQUEST_ID.pattern}$")]


def make_app(service: ServiceInterface, rules: AdmissionRules, callback_pattern: str | None = None) -> FastAPI:
    """The application. callback_pattern: of the URLs that may be called (`callbacks.url_pattern`); None: none may."""
    app = FastAPI(title="unlearnrec", version=API_VERSION, docs_url=None, redoc_url=None)
    app.router.route_class = _StrictRoute
    app.add_middleware(Admission, rules=rules)
    handle_errors(app)
    memory_threads = anyio.CapacityLimiter(MEMORY_THREADS)

    def accept(body: Deletion, request_id: str | None, caller: str | None) -> Response:
        for number, url in enumerate(body.status_callback_urls):
            if callback_pattern is None or not re.fullmatch(callback_pattern, url):
                raise _invalid("not at a host of serve.callback_hosts", "status_callback_urls", number)
        new = NewRequest(
            users=[*body.users, *(identity.identity_value for identity in body.subject_identities)],
            items=body.items,
            interactions=body.interactions,
            ranges=[one.entry() for one in body.ranges],
            request_id=request_id,
            requester=caller,
            callback_urls=body.status_callback_urls,
        )
        try:
            found = service.accept(new)
        except TakenId:
            raise HTTPException(409, "another request has this id: choose a new one, or leave it out") from None
        except TooMany as full:
            wait = {"Retry-After": str(full.seconds)}
            raise HTTPException(429, "too many open requests: try again later", wait) from None
        return _state(found, 202)

    taken: Any = {
        "status_code": 202,
        "dependencies": [_needs("requests:write")],
        "responses": {202: {"model": answers.RequestState}, **_refusals(403, 409, 413, 422, 503)},
    }

    @app.post("/v1/requests", **taken)
    def post(body: Deletion, caller: Caller) -> Response:
        return accept(body, body.subject_request_id, caller)

    @app.post("/v1/requests/{request_id}", **taken)
    def post_under_id(request_id: RequestId, body: Deletion, caller: Caller) -> Response:
        if body.subject_request_id not in (None, request_id):
            raise HTTPException(409, "subject_request_id is not the id of the path")
        return accept(body, request_id, caller)

    @app.get(
        "/v1/requests/{request_id}",
        dependencies=[_needs("requests:read")],
        responses={200: {"model": answers.RequestState}, **_refusals(403, 404, 422, 503)},
    )
    def get(request_id: RequestId) -> Response:
        return _state(service.status(request_id))

    @app.delete(
        "/v1/requests/{request_id}",
        dependencies=[_needs("requests:write")],
        responses={200: {"model": answers.RequestState}, **_refusals(403, 404, 409, 422, 503)},
    )
    def cancel(request_id: RequestId) -> Response:
        try:
            return _state(service.cancel(request_id))
        except TooLate:
            raise HTTPException(409, "its grace window has passed: it cannot be cancelled any more") from None

    def approve(request_id: str, by: str) -> Response:
        try:
            return _state(service.approve(request_id, by))
        except NotApproved:
            raise HTTPException(409, "it is not held, or whoever asked for it would approve it") from None

    approving: Any = {
        "dependencies": [_needs("requests:approve")],
        "responses": {200: {"model": answers.RequestState}, **_refusals(403, 404, 409, 422, 503)},
    }
    if rules.tokens:

        @app.post("/v1/requests/{request_id}/approval", **approving)
        def approve_by_token(request_id: RequestId, caller: Caller) -> Response:
            return approve(request_id, str(caller))

    else:

        @app.post("/v1/requests/{request_id}/approval", **approving)
        def approve_by_name(request_id: RequestId, body: Approval) -> Response:
            return approve(request_id, body.by)

    @app.get(
        "/v1/discovery",
        dependencies=[Security(_BEARER)],
        responses={200: {"model": answers.Discovery}, **_refusals()},
    )
    def discovery() -> Response:
        return _json(
            {
                "api_version": API_VERSION,
                "supported_identities": [{"identity_type": "controller_customer_id", "identity_format": "raw"}],
                "supported_subject_request_types": ["erasure"],
            }
        )

    @app.get(
        "/v1/recommendations/{user:path}",
        dependencies=[_needs("recommendations:read")],
        responses={200: {"model": answers.Recommendations}, **_refusals(403, 404, 422, 503)},
    )
    async def recommendations(user: str, k: Annotated[int, Query(ge=1, le=MAX_K)] = 20) -> Response:
        try:
            found = await anyio.to_thread.run_sync(service.recommendations, user, k, limiter=memory_threads)
        except LookupError:
            raise HTTPException(503, "no version is loaded yet", {"Retry-After": "5"}) from None
        if found is None:
            raise HTTPException(404, "no such user")
        return _json(found)

    @app.get(OPEN, responses={200: {"model": answers.Health}, 503: {"model": answers.Health}})
    async def healthz() -> Response:
        health = await anyio.to_thread.run_sync(service.health, limiter=memory_threads)
        return _json(health, 200 if health["status"] == "ok" else 503)

    @app.get(
        "/metrics",
        dependencies=[_needs("metrics:read")],
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **_refusals(403, 503)},
    )
    def metrics() -> Response:
        return PlainTextResponse(_prometheus(service.gauges()), media_type="text/plain; version=0.0.4")

    urls = app.openapi()["components"]["schemas"]["Deletion"]["properties"]["status_callback_urls"]
    urls |= {"maxItems": 0} if callback_pattern is None else {"items": urls["items"] | {"pattern": callback_pattern}}
    return app


# Dependencies are coroutines: FastAPI would call a plain function in a thread of its own.


async def _caller(request: Request) -> str | None:
    token: Token | None = request.state.token
    return None if token is None else token.name


Caller = Annotated[str | None, Depends(_caller)]
"""The name of the token; None where none are needed."""

_BEARER = HTTPBearer(auto_error=False, description="Needed where the service has tokens; admission checks it.")


def _needs(scope: Scope) -> Any:
    """The dependency of a route that this scope opens. Where no tokens are needed, everybody has all scopes."""

    async def check(request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]) -> None:
        token: Token | None = request.state.token
        if token is not None and scope not in token.scopes:
            challenge = {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'}
            raise HTTPException(403, f"this token lacks the scope {scope}", challenge)

    return Depends(check)


def _refusals(*codes: int) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI document: the errors of a route and those of admission."""
    return {code: {"model": Refusal} for code in (400, 401, 413, 429, *codes)}


def _invalid(message: str, *field: str | int) -> RequestValidationError:
    return RequestValidationError([{"type": "value_error", "loc": ("body", *field), "msg": message}])


def _state(found: dict[str, Any] | None, status_code: int = 200) -> Response:
    if found is None:
        raise HTTPException(404, "no such request")
    return _json({"api_version": API_VERSION, **found}, status_code)


def _json(content: dict[str, Any], status_code: int = 200) -> Response:
    """Made here, because FastAPI would first validate what a function returns, in another thread."""
    return Response(to_json(content, inf_nan_mode="null"), status_code, media_type="application/json")


def _prometheus(gauges: dict[str, float]) -> str:
    lines = []
    for name, value in gauges.items():
        family = name.partition("{")[0]
        kind = f"# TYPE unlearnrec_{family} {'counter' if family.endswith('_total') else 'gauge'}"
        lines += [kind] if kind not in lines else []
        lines.append(f"unlearnrec_{name} {float(value):g}" if value % 1 else f"unlearnrec_{name} {int(value)}")
    return "\n".join(lines) + "\n"
