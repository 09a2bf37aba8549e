"""Which calls a token may make, and in whose name: dependencies of routes. `admission` has found the token before."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from .tokens import Scope, Token

BEARER = HTTPBearer(auto_error=False, description="Needed where the service has tokens; admission checks it.")
"""For the OpenAPI document alone."""

# The dependencies are coroutines: FastAPI would call a plain function in a thread of its own.


async def _caller(request: Request) -> str | None:
    token: Token | None = request.state.token
    return None if token is None else token.name


Caller = Annotated[str | None, Depends(_caller)]
"""The name of the token; None where no tokens are needed."""


def needs_scope(scope: Scope) -> Any:
    """The dependency of a route that this scope opens. Where no tokens are needed, everybody has all scopes."""

    async def check(request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]) -> None:
        token: Token | None = request.state.token
        if token is not None and scope not in token.scopes:
            challenge = {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'}
            raise HTTPException(403, f"this token lacks the scope {scope}", challenge)

    return Depends(check)
