"""Signing in with a token, and out again. A token comes once, in the body of a form, and is neither kept nor logged."""

from __future__ import annotations

import logging
import math

from starlette.responses import Response

from ..http.tokens import find_token
from .visits import SESSION, Visit

log = logging.getLogger(__name__)


def sign_in_form(visit: Visit) -> Response:
    """The form for a token."""
    if not visit.site.rules.tokens or visit.signed_in is not None:
        return visit.go("/desk/")
    return visit.page("sign_in.html", wrong=None, over="over" in visit.request.query_params)


def sign_in(visit: Visit) -> Response:
    """Begin a session in the name of a token. The attempts of an address are limited."""
    rules = visit.site.rules
    if not rules.tokens:
        return visit.go("/desk/")
    client = visit.request.client
    if seconds := visit.site.sign_ins.take(client.host if client else "unknown"):
        wait = str(math.ceil(seconds))
        return visit.error(429, f"too many attempts to sign in: try again in {wait} seconds", {"Retry-After": wait})
    token = find_token(rules.tokens, b"Bearer " + str(visit.form.get("token", "")).strip().encode())
    if token is None:
        log.warning("an attempt to sign in at the desk was refused")
        return visit.page("sign_in.html", 401, wrong="this is none of the tokens of this service", over=False)
    visit.site.sessions.end(visit.request.cookies.get(SESSION))
    log.info("signed in at the desk: token %s", token.name)
    answer = visit.go("/desk/")
    visit.set_cookie(answer, SESSION, visit.site.sessions.start(token))
    return answer


def sign_out(visit: Visit) -> Response:
    """End the session."""
    visit.site.sessions.end(visit.request.cookies.get(SESSION))
    answer = visit.go("/desk/sign-in")
    visit.set_cookie(answer, SESSION, None)
    return answer
