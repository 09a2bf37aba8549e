"""`approve`: let a held request be carried out."""

from __future__ import annotations

from typing import Any

from ..config.schema import Config
from ..lifecycle.operators import approve_request
from ..lifecycle.refusals import unknown_request
from ..output.session import Session


def approve(config: Config, request_id: str, *, by: str) -> dict[str, Any]:
    """Approve a held request, which `serve` or the same `forget` again then carries out. An approval cannot be withdrawn.

    by: the operator's name, which the log keeps. It must not be the requester's name.

    Raises:
        NotApproved: the request is not held, or `by` is who asked for it.
        InputError: there is no such request, or the name is not allowed.
    """
    ticket = approve_request(Session(config), request_id, by)
    if ticket is None:
        raise unknown_request(config, request_id)
    return ticket.describe()
