"""`cancel`: withdraw a request."""

from __future__ import annotations

import time
from typing import Any

from ...partitioning.errors import InputError
from ..config.schema import Config
from ..lifecycle.acceptance import advance
from ..lifecycle.decisions import may_cancel
from ..lifecycle.refusals import unknown
from ..log.records import CANCELLED
from ..output.ledger import State
from ..output.session import Session


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
