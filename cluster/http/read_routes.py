"""The routes that only read: recommendations, health, metrics."""

from __future__ import annotations

from typing import Annotated

import anyio
import anyio.to_thread
from fastapi import FastAPI, Query, Response
from fastapi.responses import PlainTextResponse
from starlette.exceptions import HTTPException

from ..reporting.prometheus import prometheus_text
from ..serving.families import FAMILIES
from ..serving.interface import ServiceInterface
from .admission import OPEN
from .answers import Health, Recommendations, json_answer
from .errors import documented_errors
from .scopes import needs_scope

MAX_K = 1000
MEMORY_THREADS = 8
"""For calls that are answered from memory: the others may all be waiting for the storage."""


def add_recommendations_route(app: FastAPI, service: ServiceInterface, threads: anyio.CapacityLimiter) -> None:
    """Recommendations for one user. threads: those for calls that are answered from memory."""

    @app.get(
        "/v1/recommendations/{user:path}",
        dependencies=[needs_scope("recommendations:read")],
        responses={200: {"model": Recommendations}, **documented_errors(403, 404, 422, 503)},
    )
    async def recommendations(user: str, k: Annotated[int, Query(ge=1, le=MAX_K)] = 20) -> Response:
        """The best items for a user, from the version that is served. Scope: `recommendations:read`."""
        try:
            found = await anyio.to_thread.run_sync(service.recommendations, user, k, limiter=threads)
        except LookupError:
            raise HTTPException(503, "no version is loaded yet", {"Retry-After": "5"}) from None
        if found is None:
            raise HTTPException(404, "no such user")
        return json_answer(found)


def add_operations_routes(app: FastAPI, service: ServiceInterface, threads: anyio.CapacityLimiter) -> None:
    """Health and metrics. threads: as for `add_recommendations_route`."""

    @app.get(OPEN, responses={200: {"model": Health}, 503: {"model": Health}})
    async def healthz() -> Response:
        """Whether it serves, and what blocks it. No token is needed."""
        health = await anyio.to_thread.run_sync(service.health, limiter=threads)
        return json_answer(health, 200 if health["status"] == "ok" else 503)

    @app.get(
        "/metrics",
        dependencies=[needs_scope("metrics:read")],
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **documented_errors(403, 503)},
    )
    def metrics() -> Response:
        """The metrics in the text format of Prometheus, without ids. Scope: `metrics:read`."""
        return PlainTextResponse(prometheus_text(service.gauges(), FAMILIES), media_type="text/plain; version=0.0.4")
