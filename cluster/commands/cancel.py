"""`cancel`: withdraw a request that is not carried out yet."""

from __future__ import annotations

from typing import Any

from ..config.schema import Config
from ..lifecycle.operators import cancel_request
from ..lifecycle.refusals import unknown_request
from ..output.session import Session


def cancel(config: Config, request_id: str) -> dict[str, Any]:
    """Cancel a request that is held or in its grace window. Cancelling it again changes nothing.

    Raises:
        TooLate: the request is neither held nor in its grace window.
        InputError: there is no such request.
    """
    ticket = cancel_request(Session(config), request_id)
    if ticket is None:
        raise unknown_request(config, request_id)
    return ticket.describe()
