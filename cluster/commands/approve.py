"""`approve`: let a held request be carried out."""

from __future__ import annotations

from typing import Any

from ..config.schema import Config
from ..lifecycle.operators import approve_request
from ..lifecycle.refusals import unknown_request
from ..output.session import Session


def approve(config: Config, request_id: str, *, by: str) -> dict[str, Any]:
    """Let a held request be carried out, by `serve` or by the same `forget` again. Once approved it stays so.

    by: the operator's name, which the log keeps. It must not be the requester's.

    Raises:
        NotApproved: it is not held, or `by` asked for it.
        InputError: no such request, or a bad name.
    """
    ticket = approve_request(Session(config), request_id, by)
    if ticket is None:
        raise unknown_request(config, request_id)
    return ticket.describe()
