"""Routes that refuse a JSON body in which a key stands twice: of the two values, one would be acknowledged and lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from ..requests.rows import DuplicateKey, reject_duplicate_keys


class StrictRequest(Request):
    """A request whose `json` is strict."""

    async def json(self) -> Any:
        try:
            return json.loads(await self.body(), object_pairs_hook=reject_duplicate_keys)
        except DuplicateKey as error:
            raise HTTPException(422, f"invalid body: {error}") from None


class StrictRoute(APIRoute):
    """A route whose bodies are read so."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return handle_strictly
