"""`status`: say how far requests have come."""

from __future__ import annotations

import time
from typing import Any

from ..config.schema import Config
from ..lifecycle.decisions import due_by, oldest_age, overdue
from ..lifecycle.refusals import unknown_request
from ..output.session import Session


def status(config: Config, request_id: str | None = None) -> dict[str, Any]:
    """The status of a request, with its phase and the version that it made. Without an id: all requests that have no answer
    yet.

    Raises:
        InputError: there is no such request.
    """
    ledger = Session(config).ledger()
    now, deadline = time.time(), config.forget.deadline_hours * 3600
    if request_id is not None:
        ticket = ledger.tickets.get(request_id)
        if ticket is None:
            raise unknown_request(config, request_id)
        due = due_by(ticket, deadline)
        return ticket.describe() | ({} if due is None else {"due_by": due})
    waiting = ledger.unanswered()
    late = {ticket.request_id for ticket in overdue(waiting, now, deadline)}
    return {
        "open_requests": len(waiting),
        "overdue_requests": len(late),
        "oldest_open_request_seconds": oldest_age(waiting, now),
        "version": ledger.current.version if ledger.current else None,
        "needs_retrain": ledger.needs_retrain(),
        "requests": [
            {
                "request_id": ticket.request_id,
                "status": ticket.state.value,
                "age_hours": (now - ticket.accepted_at) / 3600,
                "due_by": due_by(ticket, deadline),
                "overdue": ticket.request_id in late,
            }
            for ticket in waiting
        ],
    }
