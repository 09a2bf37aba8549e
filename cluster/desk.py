"""The service's desk: takes requests in, says where they are, cancels them. Called from many threads."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Lock
from typing import Any

from ..partitioning.storage import Store
from .accepting import accept, check_same, close
from .coordinator import (
    Ledger,
    State,
    Ticket,
    iso,
    may_cancel,
    oldest_age,
    retry_after,
)
from .requests import Id, content_name, make_request
from .session import Session
from .versions import CANCELLED

OPENDSR = {State.ACCEPTED: "pending", State.FAILED: "pending", State.CANCELLED: "cancelled"}
"""OpenDSR's `request_status`; of all others "completed"."""


class TooMany(Exception):
    """So many requests are open that no other is accepted; another attempt is worth it after `seconds`."""

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class TooLate(Exception):
    """The request cannot be cancelled any more."""


@dataclass(frozen=True)
class View:
    """What the log says at one moment."""

    open: list[Ticket]
    current: dict[str, Any] | None


class Desk:
    """One output's requests. A request is accepted when `accept` returns: its record is durable then."""

    def __init__(self, session: Session, clock: Callable[[], float] = time.time) -> None:
        self._session, self._clock = session, clock
        self._grace = session.config.forget.grace_seconds
        self._limit = session.config.serve.max_open_requests
        self._ledger = Ledger()
        self._lock = Lock()
        self.news = Event()
        """Set when a request was accepted."""
        self.running: frozenset[str] = frozenset()
        """The requests of the batch under way; set by the loop."""

    def accept(
        self, users: list[Id], items: list[Id], interactions: list[tuple[Id, Id]], request_id: str | None
    ) -> dict[str, Any]:
        """Accept a request, or say where it is if it was accepted before; one that failed is tried again.

        Raises:
            TakenId: another request has this id.
            TooMany: as it says.
        """
        with self._lock:
            request = make_request(users, items, interactions, request_id, self._session.request_key())
            self._refresh()
            ticket = self._ledger.tickets.get(request.request_id)
            if ticket is not None:
                check_same(_content(self._session.store, request.request_id), request)
            if ticket is None or ticket.state is State.FAILED:
                open_now = self._ledger.open.values()
                if (seconds := retry_after(open_now, self._clock(), self._grace, self._limit)) is not None:
                    raise TooMany(seconds)
                accept(self._session, request)
                self._refresh()
                self.news.set()
            return self._describe(self._ledger.tickets[request.request_id])

    def status(self, request_id: str) -> dict[str, Any] | None:
        """Where a request is; None if nobody made it."""
        with self._lock:
            self._refresh()
            ticket = self._ledger.tickets.get(request_id)
            return self._describe(ticket) if ticket is not None else None

    def cancel(self, request_id: str) -> dict[str, Any] | None:
        """Cancel a request in its grace window; cancelling it again changes nothing. None if nobody made it.

        Raises:
            TooLate: the window has passed.
        """
        with self._lock:
            close(self._session, request_id, CANCELLED, {}, allowed=lambda t: may_cancel(t, self._clock(), self._grace))
            self._refresh()
            ticket = self._ledger.tickets.get(request_id)
            if ticket is None:
                return None
            if ticket.state is not State.CANCELLED:
                raise TooLate
            return self._describe(ticket)

    def view(self) -> View:
        """The open requests and the current version."""
        with self._lock:
            self._refresh()
            return View(list(self._ledger.open.values()), self._ledger.current)

    def gauges(self) -> dict[str, float]:
        """Name and labels -> value, for `/metrics`; no id."""
        with self._lock:
            self._refresh()
            ledger = self._ledger
            counts = dict.fromkeys(State, 0)
            for ticket in ledger.tickets.values():
                counts[ticket.state] += 1
            return {
                "open_requests": len(ledger.open),
                "oldest_open_request_seconds": oldest_age(ledger.open.values(), self._clock()),
                "versions_committed_total": ledger.versions,
                "current_version": ledger.current["version"] if ledger.current else 0,
                "unlearning_debt_ratio": ledger.debt(),
                **{
                    f'requests_total{{state="{state.value}"}}': count
                    for state, count in counts.items()
                    if state is not State.ACCEPTED
                },
            }

    def _refresh(self) -> None:
        self._ledger.absorb(self._session.journal.records())

    def _describe(self, ticket: Ticket) -> dict[str, Any]:
        running = ticket.state is State.ACCEPTED and ticket.request_id in self.running
        due = ticket.accepted_at + self._grace
        return {
            **ticket.describe(),
            "subject_request_id": ticket.request_id,
            "request_status": "in_progress" if running else OPENDSR.get(ticket.state, "completed"),
            "received_time": iso(ticket.accepted_at),
            **({"cancellable_until": iso(due)} if may_cancel(ticket, self._clock(), self._grace) else {}),
        }


def _content(store: Store, request_id: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(store.read(content_name(request_id)))
    return content
