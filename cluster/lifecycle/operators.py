"""What operators do to a request that is not carried out yet: approve one that is held, or cancel it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from ...partitioning.errors import InputError
from ..log.records import APPROVED, CANCELLED
from ..output.ledger import State, Ticket
from ..output.session import Session
from .acceptance import append_step
from .decisions import may_cancel
from .refusals import NotApproved, TooLate

OPERATOR = re.compile(r"[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*")
LONGEST_NAME = 128
"""What may name an operator in the log."""


def check_operator(option: str, name: str | None) -> None:
    """Raise InputError for a name that the log cannot hold; None is none."""
    if name is not None and (len(name) > LONGEST_NAME or not OPERATOR.fullmatch(name)):
        raise InputError(f"{option} {name!r}: use 1 to {LONGEST_NAME} characters on one line, not only spaces")


def approve_request(session: Session, request_id: str, by: str) -> Ticket | None:
    """Let a held request be carried out; approving it again changes nothing.

    Returns:
        The request after its approval; None if nobody made it.

    Raises:
        NotApproved: it is not held, or `by` asked for it.
        InputError: a bad name.
    """
    check_operator("--by", by)
    own = False

    def allowed(ticket: Ticket) -> bool:
        nonlocal own
        own = ticket.requester is not None and ticket.requester.casefold() == by.casefold()
        return ticket.state is State.HELD and not own

    append_step(session, request_id, APPROVED, {"by": by}, allowed=allowed)
    ticket = session.ledger().tickets.get(request_id)
    if ticket is not None and ticket.approved_by is None:
        why = (
            f"{by} asked for it: somebody else has to approve it"
            if own
            else f"it is {ticket.state.value}, and only a request that is held waits for an approval"
        )
        raise NotApproved(f"request {request_id}: {why}")
    return ticket


def cancel_request(session: Session, request_id: str, clock: Callable[[], float] = time.time) -> Ticket | None:
    """Cancel a request that is held, or in its grace window; cancelling it again changes nothing.

    Returns:
        The cancelled request; None if nobody made it.

    Raises:
        TooLate: it is neither held nor in its grace window.
    """
    grace = session.config.forget.grace_seconds
    append_step(session, request_id, CANCELLED, {}, allowed=lambda ticket: may_cancel(ticket, clock(), grace))
    ticket = session.ledger().tickets.get(request_id)
    if ticket is not None and ticket.state is not State.CANCELLED:
        raise TooLate(
            f"request {request_id} is {ticket.state.value}: only one that is held, or in its grace window "
            "(forget.grace_seconds), can be cancelled"
        )
    return ticket
