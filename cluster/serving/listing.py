"""Lists of requests in pages: which ones, in which order, and from where a next page goes on.

Order: by first acceptance, then by id. The deadline of all requests is equally long, so the one that is due first comes
first. The answer of a page comes from the ledger in memory. Requests without an answer are few
(`serve.max_open_requests`), and are sorted at each call; of all others the order is kept, and only new ones are put in.
`docs/log.md` has the seconds for 100,000 requests.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from threading import Lock

from ..output.ledger import Ledger
from ..output.tickets import OPEN, State, Ticket

MOST = 500
"""The largest number of requests on a page."""
UNANSWERED = OPEN | {State.FAILED}
Key = tuple[float, str]
"""(first acceptance in seconds since the epoch, request id)."""


@dataclass(frozen=True)
class RequestQuery:
    """Which requests to list."""

    states: frozenset[State] = frozenset()
    """Only requests in these; empty: in any."""
    due_before: float | None = None
    """Only requests without an answer that are overdue from before this moment on, in seconds since the epoch."""
    text: str = ""
    """Only requests whose id has this text somewhere, in capitals or not."""
    evidence_failed: bool = False
    """Only requests with a check of their evidence that failed."""
    newest_first: bool = False
    after: Key | None = None
    """Where the page before ended; None begins at the first."""
    limit: int = 50
    """From 1 to MOST."""


class Listing:
    """The order of the requests of one output, for any number of threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._ledger: Ledger | None = None
        self._keys: list[Key] = []

    def page(self, ledger: Ledger, query: RequestQuery, deadline_seconds: float) -> tuple[list[Ticket], Key | None]:
        """(the tickets of the page, where the next page begins: None if there is none)."""
        wanted = _filter(query, deadline_seconds)
        found = list(islice(filter(wanted, self._tickets(ledger, query)), query.limit + 1))
        more = len(found) > query.limit
        found = found[: query.limit]
        return found, _key(found[-1]) if more else None

    def _tickets(self, ledger: Ledger, query: RequestQuery) -> Iterator[Ticket]:
        """The tickets after `query.after`, in order: all that the query may want."""
        if query.evidence_failed:
            keys = sorted(map(_key, list(ledger.evidence_failed.values())))
        elif query.due_before is not None or (query.states and query.states <= UNANSWERED):
            keys = sorted(map(_key, ledger.unanswered()))
        else:
            keys = self._all(ledger)
        return (ledger.tickets[request_id] for _, request_id in _from(keys, query.after, query.newest_first))

    def _all(self, ledger: Ledger) -> list[Key]:
        """The keys of all requests, sorted. Those that are new since the last call are put in."""
        with self._lock:
            if ledger is not self._ledger:
                self._ledger, self._keys = ledger, []
            if len(ledger.tickets) > len(self._keys):
                new = list(ledger.tickets.values())[len(self._keys) :]  # a request stays where its acceptance put it
                # Replaced, not changed: another thread may be reading the list.
                keys = self._keys.copy()
                for ticket in new:
                    insort(keys, _key(ticket)) if keys and _key(ticket) < keys[-1] else keys.append(_key(ticket))
                self._keys = keys
            return self._keys


def _filter(query: RequestQuery, deadline_seconds: float) -> Callable[[Ticket], bool]:
    text = query.text.casefold()

    def wanted(ticket: Ticket) -> bool:
        if query.states and ticket.state not in query.states:
            return False
        if query.due_before is not None and (ticket.final or ticket.accepted_at + deadline_seconds >= query.due_before):
            return False
        if query.evidence_failed and not ticket.evidence_failed:
            return False
        return text in ticket.request_id.casefold()

    return wanted


def _from(keys: list[Key], after: Key | None, newest_first: bool) -> Iterable[Key]:
    if newest_first:
        end = len(keys) if after is None else bisect_left(keys, after)
        return (keys[place] for place in range(end - 1, -1, -1))
    return islice(keys, 0 if after is None else bisect_right(keys, after), None)


def _key(ticket: Ticket) -> Key:
    return ticket.accepted_at, ticket.request_id
