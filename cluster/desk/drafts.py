"""Requests that were typed or uploaded and not sent yet. What they name is in the memory of this process alone: the browser
gets counts, and nothing is written anywhere."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

from ..serving.interface import NewRequest

KEPT_SECONDS = 15 * 60.0
MOST_DRAFTS = 32
MOST_ENTRIES = 500_000
"""So many drafts are kept, which together name so many things; of more, the oldest go."""


@dataclass(frozen=True)
class Draft:
    """A request that somebody looks at before it is sent."""

    new: NewRequest | None
    """None once it was sent."""
    counts: Mapping[str, int]
    """The number of entries by kind."""
    invalid: Sequence[tuple[int, str]] = ()
    """(number, reason) of the first rows that mean nothing."""
    spaced: int = 0
    """The number of ids that begin or end with a space, which is a part of them."""
    preview: Mapping[str, Any] | None = None
    """As `DeskInterface.preview`; None where it was not made."""
    without_preview: str | None = None
    """Why there is no preview."""
    sent_as: str | None = None
    """The id under which it was sent."""


class Drafts:
    """The drafts of one process, each of which only the browser sees that made it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, Lock()
        self._kept: OrderedDict[tuple[str, str], tuple[float, Draft]] = OrderedDict()

    def add(self, owner: str, draft: Draft) -> str:
        """Keep a draft; returns its name. owner: the secret of the browser's forms."""
        name = secrets.token_urlsafe(16)
        with self._lock:
            now = self._clock()
            self._kept = OrderedDict((key, value) for key, value in self._kept.items() if value[0] > now)
            self._kept[owner, name] = now + KEPT_SECONDS, draft
            while len(self._kept) > MOST_DRAFTS or (len(self._kept) > 1 and self._entries() > MOST_ENTRIES):
                self._kept.popitem(last=False)
        return name

    def find(self, owner: str, name: str) -> Draft | None:
        """The draft; None where it is over, or another browser's."""
        with self._lock:
            ends, draft = self._kept.get((owner, name), (0.0, None))
            return draft if ends > self._clock() else None

    def sent(self, owner: str, name: str, request_id: str) -> None:
        """Forget what a draft names, and remember under which id it was sent: a form that is sent twice leads there."""
        with self._lock:
            if (owner, name) in self._kept:
                ends, draft = self._kept[owner, name]
                self._kept[owner, name] = ends, replace(draft, new=None, sent_as=request_id)

    def _entries(self) -> int:
        return sum(sum(draft.counts.values()) for _, draft in self._kept.values() if draft.new is not None)

    def drop(self, owner: str, name: str) -> None:
        """Forget a draft."""
        with self._lock:
            self._kept.pop((owner, name), None)
