"""Who is signed in at the pages, and the secrets that their forms carry. All of it is in the memory of one process: after a
restart people sign in again."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Lock

from ..http.tokens import Token

IDLE_SECONDS = 30 * 60.0
"""A session ends so long after the last page."""
LONGEST_SECONDS = 8 * 3600.0
"""A session ends so long after the sign-in, whatever is done in it."""
MOST_SESSIONS = 1000
"""So many sessions are kept; of more, those that were used longest ago end."""


@dataclass(frozen=True)
class SignedIn:
    """A session. Times are in seconds since the epoch."""

    token: Token
    ends: float
    used: float


class Sessions:
    """The sessions of one process. The browser holds a random text, and this process only the digest of it."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock, self._lock = clock, Lock()
        self._secret = secrets.token_bytes(32)
        self._open: OrderedDict[bytes, SignedIn] = OrderedDict()

    def start(self, token: Token) -> str:
        """Begin a session; returns the text for the browser, which nobody had before."""
        cookie, now = new_cookie(), self._clock()
        with self._lock:
            self._open[_digest(cookie)] = SignedIn(token, now + LONGEST_SECONDS, now)
            if len(self._open) > MOST_SESSIONS:
                self._open.popitem(last=False)
        return cookie

    def find(self, cookie: str | None) -> SignedIn | None:
        """The session of a browser, which is used by this; None where it has none, or it is over."""
        if cookie is None:
            return None
        key, now = _digest(cookie), self._clock()
        with self._lock:
            found = self._open.pop(key, None)
            if found is None or now >= min(found.ends, found.used + IDLE_SECONDS):
                return None
            self._open[key] = found = replace(found, used=now)
            return found

    def end(self, cookie: str | None) -> None:
        """End the session of a browser; without one nothing happens."""
        if cookie is not None:
            with self._lock:
                self._open.pop(_digest(cookie), None)

    def form_secret(self, cookie: str) -> str:
        """What a form of the browser with this cookie has to carry. Another site can neither read nor guess it."""
        return hmac.new(self._secret, cookie.encode(), hashlib.sha256).hexdigest()


def new_cookie() -> str:
    """A random text of 256 bits."""
    return secrets.token_urlsafe(32)


def _digest(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode()).digest()
