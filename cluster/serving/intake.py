"""Takes requests in, says where they are, cancels and approves them. Called from many threads at once."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from threading import Event, Lock
from typing import Any

from ..lifecycle.acceptance import accept, check_same, under_current_id
from ..lifecycle.decisions import due_by, may_cancel, oldest_age, overdue, retry_after
from ..lifecycle.operators import approve_request, cancel_request
from ..lifecycle.preview import preview_request
from ..lifecycle.refusals import TooMany
from ..log.records import iso
from ..models.carry_out import able_version
from ..output.ledger import Ledger
from ..output.manifest import Manifest
from ..output.session import Session
from ..output.tickets import FINAL, State, Ticket
from ..requests.request import Request, make_request
from .callbacks import News, Outbox
from .documents import DOCUMENT, Document, first_receipt_written, list_documents, read_document
from .interface import DeskInterface, NewRequest, RequestsInterface
from .listing import Listing, RequestQuery
from .overview import Overview
from .timeline import timeline

OPENDSR = {State.ACCEPTED: "pending", State.HELD: "pending", State.FAILED: "pending", State.CANCELLED: "cancelled"}
"""OpenDSR's `request_status` of a state; all others are "completed"."""

PREVIEW_SECONDS = 20.0
"""So long a preview waits for another one."""


@dataclass(frozen=True)
class View:
    """What the log says at one moment; the fields are those of `Ledger`."""

    open: list[Ticket]
    overdue: list[Ticket]
    current: Manifest | None
    unreported: dict[str, float]
    switching: tuple[float, float] | None


class Intake(RequestsInterface, DeskInterface):
    """The requests of one output, from its log."""

    def __init__(self, session: Session, clock: Callable[[], float] = time.time, outbox: Outbox | None = None) -> None:
        self._session, self._clock, self._outbox = session, clock, outbox
        self._grace = session.config.forget.grace_seconds
        self._deadline = session.config.forget.deadline_hours * 3600
        self._limit = session.config.serve.max_open_requests
        self._lock = Lock()
        self._arriving: Counter[str] = Counter()
        """Requests that are on their way into the log, and count as open already."""
        self.arrived = Event()
        """Set when a request was accepted or approved."""
        self._running: frozenset[str] = frozenset()
        self._reporting: frozenset[str] = frozenset()
        self._listing, self._overview, self._previewing = Listing(), Overview(session), Lock()

    @property
    def running(self) -> frozenset[str]:
        """The requests of the batch under way; set by the loop."""
        return self._running

    @running.setter
    def running(self, requests: frozenset[str]) -> None:
        self._running = requests
        self._wake_sender()

    @property
    def reporting(self) -> frozenset[str]:
        """The requests that the loop has carried out, and whose evidence it has not tried to write yet; set by the loop."""
        return self._reporting

    @reporting.setter
    def reporting(self, requests: frozenset[str]) -> None:
        self._reporting = requests
        self._wake_sender()

    def accept(self, new: NewRequest) -> dict[str, Any]:
        """As `RequestsInterface.accept`."""
        request = self._request(new, self._key)
        ledger = self._session.ledger(look=new.request_id is not None)
        ticket = ledger.tickets.get(request.request_id)
        if ticket is not None:
            check_same(
                self._session, json.loads(self._session.store.read(ledger.content_name(request.request_id))), request
            )
        if ticket is None or ticket.state is State.FAILED:
            # Not one after the other: what is made durable at the same time shares the writes of the log.
            with self._counted_as_open(request.request_id):
                told = partial(self._write_callbacks, request.request_id, new.callback_urls)
                accept(self._session, request, new.requester, told)
            self.arrived.set()
            self._wake_sender()
            return self._describe(self._session.ledger(look=False).tickets[request.request_id])
        return self._describe(ticket) | {"repeated": True}

    def status(self, request_id: str) -> dict[str, Any] | None:
        """As `RequestsInterface.status`."""
        ticket = self._session.ledger().tickets.get(request_id)
        return self._describe(ticket) if ticket is not None else None

    def cancel(self, request_id: str) -> dict[str, Any] | None:
        """As `RequestsInterface.cancel`."""
        ticket = cancel_request(self._session, request_id, self._clock)
        return self._describe(ticket) if ticket is not None else None

    def news_of(self, request_ids: Collection[str]) -> dict[str, News]:
        """What there is to tell about these requests, by id; only of those that were accepted."""
        found = {}
        # These before the log: so nothing is told without the evidence that is written in between.
        running, reporting = self.running, self.reporting
        ledger = self._session.ledger()
        unreported = reporting & ledger.unreported.keys()
        for ticket in filter(None, map(ledger.tickets.get, request_ids)):
            if ticket.final and (ticket.request_id in running or ticket.request_id in unreported):
                continue  # its batch goes on, or its evidence comes next, of which there may be something to tell too
            state = self._describe(ticket)
            phase = "in_progress" if state["request_status"] == "in_progress" else ticket.state.value
            if ticket.state is State.ACCEPTED and ticket.approved_by is not None:
                phase = "approved"
            found[ticket.request_id] = News(f"{phase} {iso(ticket.waits_from)}", ticket.final, state)
        return found

    def approve(self, request_id: str, by: str) -> dict[str, Any] | None:
        """As `RequestsInterface.approve`."""
        ticket = approve_request(self._session, request_id, by)
        self.arrived.set()
        self._wake_sender()
        return self._describe(ticket) if ticket is not None else None

    def requests(self, query: RequestQuery) -> dict[str, Any]:
        """As `DeskInterface.requests`."""
        tickets, after = self._listing.page(self._session.ledger(), query, self._deadline)
        return {"requests": [self._describe(ticket) for ticket in tickets], "next": after}

    def timeline(self, request_id: str) -> dict[str, Any] | None:
        """As `DeskInterface.timeline`."""
        ledger = self._session.ledger()
        ticket = ledger.tickets.get(request_id)
        if ticket is None:
            return None
        documents = list_documents(self._session, ledger, request_id)
        written = first_receipt_written(self._session, request_id) if request_id in ledger.evidence else None
        steps = timeline(ticket, ledger.steps.get(request_id, ()), written)
        return {"request": self._describe(ticket), "steps": steps, "documents": documents}

    def document(self, request_id: str, name: str) -> Document | None:
        """As `DeskInterface.document`."""
        ledger = self._session.ledger()
        known = request_id in ledger.tickets and DOCUMENT.fullmatch(name)
        return read_document(self._session, ledger, request_id, name) if known else None

    def preview(self, new: NewRequest) -> dict[str, Any]:
        """As `DeskInterface.preview`. It reads shards, so there is one at a time.

        Raises:
            TimeoutError: others look for PREVIEW_SECONDS; a thread that waited longer would be missed elsewhere.
        """
        if not self._previewing.acquire(timeout=PREVIEW_SECONDS):
            raise TimeoutError("another preview is being made")
        try:
            request = self._request(new, self._session.request_key(create=False))
            version = able_version(self._session)
            return preview_request(self._session, version, request, self._session.id_maps)[0]
        finally:
            self._previewing.release()

    def versions(self, before: int | None, limit: int) -> dict[str, Any]:
        """As `DeskInterface.versions`."""
        return self._overview.versions(before, limit)

    def suppressed(self) -> dict[str, Any]:
        """As `DeskInterface.suppressed`."""
        return self._overview.suppressed()

    def view(self) -> View:
        """The open and the overdue requests, and the current version."""
        ledger = self._session.ledger()
        waiting, unreported = list(ledger.open.values()), dict(ledger.unreported)
        return View(waiting, self._overdue(ledger), ledger.current, unreported, ledger.switching)

    def gauges(self) -> dict[str, float]:
        """Name and labels -> value, for `/metrics`; no id."""
        ledger = self._session.ledger()
        waiting = ledger.unanswered()
        return {
            "open_requests": len(waiting),
            "held_requests": ledger.counts[State.HELD],
            "failed_requests": ledger.counts[State.FAILED],
            "oldest_open_request_seconds": oldest_age(waiting, self._clock()),
            "overdue_requests": len(self._overdue(ledger)),
            "evidence_failed_requests": len(ledger.evidence_failed),
            "unreported_requests": len(ledger.unreported),
            "versions_committed_total": ledger.versions,
            "current_version": ledger.current.version if ledger.current else 0,
            "unlearning_debt_ratio": ledger.debt(),
            "needs_retrain": int(ledger.needs_retrain()),
            **{f'requests_total{{state="{state.value}"}}': ledger.counts[state] for state in State if state in FINAL},
        }

    def _overdue(self, ledger: Ledger) -> list[Ticket]:
        return overdue(ledger.unanswered(), self._clock(), self._deadline)

    def _write_callbacks(self, request_id: str, callback_urls: Sequence[str], content: str) -> None:
        """Write down the callback URLs.

        This comes before the acceptance, so that no crash leaves an accepted request without them.
        """
        if self._outbox is not None and callback_urls:
            self._outbox.add(request_id, callback_urls, content)

    def _wake_sender(self) -> None:
        if self._outbox is not None:
            self._outbox.wake.set()

    @contextmanager
    def _counted_as_open(self, request_id: str) -> Iterator[None]:
        """Count a request as open while it is being accepted.

        Raises:
            TooMany: the limit is reached.
        """
        with self._lock:
            # Both under the lock, so that each sees the others: in `_arriving` until they are in the ledger.
            open_now = self._session.ledger(look=False).open.copy()
            arriving = sum(one not in open_now and one != request_id for one in self._arriving)
            wait = retry_after(open_now.values(), self._clock(), self._grace, self._limit, arriving)
            if wait is not None:
                raise TooMany(wait)
            self._arriving[request_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._arriving[request_id] -= 1
                self._arriving += Counter()  # without those at zero

    def _request(self, new: NewRequest, key: bytes) -> Request:
        """The request in canonical form, under the id that it is given or that its content has now."""
        invalid = ("",) * new.invalid  # texts among the rows are rows that mean nothing
        request = make_request(new.users, new.items, new.interactions, new.request_id, key, new.ranges, invalid)
        return under_current_id(self._session, request) if new.request_id is None else request

    @cached_property
    def _key(self) -> bytes:
        return self._session.request_key()

    def _describe(self, ticket: Ticket) -> dict[str, Any]:
        running = ticket.state is State.ACCEPTED and ticket.request_id in self.running
        window_end, due = ticket.waits_from + self._grace, due_by(ticket, self._deadline)
        waits = ticket.state is State.ACCEPTED and may_cancel(ticket, self._clock(), self._grace)
        return {
            **ticket.describe(),
            "subject_request_id": ticket.request_id,
            "request_status": "in_progress" if running else OPENDSR.get(ticket.state, "completed"),
            "received_time": iso(ticket.accepted_at),
            **({"cancellable_until": iso(window_end)} if waits else {}),
            **({} if due is None else {"expected_completion_time": due}),
        }
