"""Which calls over HTTP are admitted: who asks, how often and how much, before anything else is looked at."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import error_body
from .rate_limit import Buckets
from .tokens import Token, find_token

OPEN = "/healthz"
"""This path needs no token, and calls of it are not counted."""


@dataclass(frozen=True)
class AdmissionRules:
    """Whom and what to admit. Without tokens, only calls to loopback host names are admitted: a web page whose own name was
    rebound to this machine (DNS rebinding) then gets no answer."""

    tokens: Sequence[Token]
    max_body_bytes: int
    rate_per_second: float
    burst: int


class Pages(Protocol):
    """Pages beside the API, where people sign in. They admit nobody without a session themselves (`cluster/desk/`)."""

    def has(self, path: str) -> bool:
        """Whether it answers under this path."""

    def refuse(self, scope: Scope, code: int, text: str, retry_seconds: int | None = None) -> Response:
        """The page that says why a call was not admitted."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Admission:
    """The middleware. The token of an admitted call is in `request.state.token`; None where no tokens are needed."""

    def __init__(self, app: ASGIApp, rules: AdmissionRules, pages: Pages | None = None) -> None:
        """pages: calls of their paths need no bearer token; None: there are none."""
        self._app, self._rules, self._pages = app, rules, pages
        self._buckets = Buckets(rules.rate_per_second, rules.burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        token = None
        path = scope["path"].removeprefix(scope.get("root_path", ""))  # behind Ray Serve: `serve.route_prefix`
        pages = self._pages if self._pages is not None and self._pages.has(path) else None
        if path != OPEN:
            headers = dict(scope["headers"])
            token = find_token(self._rules.tokens, headers.get(b"authorization", b""))
            caller = token.name if token else f"address {(scope.get('client') or ['unknown'])[0]}"
            # The limit comes first, so that whoever guesses tokens is slowed down too.
            refusal = self._refuse_too_often(caller, scope, pages) or self._refuse_unknown(token, headers, scope, pages)
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        scope.setdefault("state", {})["token"] = token
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client is gone
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._rules.max_body_bytes:
                text = f"the body is longer than {self._rules.max_body_bytes} bytes (serve.max_body_bytes)"
                answer: Response = JSONResponse(error_body(413, text), 413, {"Connection": "close"})
                if pages is not None:
                    answer = pages.refuse(scope, 413, text)
                await answer(scope, receive, send)
                return
        messages: Iterator[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> Message:
            return next(messages, None) or await receive()

        await self._app(scope, replay, send)

    def _refuse_too_often(self, caller: str, scope: Scope, pages: Pages | None) -> Response | None:
        if not (seconds := self._buckets.take(caller)):
            return None
        text = "too many calls (serve.rate_per_second, serve.burst): try again later"
        if pages is not None:
            return pages.refuse(scope, 429, text, math.ceil(seconds))
        return JSONResponse(error_body(429, text), 429, {"Retry-After": str(math.ceil(seconds))})

    def _refuse_unknown(
        self, token: Token | None, headers: dict[bytes, bytes], scope: Scope, pages: Pages | None
    ) -> Response | None:
        if token is not None:
            return None
        if self._rules.tokens:
            if pages is not None and b"authorization" not in headers:
                return None  # the page asks for a session
            # RFC 6750: no error code where no credentials were given.
            challenge = 'Bearer error="invalid_token"' if b"authorization" in headers else "Bearer"
            return JSONResponse(error_body(401, "a bearer token is needed"), 401, {"WWW-Authenticate": challenge})
        host = headers.get(b"host", b"").decode("latin-1")
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        if is_loopback(name):
            return None
        text = "without a token, only loopback host names are answered"
        return JSONResponse(error_body(400, text), 400) if pages is None else pages.refuse(scope, 400, text)
