"""Requests that are held because they would delete too much: who lets them be carried out, and who withdraws them."""

from __future__ import annotations

import re
import time
from typing import Any

from ...partitioning.errors import InputError
from ..config.schema import Config
from ..log.records import APPROVED, CANCELLED
from ..output.ledger import State, Ticket
from ..output.session import Session
from .acceptance import advance
from .decisions import may_cancel

OPERATOR = re.compile(r"[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*")
LONGEST_NAME = 128
"""What may name an operator in the log."""


class Held(InputError):
    """A request waits for somebody's approval."""

    def __init__(self, request_id: str, share: float, max_share: float) -> None:
        super().__init__(
            f"request {request_id} removes {share:.2%} of the interactions, more than forget.max_share={max_share:g}, and "
            f"is held: nothing was deleted. Let somebody else look at it and run `unlearnrec approve {request_id} --by "
            f"NAME`, then this command again; or `unlearnrec cancel {request_id}`"
        )


class NotApproved(InputError):
    """The request is not held, or not this person's to approve."""


def check_operator(option: str, name: str | None) -> None:
    """Raise InputError for a name that the log cannot hold; None is none."""
    if name is not None and (len(name) > LONGEST_NAME or not OPERATOR.fullmatch(name)):
        raise InputError(f"{option} {name!r}: use 1 to {LONGEST_NAME} characters on one line, not only spaces")


def approve(config: Config, request_id: str, *, by: str) -> dict[str, Any]:
    """Let a held request be carried out, by `serve` or by the same `forget` again. Once approved it stays so.

    by: the operator's name, which the log keeps. It must not be the requester's.

    Raises:
        NotApproved: it is not held, or `by` asked for it.
        InputError: no such request, or a bad name.
    """
    session = Session(config)
    ticket = approve_held(session, request_id, by)
    if ticket is None:
        raise unknown(config, request_id)
    return ticket.describe()


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


def cancel(config: Config, request_id: str) -> dict[str, Any]:
    """Withdraw a request that is held, or in its grace window; again changes nothing.

    Raises:
        InputError: no such request, or it is too late.
    """
    session, grace = Session(config), config.forget.grace_seconds
    advance(session, request_id, CANCELLED, {}, allowed=lambda ticket: may_cancel(ticket, time.time(), grace))
    ticket = session.ledger().tickets.get(request_id)
    if ticket is None:
        raise unknown(config, request_id)
    if ticket.state is not State.CANCELLED:
        raise InputError(
            f"request {request_id} is {ticket.state.value}: only one that is held, or in its grace window "
            "(forget.grace_seconds), can be cancelled"
        )
    return ticket.describe()


def unknown(config: Config, request_id: str) -> InputError:
    """What to raise for an id that the log does not have."""
    return InputError(f"{config.output} has no request {request_id!r}. Check the id and `output`")
