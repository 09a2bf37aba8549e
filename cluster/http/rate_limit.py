"""Rate limits: one token bucket for each caller."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

MOST_CALLERS = 10_000
"""So many buckets are kept; of more, those that were used longest ago go first. A caller without one gets a full one."""


class Buckets:
    """Each caller may make `burst` calls at once, and `rate` more a second. Called from any thread."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, float(burst), clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # caller -> (calls left, when that was)
        self._lock = Lock()

    def take(self, caller: str) -> float:
        """Take one call. Returns 0 if it may be made; else the seconds until it may, and nothing is taken."""
        with self._lock:
            now = self._clock()
            left, since = self._left.pop(caller, (self._burst, now))
            left = min(self._burst, left + (now - since) * self._rate)
            allowed = left >= 1
            self._left[caller] = (left - allowed, now)
            if len(self._left) > MOST_CALLERS:
                self._left.popitem(last=False)
            return 0.0 if allowed else (1 - left) / self._rate
