"""What operators can do to a request that is not carried out yet: approve it if it is held, or cancel it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from ...partitioning.errors import InputError
from ..log.records import APPROVED, CANCELLED
from ..output.session import Session
from ..output.tickets import State, Ticket
from .acceptance import append_step
from .decisions import may_cancel
from .refusals import NotApproved, TooLate

OPERATOR = re.compile(r"[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*")
LONGEST_NAME = 128
"""An operator's name in the log matches OPERATOR and has at most so many characters."""


def check_operator(option: str, name: str | None) -> None:
    """Raise InputError for a name that cannot be an operator's in the log; None, for no name, is accepted.

    option: the option that gives the name, for the message.
    """
    if name is not None and (len(name) > LONGEST_NAME or not OPERATOR.fullmatch(name)):
        raise InputError(f"{option} {name!r}: use 1 to {LONGEST_NAME} characters on one line, not only spaces")


def approve_request(session: Session, request_id: str, by: str) -> Ticket | None:
    """Approve a request that is held, so that it is carried out. Approving it again changes nothing.

    Returns:
        The ticket after the approval; None if there is no such request.

    Raises:
        NotApproved: the request is not held, or `by` is who asked for it.
        InputError: `by` cannot be an operator's name.
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
    """Cancel a request that is held or in its grace window. Cancelling it again changes nothing.

    Returns:
        The ticket of the cancelled request; None if there is no such request.

    Raises:
        TooLate: the request is neither held nor in its grace window.
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
