"""Requests that are held because they would delete too much: who lets them be carried out, and who withdraws them."""

from __future__ import annotations

import re

from ...partitioning.errors import InputError
from ..log.records import APPROVED
from ..output.ledger import State, Ticket
from ..output.session import Session
from .acceptance import advance
from .refusals import NotApproved

OPERATOR = re.compile(r"[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*")
LONGEST_NAME = 128
"""What may name an operator in the log."""


def check_operator(option: str, name: str | None) -> None:
    """Raise InputError for a name that the log cannot hold; None is none."""
    if name is not None and (len(name) > LONGEST_NAME or not OPERATOR.fullmatch(name)):
        raise InputError(f"{option} {name!r}: use 1 to {LONGEST_NAME} characters on one line, not only spaces")


def approve_held(session: Session, request_id: str, by: str) -> Ticket | None:
    """The request after its approval; None if nobody made it.

    Raises:
        NotApproved: as `approve`.
        InputError: a bad name.
    """
    check_operator("--by", by)
    own = False

    def allowed(ticket: Ticket) -> bool:
        nonlocal own
        own = ticket.requester is not None and ticket.requester.casefold() == by.casefold()
        return ticket.state is State.HELD and not own

    advance(session, request_id, APPROVED, {"by": by}, allowed=allowed)
    ticket = session.ledger().tickets.get(request_id)
    if ticket is not None and ticket.approved_by is None:
        why = (
            f"{by} asked for it: somebody else has to approve it"
            if own
            else f"it is {ticket.state.value}, and only a request that is held waits for an approval"
        )
        raise NotApproved(f"request {request_id}: {why}")
    return ticket
