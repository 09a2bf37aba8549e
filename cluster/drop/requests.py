"""The deletion requests of work items: their ids, their acceptance, and their cancellation."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
from collections.abc import Collection
from dataclasses import replace
from itertools import count

from ..lifecycle.acceptance import accept, append_step, check_same, read_accepted, stored_content, under_current_id
from ..lifecycle.refusals import TakenId, UnreadableRequest
from ..log.records import CANCELLED
from ..output.ledger import Ledger
from ..output.session import Session
from ..output.tickets import OPEN, State, Ticket
from ..requests.request import Request, make_request

REQUESTER = "California DROP"
OTHER_USERS = "its identifier leads to other users than its request names"
CAME_BACK = "an ingest began after its request was carried out, and the table leads to no user any more"


def request_id_of(work_item: str, key: bytes) -> str:
    """The id of the request for a work item.

    The id of a work item is permanent, and so is this one. It is derived under a key, so that the log does not tell the work
    item. It has small letters only, because some file systems do not tell small letters from capital ones.
    """
    return f"drop-{hmac.new(key, b'drop' + work_item.encode(), hashlib.sha256).hexdigest()[:24]}"


def latest(ledger: Ledger, request_id: str) -> Ticket | None:
    """The ticket of the last request for a work item; None where it has no request.

    request_id: that of `request_id_of`. After an ingest there may be requests with ID-2, ID-3, ... (`Ledger.derived_id`).
    """
    ticket = ledger.tickets.get(request_id)
    for n in count(2):
        later = ledger.tickets.get(f"{request_id}-{n}")
        if later is None:
            return ticket
        ticket = later
    raise AssertionError


def cancel(session: Session, request_id: str) -> str:
    """Cancel the request for a work item that was taken back.

    Returns "cancelled", "too_late", or "unknown" where there is no request.
    """
    ticket = latest(session.ledger(look=False), request_id)
    if ticket is None:
        return "unknown"
    # Whatever the grace window says: the consumer took the work item back, and nothing was removed yet.
    append_step(session, ticket.request_id, CANCELLED, {}, allowed=lambda ticket: ticket.state in OPEN)
    ended = session.ledger(look=False).tickets[ticket.request_id]
    return "cancelled" if ended.state is State.CANCELLED else "too_late"


def ensure(session: Session, request_id: str, users: Collection[str], key: bytes, ingest_head: int) -> str | None:
    """Accept a request for a work item whose users are to be forgotten, unless it has one that still counts.

    Returns None, or the reason why there can be no request.

    users: the ids of those whom its identifier leads to, without exempt ones; empty where the table does not have them any
    more. key: that of the output's derived ids. ingest_head: the head of the log when the last ingest began. A request that
    was carried out before does not count any more, because the ingest may have brought the data back.
    """
    ticket = latest(session.ledger(look=False), request_id)
    if ticket is None:
        accept(session, make_request(users, [], [], request_id, key), REQUESTER)
        return None
    if ticket.state is State.CANCELLED or ticket.state in OPEN:
        return None
    # Otherwise the answer would say of other users that they were deleted.
    if users and not _same_users(session, ticket, users, key):
        return OTHER_USERS
    if ticket.state is State.FAILED:
        if users:
            accept(session, make_request(users, [], [], ticket.request_id, key), REQUESTER)
        return None
    if ticket.closed_at > ingest_head:
        return None
    request = make_request(users, [], [], request_id, key) if users else _stored(session, ticket, request_id)
    if request is None:
        return CAME_BACK
    again = under_current_id(session, request)
    if session.ledger(look=False).tickets.get(again.request_id) is None:
        accept(session, again, REQUESTER)
    return None


def _same_users(session: Session, ticket: Ticket, users: Collection[str], key: bytes) -> bool:
    """Whether the request names all of these users.

    Of a request whose content was purged, only the whole content can be compared: the users must then be exactly its own.
    """
    if (named := _stored(session, ticket, ticket.request_id)) is not None:
        return set(users) <= set(map(str, named.users))
    content = session.store.read(session.ledger(look=False).content_name(ticket.request_id))
    with contextlib.suppress(TakenId):
        check_same(session, json.loads(content), make_request(users, [], [], ticket.request_id, key))
        return True
    return False


def _stored(session: Session, ticket: Ticket, request_id: str) -> Request | None:
    """The content of a request, under the id `request_id`; None where the content was purged or cannot be read."""
    with contextlib.suppress(UnreadableRequest):
        if stored_content(session, ticket.request_id) is not None:
            return replace(read_accepted(session, ticket), request_id=request_id)
    return None
